"""Two processes train like one: the same stream, the same gradient, the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_recipe

from lucida.core.errors import RecipeError
from lucida.core.spec import EngineSpec, Recipe
from lucida.train.engine import Engine, choose_engine
from lucida.train.loop import train_run

RANK = """
import sys
from pathlib import Path
from lucida.core.errors import LucidaError
from lucida.core.spec import Recipe
from lucida.train.loop import train_run

recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
try:
    train_run(recipe, Path(sys.argv[2]))
except LucidaError as error:
    print(error, file=sys.stderr, flush=True)
    sys.exit(1)
"""


def on_ranks(recipe: Recipe, folder: Path, world: int = 2) -> str:
    """Train under a launcher of our own, which sets what torchrun sets; what rank 0 said."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    file = folder.parent / f"{folder.name}.json"
    file.write_text(recipe.model_dump_json())
    common = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is the launcher's, as under torchrun
        "WORLD_SIZE": str(world),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(file), str(folder)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    told = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(told)
    return told[0]


def plain(parts, kind: str = "auto", **stage) -> Recipe:
    """The tiny recipe without dropout, so that ranks agree, and at a constant rate."""
    values = tiny_recipe(parts, language="language-plain").model_dump(mode="json")
    values["engine"]["kind"] = kind
    for each in values["stages"]:
        each["optim"]["schedule"] = "constant"
        each |= stage
    return Recipe.model_validate(values)


def records(folder, key="loss") -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


def assert_same(one, two, tolerance=2e-5):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0, msg=name)
    for mine, theirs in zip(records(one), records(two), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        counted = ("total_step", "samples", "tokens", "supervised", "lr")
        assert [mine[key] for key in counted] == [theirs[key] for key in counted]
        assert mine["sources"] == theirs["sources"]
        assert mine.get("source_supervised") == theirs.get("source_supervised")
        assert mine.get("source_loss") == pytest.approx(theirs.get("source_loss"), abs=1e-5)
    first, second = (records(folder, "validation_loss") for folder in (one, two))
    for mine, theirs in zip(first, second, strict=True):
        assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-5)


def mixed(parts, folder) -> dict:
    """Pictures, and text alone: with two ranks of one sample each, one often has no image."""
    text = [
        {"id": str(n), "conversations": [{"from": "human", "value": f"Say {n}."},
                                         {"from": "gpt", "value": f"It is {n}."}]}
        for n in range(30)
    ]  # fmt: skip
    file = folder / "text.json"
    file.write_text(json.dumps(text))
    pictures = str(parts / "pictures" / "pictures.json")
    return {
        "sources": {
            "pictures": {"kind": "llava", "path": pictures, "weight": 1},
            "text": {"kind": "llava", "path": str(file), "weight": 1},
        }
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        {},
        {"batch": {"samples": 5, "accumulate": 2}},
        {"batch": {"samples": 4, "checkpointing": "full"}},
        {"train": {}, "lora": {"rate": 1e-3, "rank": 2, "targets": ["language", "vision"]}},
    ],
    ids=["packed", "accumulated", "computed-again", "adapters"],
)
def test_two_ranks_equal_one(parts, tmp_path, stage):
    ours = plain(parts, **stage)
    one = train_run(ours, tmp_path / "one")
    told = on_ranks(ours, tmp_path / "two")
    assert "engine: ddp, 2 processes" in told
    assert_same(one, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        {"train": {"projector": 1e-3, "language": 1e-3, "vision": 1e-3}},
        {"batch": {"samples": 5, "accumulate": 2}, "optim": {"clip": 0.01, "weight_decay": 0.1}},
        {"batch": {"samples": 4, "checkpointing": "full"}},
        {"train": {"projector": 1e-3}, "lora": {"rate": 1e-3, "rank": 3, "targets": ["language"]}},
    ],
    ids=["encoder", "accumulated-and-clipped", "computed-again", "adapters"],
)
def test_two_sharded_ranks_equal_one(parts, tmp_path, stage):
    ours = plain(parts, kind="fsdp", **stage)
    one = train_run(ours, tmp_path / "one")
    told = on_ranks(ours, tmp_path / "two")
    assert "engine: fsdp, 2 processes" in told
    assert_same(one, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("trained", ["projector", "vision"])
def test_a_rank_with_text_alone_neither_hangs_nor_differs(parts, tmp_path, trained, kind):
    """A trained encoder is unused on that rank, and in some steps on both."""
    train = {trained: 1e-3, "language": 1e-3}
    batch = {"samples": 2}
    ours = plain(parts, kind, train=train, mixture=mixed(parts, tmp_path), batch=batch)
    one = train_run(ours, tmp_path / "one")
    on_ranks(ours, tmp_path / "two")
    assert_same(one, tmp_path / "two")


def test_two_ranks_go_on_as_one_and_one_as_two(parts, tmp_path):
    """Not slow: the one test of ranks that always runs."""
    ours = plain(parts, validate_every=None, mixture=mixed(parts, tmp_path))
    values = ours.model_dump(mode="json")
    values["stages"] = values["stages"][1:]
    ours = Recipe.model_validate(values)
    whole = train_run(ours, tmp_path / "whole")
    folder = tmp_path / "run"
    stop_after(ours, folder, 3)
    told = on_ranks(ours, folder)
    assert "going on from step 3" in told and "processes 1 → 2" in told
    assert_same(whole, folder)


def stop_after(recipe: Recipe, folder: Path, steps: int) -> None:
    """Train until the checkpoint at so many steps, and no further."""

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    watched = recipe.model_dump(mode="json")
    watched["stages"][0] |= {"checkpoint_every": steps, "evaluate_every": steps + 1}
    again = Recipe.model_validate(watched)
    with pytest.raises(Stopped):
        train_run(again, folder, watch=stop)
    from lucida.core.runs import RunFolder

    RunFolder(folder).write_recipe(recipe)


def test_which_engine(monkeypatch, capfd):
    assert type(choose_engine(EngineSpec())) is Engine
    assert type(choose_engine(EngineSpec(kind="single"))) is Engine
    choose_engine(EngineSpec(kind="ddp"))
    assert "torchrun" in capfd.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"engine\.kind=single and 2 processes"):
        choose_engine(EngineSpec(kind="single"))
