"""A run that was stopped on two processes goes on on another number of them: the same samples in
the same steps, the same losses, the same weights."""

import json
import shutil

import pytest
from ranks import on_ranks
from safetensors.torch import load_file
from tiny_training import tiny_recipe
from torch.testing import assert_close

from lucida.core.spec import Recipe
from lucida.training.loop import train_run

pytestmark = pytest.mark.slow
STEPS, STOPPED = 12, 8
"""Of both stages; the checkpoint that is left when all ranks die in front of step 10."""


def elastic(parts, kind: str) -> Recipe:
    """Two stages, the second with adapters and micro-batches, whose samples do not divide evenly
    among three ranks or four."""
    values = tiny_recipe(parts, language="language-plain").model_dump(mode="json")
    values["engine"]["kind"] = kind
    values["stages"][0]["batch"] = {"samples": 6}
    values["stages"][1]["batch"] = {"samples": 10, "accumulate": 2}
    values["stages"][1]["lora"] = {"rate": 1e-3, "rank": 3, "targets": ["language"]}
    values["stages"][1]["train"] = {"projector": 1e-3}
    return Recipe.model_validate(values)


def read_steps(folder) -> list[dict]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "loss" in row]


def read_samples(folder, world: int) -> dict[int, list[str]]:
    """Step → the samples that all ranks together read for it."""
    read: dict[int, list[str]] = {}
    for rank in range(world):
        file = folder.parent / f"{folder.name}-read{rank}.jsonl"
        for step, origins in map(json.loads, file.read_text().splitlines()):
            read.setdefault(step, []).extend(origins)
    return {step: sorted(origins) for step, origins in read.items()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_saved_on_two_continued_on_three_four_and_one(parts, tmp_path, kind):
    ours = elastic(parts, kind)
    on_ranks(ours, tmp_path / "whole", world=1)
    whole, read = read_steps(tmp_path / "whole"), read_samples(tmp_path / "whole", 1)
    assert [len(read[step]) for step in range(STEPS)] == [6] * 5 + [10] * 7
    on_ranks(ours, tmp_path / "two", die_at=9, expected=9)
    for world in (3, 4, 1):
        folder = tmp_path / f"on{world}"
        shutil.copytree(tmp_path / "two", folder)
        told = on_ranks(ours, folder, world)
        assert f"going on from step {STOPPED}" in told and f"processes 2 → {world}" in told
        again = read_samples(folder, world)
        assert again == {step: read[step] for step in range(STOPPED, STEPS)}
        for mine, theirs in zip(whole, read_steps(folder), strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            counted = ("total_step", "samples", "tokens", "supervised", "lr", "sources")
            assert [mine[key] for key in counted] == [theirs[key] for key in counted]
        kept = load_file(folder / "model.safetensors")
        for name, value in load_file(tmp_path / "whole" / "model.safetensors").items():
            assert_close(value, kept[name], atol=2e-5, rtol=0, msg=f"{world} ranks: {name}")


def test_from_one_engine_to_the_other_and_back(parts, tmp_path):
    """Plain weights and moments stand between them."""
    ours, other = elastic(parts, "ddp"), elastic(parts, "fsdp")
    whole = train_run(ours, tmp_path / "whole")
    folder = tmp_path / "run"
    on_ranks(ours, folder, die_at=7, expected=9)
    on_ranks(other, folder, 3, die_at=10, expected=9)
    told = on_ranks(ours, folder)
    assert "going on from step 8" in told
    kept = load_file(folder / "model.safetensors")
    for name, value in load_file(whole / "model.safetensors").items():
        assert_close(value, kept[name], atol=2e-5, rtol=0, msg=name)
