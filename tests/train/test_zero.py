"""DeepSpeed's ZeRO on two processes trains like one of ours: losses, weights, resumption."""

import shutil
from importlib.util import find_spec

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from test_elastic import elastic, read_samples
from test_engine import assert_same, mixed, plain, records
from tiny_training import logits, tiny_recipe, watching

from lucida.apps.export.write import export
from lucida.core.errors import RecipeError, RunError
from lucida.core.spec import EngineSpec, Recipe
from lucida.model.checkpoint import load
from lucida.training.loop import train_run
from lucida.training.run import choose_engine
from lucida.training.zero import check_recipe

INSTALLED = find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not INSTALLED, reason="pip install 'lucida[deepspeed]'")


def zero(recipe: Recipe, **values) -> Recipe:
    """The recipe under DeepSpeed; `values` of `engine.zero`, or of the recipe itself."""
    own = {name: values.pop(name) for name in ("stage", "offload") if name in values}
    whole = recipe.model_dump(mode="json") | values
    whole["engine"] |= {"kind": "deepspeed", "zero": own}
    return Recipe.model_validate(whole)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("offload", [False, True], ids=["on-device", "offloaded"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_equal_one_after_twenty_steps(parts, tmp_path, stage, offload):
    """Two stages, micro-batches, clipping and decay; the losses, norms and weights of one."""
    ours = plain(
        parts,
        batch={"samples": 5, "accumulate": 2},
        optim={"clip": 0.5, "weight_decay": 0.1, "schedule": "constant"},
        budget={"steps": 10},
    )
    one = train_run(ours, tmp_path / "one")
    told = on_ranks(zero(ours, stage=stage, offload=offload), tmp_path / "two")
    assert "engine: deepspeed, 2 processes" in told
    assert_same(one, tmp_path / "two")
    norms = [[row["grad_norm"] for row in records(each)] for each in (one, tmp_path / "two")]
    assert len(norms[0]) == 20 and norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "trained"), [(1, "vision"), (2, "vision"), (2, "projector"), (3, "projector")]
)
def test_ranks_with_text_alone_neither_hang_nor_differ(parts, tmp_path, stage, trained):
    """In some steps no rank has a picture: a trained encoder then stays as it is."""
    train = {trained: 1e-3, "language": 1e-3}
    batch = {"samples": 2}
    ours = plain(parts, train=train, mixture=mixed(parts, tmp_path), batch=batch)
    one = train_run(ours, tmp_path / "one")
    on_ranks(zero(ours, stage=stage), tmp_path / "two")
    assert_same(one, tmp_path / "two")


ADAPTED = {
    "train": {"projector": 1e-3, "language.model.norm": 1e-3},
    "lora": {"rate": 1e-3, "rank": 3, "targets": ["language"]},
    "evaluate_every": 2,
}


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "values"),
    [(2, ADAPTED), (3, ADAPTED), (3, {})],
    ids=["adapters-2", "adapters-3", "weights-3"],
)
def test_a_run_that_died_goes_on_on_any_number_of_ranks(parts, tmp_path, stage, values):
    """Two ranks die in the second stage, three go on and die, FSDP goes on on two and dies, one
    process of ours brings it to the end; an observer asks the model on the way."""
    ours = plain(parts, **values)
    whole = train_run(ours, tmp_path / "whole", observers=watching(logits))
    folder, cut = tmp_path / "run", zero(ours, stage=stage)
    on_ranks(cut, folder, die_at=7, expected=9)
    told = on_ranks(cut, folder, 3, die_at=9, expected=9)
    assert "going on from step 5" in told and "processes 2 → 3" in told
    on_ranks(plain(parts, "fsdp", **values), folder, die_at=10, expected=9)
    told = on_ranks(cut, folder, die_at=11, expected=9)
    assert "going on from step 8" in told
    train_run(ours, folder, observers=watching(logits))
    assert_same(whole, folder)
    seen = [
        [record["evaluation"]["logits"] for record in records(each, "evaluation")]
        for each in (whole, folder)
    ]
    assert seen[0] == pytest.approx(seen[1], abs=1e-4)


@pytest.mark.slow
@needs_deepspeed
def test_saved_on_two_continued_on_three_four_and_one(parts, tmp_path):
    """The same samples in the same steps, and a model that is exported whole."""
    ours = elastic(parts, "auto")
    on_ranks(ours, tmp_path / "whole", world=1)
    read = read_samples(tmp_path / "whole", 1)
    on_ranks(zero(ours, stage=2), tmp_path / "two", die_at=9, expected=9)
    for world in (3, 4, 1):
        folder = tmp_path / f"on{world}"
        shutil.copytree(tmp_path / "two", folder)
        told = on_ranks(zero(ours, stage=2), folder, world)
        assert "going on from step 8" in told and f"processes 2 → {world}" in told
        assert read_samples(folder, world) == {step: read[step] for step in range(8, 12)}
        assert_same(tmp_path / "whole", folder)
    export(tmp_path / "on3", tmp_path / "exported")
    kept = load(tmp_path / "on3")[0].state_dict()
    for name, value in load(tmp_path / "exported")[0].state_dict().items():
        assert torch.equal(value, kept[name]), name


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_layers_computed_again(parts, tmp_path, stage):
    ours = plain(parts, batch={"samples": 4, "checkpointing": "full"})
    one = train_run(ours, tmp_path / "one")
    on_ranks(zero(ours, stage=stage), tmp_path / "two")
    assert_same(one, tmp_path / "two")


@pytest.mark.slow
@needs_deepspeed
def test_half_precision_and_the_best_of_a_stage(parts, tmp_path):
    """bf16 products beside fp32 weights, and a stage that ends with its best weights."""
    ending = {"by": "loss", "weights": "best"}
    ours = plain(parts, ending=ending, validation={"share": 0.2}, validate_every=2)
    values = ours.model_dump(mode="json") | {"precision": "bf16"}
    ours = Recipe.model_validate(values)
    one = train_run(ours, tmp_path / "one")
    on_ranks(zero(ours, stage=2), tmp_path / "two")
    for mine, theirs in zip(records(one), records(tmp_path / "two"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    chosen = [records(each, "ending")[-1]["ending"]["steps"] for each in (one, tmp_path / "two")]
    assert chosen[0] and chosen[1]
    kept = load_file(tmp_path / "two" / "model.safetensors")
    assert {str(value.dtype) for value in kept.values()} == {"torch.float32"}


@pytest.mark.slow
@needs_deepspeed
def test_numbers_that_are_not_finite_are_told_like_others(parts, tmp_path):
    ours = plain(parts, train={"projector": 1e30, "language": 1e30}, optim={"clip": None})
    told = on_ranks(zero(ours, stage=2), tmp_path / "two", expected=1)
    assert "training stopped: " in told and "not reproducibly" not in told


@pytest.fixture
def installed(monkeypatch):
    """As if DeepSpeed were there, for what is refused before it is imported."""
    monkeypatch.setattr("lucida.training.zero.find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stages": {"optim": {"kind": "muon"}}}, "stages.align.optim.kind=muon"),
        ({"precision": "fp16"}, "precision=fp16"),
        ({"engine": {"compile": True}}, "engine.compile=true"),
        ({"model": {"cross_attention": {"every": 1, "heads": 2}}}, "with model.cross_attention"),
        ({"stages": {"train": {"vision.last(1)": 1e-4}}}, "stages.align.train.vision.last(1)"),
    ],
    ids=["muon", "fp16", "compiled", "gated", "encoder"],
)
def test_what_it_is_not_used_with_is_refused(parts, installed, values, said):
    recipe = zero(tiny_recipe(parts), stage=3).model_dump(mode="json")
    for key, changes in values.items():
        if key == "stages":
            recipe["stages"] = [stage | changes for stage in recipe["stages"]]
        else:
            recipe[key] = recipe[key] | changes if isinstance(changes, dict) else changes
    with pytest.raises(RecipeError, match=r"engine\.kind=fsdp or ddp") as refused:
        check_recipe(Recipe.model_validate(recipe))
    assert said in str(refused.value)


def test_its_options_without_it():
    with pytest.raises(ValueError, match="zero belongs to kind=deepspeed"):
        EngineSpec.model_validate({"kind": "fsdp", "zero": {"stage": 2}})


def test_one_process_needs_no_deepspeed(parts, capfd):
    assert choose_engine(zero(tiny_recipe(parts), stage=3).engine).kind == "single"
    assert "engine deepspeed: one process" in capfd.readouterr().err


@pytest.mark.skipif(INSTALLED, reason="DeepSpeed is installed")
def test_that_it_is_missing_is_told_with_the_remedy(parts):
    with pytest.raises(RunError, match=r"pip install 'lucida\[deepspeed\]'"):
        check_recipe(zero(tiny_recipe(parts)))
