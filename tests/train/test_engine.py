"""Two processes train like one: the same stream, the same gradient, the same weights."""

import json
import shutil
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from tiny_training import logits, tiny_recipe, watching
from torch import distributed
from torch.distributed.tensor import DTensor

from lucida.core.errors import RecipeError
from lucida.core.spec import EngineSpec, Recipe
from lucida.model.checkpoint import build
from lucida.training.engine import Engine
from lucida.training.loop import train_run
from lucida.training.precision import Precision
from lucida.training.run import choose_engine
from lucida.training.sharding import Sharded


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
        {"optim": {"kind": "muon", "schedule": "constant"}},
    ],
    ids=["packed", "accumulated", "computed-again", "adapters", "muon"],
)
def test_two_ranks_equal_one(parts, tmp_path, stage):
    ours = plain(parts, **stage)
    one = train_run(ours, tmp_path / "one")
    told = on_ranks(ours, tmp_path / "two")
    assert "engine: ddp, 2 processes" in told
    assert_same(one, tmp_path / "two")


@pytest.mark.slow
def test_two_ranks_train_the_blind_baseline_too(parts, tmp_path):
    """Its run has a folder of its own, and the processes have met already."""
    values = plain(parts, budget={"steps": 1}).model_dump(mode="json")
    on_ranks(Recipe.model_validate(values | {"blind": {"steps": 1}}), tmp_path / "two")
    assert (tmp_path / "two" / "blind" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        {"train": {"projector": 1e-3, "language": 1e-3, "vision": 1e-3}},
        {"batch": {"samples": 5, "accumulate": 2}, "optim": {"clip": 0.01, "weight_decay": 0.1}},
        {"batch": {"samples": 4, "checkpointing": "full"}},
        {"optim": {"kind": "muon", "clip": 0.01, "weight_decay": 0.1}},
    ],
    ids=["encoder", "accumulated-and-clipped", "computed-again", "muon"],
)
def test_two_sharded_ranks_equal_one(parts, tmp_path, stage):
    ours = plain(parts, "fsdp", **stage)
    one = train_run(ours, tmp_path / "one")
    told = on_ranks(ours, tmp_path / "two")
    assert "engine: fsdp, 2 processes" in told
    assert_same(one, tmp_path / "two")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("how", ["none", "full"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_compiled_ranks_equal_one_that_is_not(parts, tmp_path, kind, how):
    """Layers compiled, and computed again around that, within weights that ranks share."""
    ours = plain(parts, kind, batch={"samples": 4, "checkpointing": how}, budget={"steps": 3})
    ours = ours.model_copy(update={"stages": ours.stages[1:]})  # each stage compiles anew
    one = train_run(ours, tmp_path / "one")
    compiled = ours.model_copy(update={"engine": EngineSpec(kind=kind, compile=True)})
    told = on_ranks(compiled, tmp_path / "two")
    assert f"engine: {kind}, 2 processes" in told and "going on without" not in told
    assert_same(one, tmp_path / "two")


ADAPTED = {
    "train": {"projector": 1e-3, "language.model.norm": 1e-3},
    "lora": {"rate": 1e-3, "rank": 3, "targets": ["language"]},
    "evaluate_every": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [ADAPTED, {}, {"optim": {"kind": "muon"}}], ids=["adapters", "weights", "muon"]
)
def test_a_sharded_run_that_died_goes_on_on_any_number_of_ranks(parts, tmp_path, stage):
    """Two ranks die in the second stage, two go on and die, one brings it to the end. On the way
    rank 0 alone asks the model."""
    ours = plain(parts, "fsdp", **stage)
    whole = train_run(ours, tmp_path / "whole", observers=watching(logits))
    folder = tmp_path / "run"
    on_ranks(ours, folder, die_at=9, expected=9)
    told = on_ranks(ours, folder, die_at=11, expected=9)
    assert "going on from step 8" in told
    train_run(ours, folder, observers=watching(logits))
    assert_same(whole, folder)
    seen = [
        [record["evaluation"]["logits"] for record in records(each, "evaluation")]
        for each in (whole, folder)
    ]
    assert len(seen[0]) == (5 if "evaluate_every" in stage else 0)
    assert seen[0] == pytest.approx(seen[1], abs=1e-4)


@pytest.mark.slow
def test_sharded_layers_may_be_gathered_in_half_precision(parts, tmp_path):
    values = plain(parts, "fsdp").model_dump(mode="json") | {"precision": "bf16"}
    ours = Recipe.model_validate(values)
    one = train_run(ours, tmp_path / "one")
    on_ranks(ours, tmp_path / "two")
    for mine, theirs in zip(records(one), records(tmp_path / "two"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)
    kept = load_file(tmp_path / "two" / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float32}


@pytest.mark.slow
def test_sharded_gated_layers_and_ranks_with_text_alone(parts, tmp_path):
    """Behind gates that are nearly closed a first gradient is smaller than AdamW's epsilon. There
    rounding, 1e-10, moves a weight by half a percent of its rate, as it does in one process
    whose step is summed in another order."""
    values = plain(
        parts,
        "fsdp",
        train={"projector": 1e-3, "cross_attention": 1e-2},
        mixture=mixed(parts, tmp_path),
        batch={"samples": 2},
    ).model_dump(mode="json")
    values["model"]["cross_attention"] = {"every": 1, "heads": 2}
    ours = Recipe.model_validate(values)
    one = train_run(ours, tmp_path / "one")
    on_ranks(ours, tmp_path / "two")
    assert_same(one, tmp_path / "two", tolerance=1e-4)  # a hundredth of the rate


@pytest.mark.slow
def test_sharded_numbers_that_are_not_finite_are_told_like_others(parts, tmp_path):
    ours = plain(parts, "fsdp", train={"projector": 1e30, "language": 1e30}, optim={"clip": None})
    told = on_ranks(ours, tmp_path / "two", expected=1)
    assert "training stopped: " in told and "not reproducibly" not in told


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


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["reset", "mrope", "mrope_interleaved"])
def test_positions_of_pictures_on_two_ranks_that_died(parts, tmp_path, positions):
    """Pictures and text alone, in both stages: two ranks train like one, and two that died in the
    second stage end with the weights of two that did not, to the bit."""
    values = plain(parts, mixture=mixed(parts, tmp_path)).model_dump(mode="json")
    values["model"]["language"]["positions"] = positions
    ours = Recipe.model_validate(values)
    one = train_run(ours, tmp_path / "one")
    on_ranks(ours, tmp_path / "two")
    assert_same(one, tmp_path / "two")
    on_ranks(ours, tmp_path / "died", die_at=8, expected=9)
    assert "going on from step 8" in on_ranks(ours, tmp_path / "died")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("two", "died")]
    assert weights[0] == weights[1]
    usual = train_run(plain(parts, mixture=mixed(parts, tmp_path)), tmp_path / "usual")
    assert records(usual)[-1]["loss"] != records(one)[-1]["loss"], "positions matter here"


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


def test_ranks_that_do_not_end_are_ended(parts, tmp_path):
    """Those of a test that hangs take nothing from the next one."""
    before = set(active_children())
    with pytest.raises(AssertionError, match="2 ranks had not ended after 0 s"):
        on_ranks(plain(parts), tmp_path / "run", seconds=0)
    assert set(active_children()) <= before


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
        train_run(again, folder, observers=watching(stop))
    from lucida.core.runs import RunFolder

    RunFolder(folder).write_recipe(recipe)


@pytest.fixture
def group():
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_copy_is_cut_into_parts_and_the_model_made_whole_again(parts, group):
    model, _ = build(tiny_recipe(parts).model)
    for weight in model.vision.parameters():
        weight.requires_grad_(False)
    classes = [type(module) for module in model.modules()]
    before = dict(model.named_parameters())
    values = {name: weight.detach().clone() for name, weight in before.items()}
    engine = Sharded()
    fp32 = Precision("fp32", torch.device("cpu"), "")

    def assert_plain():
        assert [type(module) for module in model.modules()] == classes
        assert not any(module._forward_pre_hooks for module in model.modules())
        for name, weight in model.named_parameters():
            assert weight is before[name] and torch.equal(weight, values[name])

    for _ in range(2):  # a stage, and the next one
        cut, _ = engine.prepare(model, fp32)
        for name, weight in cut.named_parameters():
            assert isinstance(weight, DTensor) != name.startswith("vision."), name
        assert cut.language.lm_head.weight is cut.language.get_input_embeddings().weight
        hollow = before["language.model.norm.weight"]  # its room is given back
        assert hollow.shape == (16,) and hollow.untyped_storage().nbytes() == 4
        with engine.whole(cut) as plain:
            assert plain is model
            assert_plain()
            model(input_ids=torch.arange(9)[None]).logits.sum().backward()
        assert hollow.untyped_storage().nbytes() == 4
        moved = next(name for name in before if name.startswith("projector."))
        with torch.no_grad():
            cut.get_parameter(moved).add_(1)
        values[moved] += 1
        engine.release()
        assert_plain()


def test_quantised_weights_are_not_cut(parts, group):
    model, _ = build(tiny_recipe(parts).model)
    layer = model.language.model.layers[1].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().char(), requires_grad=False)
    with pytest.raises(RecipeError, match=r"1 quantised layers, such as \S+mlp.up_proj"):
        Sharded().prepare(model, Precision("fp32", torch.device("cpu"), ""))


def test_which_engine(monkeypatch, capfd):
    assert type(choose_engine(EngineSpec())) is Engine
    assert type(choose_engine(EngineSpec(kind="single"))) is Engine
    for kind in ("ddp", "fsdp"):
        assert type(choose_engine(EngineSpec(kind=kind))) is Engine
        assert f"engine {kind}: one process" in capfd.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"engine\.kind=single and 2 processes"):
        choose_engine(EngineSpec(kind="single"))
