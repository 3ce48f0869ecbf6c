"""Whole runs on tiny parts: what they promise about folders, faults and equalities."""

import errno
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_recipe

import lucida
from lucida.core.errors import DataError, RecipeError, RunError
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.model.checkpoint import build, load
from lucida.training import precision, state
from lucida.training.blind import blind_recipe
from lucida.training.folder import check_folder
from lucida.training.loop import train_run
from lucida.training.precision import Comparison
from lucida.training.reading import read_checkpoint
from lucida.training.state import checkpoints


def changed(recipe: Recipe, stages=None, **changes) -> Recipe:
    """The recipe with other values; `stages` changes every stage."""
    values = recipe.model_dump(mode="json") | changes
    for stage in values["stages"]:
        for key, value in (stages or {}).items():
            stage[key] = stage[key] | value if isinstance(value, dict) else value
    return Recipe.model_validate(values)


def records(folder, key="loss") -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_close(a, b, tolerance):
    a, b = weights(a), weights(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0, msg=name)


def steady(parts) -> Recipe:
    """Without dropout, which would fall differently when a step is cut, and at a constant rate."""
    recipe = tiny_recipe(parts, language="language-plain")
    return changed(recipe, {"optim": {"schedule": "constant"}})


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory):
    """Runs to compare with, trained once: `tiny` is the recipe of these tests, `steady` the other.
    Whoever reads them leaves them as they are."""
    root = tmp_path_factory.mktemp("finished")
    recipes = {"tiny": tiny_recipe(parts), "steady": steady(parts)}
    with pytest.MonkeyPatch.context() as context:
        context.setenv("LUCIDA_CACHE", str(root / "cache"))
        return {name: train_run(recipe, root / name) for name, recipe in recipes.items()}


def test_a_run_trains_records_and_saves(recipe, tmp_path):
    folder = train_run(recipe, tmp_path / "run", "lucida train tiny")
    steps = records(folder)
    assert [(r["stage"], r["step"]) for r in steps] == [
        *(("align", step) for step in range(1, 6)),
        *(("sft", step) for step in range(1, 8)),
    ]
    assert steps[-1]["loss"] < steps[5]["loss"]  # by 2% with each of 20 seeds
    assert steps[-1]["samples"] == 48 and steps[-1]["seconds"] > 0
    assert all(0 <= r["data_wait"] <= 1 and r["tokens_per_second"] > 0 for r in steps)
    assert all(sum(r["sources"].values()) == 4 for r in steps)
    assert len(records(folder, "validation_loss")) == 4
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["precision"].startswith("fp32")
    model, _ = load(folder)
    assert {n for n, _ in model.named_parameters()} <= set(weights(folder)) | {
        "language.lm_head.weight"
    }


def test_frozen_parts_are_those_of_the_parts(recipe, finished):
    torch.manual_seed(recipe.seed)
    before = dict(build(recipe.model)[0].named_parameters())
    after = weights(finished["tiny"])
    for name, value in after.items():
        if name in before:
            assert torch.equal(value, before[name]) == name.startswith("vision."), name


def test_the_same_recipe_gives_the_same_weights(recipe, tmp_path, finished):
    first, second = finished["tiny"], train_run(recipe, tmp_path / "again")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_validation_leaves_no_trace(recipe, tmp_path):
    often = train_run(changed(recipe, {"validate_every": 1}), tmp_path / "often")
    seldom = train_run(changed(recipe, {"validate_every": None}), tmp_path / "seldom")
    assert len(records(often, "validation_loss")) == 12
    assert len(records(seldom, "validation_loss")) == 2
    assert (often / "model.safetensors").read_bytes() == (seldom / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "batch",
    [{"pack": False}, {"accumulate": 2}, {"accumulate": 4, "pack": False}, {"workers": 1}],
    ids=str,
)
def test_how_a_step_is_cut_does_not_change_the_weights(parts, tmp_path, batch, finished):
    whole = finished["steady"]
    cut = train_run(changed(steady(parts), {"batch": batch}), tmp_path / "cut")
    assert_close(whole, cut, 2e-5)
    for a, b in zip(records(whole), records(cut), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert (a["tokens"], a["supervised"]) == (b["tokens"], b["supervised"])


def test_cached_features_train_like_live_ones(recipe, tmp_path):
    cached = train_run(recipe, tmp_path / "cached")
    live = train_run(changed(recipe, {"batch": {"cache_features": False}}), tmp_path / "live")
    assert len(list((tmp_path / "cache").rglob("features.bin"))) == 1
    for a, b in zip(records(cached), records(live), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-3)  # the cache rounds to fp16


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_low_precision_trains_and_keeps_fp32_weights(recipe, tmp_path, half, capfd, finished):
    folder = train_run(changed(recipe, precision=half), tmp_path / "run")
    reference = finished["tiny"]
    assert f"precision: {half} on cpu" in capfd.readouterr().err
    assert {value.dtype for value in weights(folder).values()} == {torch.float32}
    moved = [record["loss"] for record in records(folder) if not record["skipped"]]
    # Over 9 seeds at most 0.0003 apart.
    assert moved[-1] == pytest.approx(records(reference)[-1]["loss"], abs=0.1)


@pytest.mark.parametrize("begun", ["bf16", "fp32"])
def test_a_run_goes_on_in_the_precision_that_it_began_with(
    recipe, tmp_path, monkeypatch, capfd, begun
):
    """Where it goes on the other one is faster; so for its blind baseline, begun there."""
    free = changed(recipe, precision="auto", blind={"steps": 2})
    quick, slow = Comparison("bf16", 1.0, 2.0), Comparison("bf16", 9.0, 1.0)
    here, there = (quick, slow) if begun == "bf16" else (slow, quick)
    save, calls = state.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(tensors, path)

    with monkeypatch.context() as context:
        context.setattr(precision, "compare", lambda name: here)
        context.setattr(state, "save_file", full)
        with pytest.raises(RunError, match="disk is full"):
            train_run(free, tmp_path / "run")
        assert f"precision: {begun} on cpu: a trial step takes" in capfd.readouterr().err
    monkeypatch.setattr(precision, "compare", lambda name: there)
    folder = train_run(free, tmp_path / "run")
    said = capfd.readouterr().err
    assert said.count(f"precision: {begun} on cpu: the run began with it") == 2
    assert ("9.0 ms in bf16" in said) == (begun == "bf16"), "told where it is slow"
    for place in (folder, folder / "blind"):
        newest = checkpoints(place)[-1]
        assert read_checkpoint(newest, len(free.stages)).setting.precision == begun


def test_a_changed_recipe_is_refused_with_the_difference(recipe, tmp_path):
    folder = train_run(recipe, tmp_path / "run")
    with pytest.raises(RunError, match="another recipe") as error:
        train_run(changed(recipe, seed=6), folder)
    assert "seed" in str(error.value) and "5" in str(error.value) and "6" in str(error.value)


def test_a_run_that_failed_before_its_first_checkpoint_begins_anew(
    recipe, tmp_path, finished, capfd
):
    wild = changed(recipe, {"train": {"projector": 1e-3, "language": 1e30}}, seed=8)
    with pytest.raises(RunError, match="not finite"):
        train_run(wild, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    run.metrics.append({"retention": {}, "stage": "align", "step": 0, "total_step": 0})
    (run.path / "lengths-align.npz").write_bytes(b"of other data")
    capfd.readouterr()
    train_run(recipe, run.path)
    said = capfd.readouterr().err
    assert "begun anew, nothing had been trained with" in said and "seed: 8 -> 5" in said
    assert run.recipe == recipe
    assert not records(run.path, "retention")
    assert json.loads(run.environment_file.read_text())["resumed"] == []
    for name, value in weights(finished["tiny"]).items():
        assert torch.equal(weights(run.path)[name], value)


@pytest.mark.parametrize(
    "left",
    ["checkpoints/step-000001/state.json", "checkpoints/other/x", "blind/recipe.yaml",
     "model.safetensors", "config.json", "adapter/x", "results.json", "report.html"],
)  # fmt: skip
def test_whatever_another_recipe_has_trained_is_kept(recipe, tmp_path, left):
    run = RunFolder(tmp_path / "run").prepare()
    run.write_recipe(recipe)
    run.metrics.append({"step": 1})
    (run.path / left).parent.mkdir(parents=True, exist_ok=True)
    (run.path / left).write_text("kept")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="begun with another recipe"):
        check_folder(run, changed(recipe, seed=6))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_number_that_is_not_finite_stops_the_run_before_it_spreads(recipe, tmp_path):
    wild = changed(recipe, {"train": {"projector": 1e-3, "language": 1e30}})
    with pytest.raises(RunError, match="first whose output is not finite") as error:
        train_run(wild, tmp_path / "run")
    assert "pictures.json" in str(error.value)
    assert len(records(tmp_path / "run")) == 1
    assert not checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(
    recipe, tmp_path, monkeypatch, finished
):
    whole = finished["tiny"]
    write, calls = state.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(tensors, path)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(RunError, match="disk is full"):
        train_run(recipe, tmp_path / "run")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-000003"]
    monkeypatch.setattr(state, "save_file", write)
    again = train_run(recipe, tmp_path / "run")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [r["total_step"] for r in records(again)] == list(range(1, 13))


def test_a_folder_that_cannot_be_written_is_refused_before_anything_loads(recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError):
        train_run(recipe, tmp_path / "file" / "run")


def test_somebody_elses_model_is_not_overwritten(recipe, parts):
    before = (parts / "vision" / "config.json").read_bytes()
    with pytest.raises(RunError, match="not from a run"):
        train_run(recipe, parts / "vision")
    assert (parts / "vision" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"train": {"projector": 1e-3, "vison": 1e-4}}, RecipeError, "'vison'.*vision"),
        ({"optim": {"warmup": 50}}, RecipeError, "warm-up"),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_the_first_step(
    recipe, tmp_path, change, error, words
):
    values = recipe.model_dump(mode="json")
    for key, value in change.items():
        values["stages"][1][key] |= value
    with pytest.raises(error, match=words):
        train_run(Recipe.model_validate(values), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    train_run(recipe, tmp_path / "run")  # a corrected recipe is not a changed one


def test_a_missing_source_is_named(recipe, tmp_path):
    nowhere = {"sources": {"pictures": {"kind": "llava", "path": str(tmp_path / "nowhere.json")}}}
    with pytest.raises(DataError, match=r"nowhere\.json"):
        train_run(changed(recipe, {"mixture": nowhere}), tmp_path / "run")


def test_the_blind_baseline_trains_without_images(recipe, tmp_path):
    blind = blind_recipe(changed(recipe, blind={"steps": 2}))
    assert [(stage.name, stage.train) for stage in blind.stages] == [
        ("sft", {"language": 1e-3, "*.norm": 1e-4})
    ]
    folder = train_run(blind, tmp_path / "blind")
    assert [record["step"] for record in records(folder)] == [1, 2]
    assert load(folder)[0].vision is None


def test_training_from_python(recipe, tmp_path):
    assert lucida.train(recipe, tmp_path / "run") == tmp_path / "run"
    assert (tmp_path / "run" / "config.json").exists()


def test_several_sources_have_a_loss_each_and_a_stage_may_weigh_answers(
    recipe, parts, tmp_path, finished
):
    pictures = recipe.stages[0].mixture.sources["pictures"].model_dump()
    sources = {"some": pictures | {"weight": 2}, "more": pictures | {"weight": 1}}
    two = changed(recipe, {"mixture": {"sources": sources}, "objective": {"weighting": "square"}})
    for record in records(train_run(two, tmp_path / "two")):
        losses, tokens = record["source_loss"], record["source_supervised"]
        assert sum(tokens.values()) == record["supervised"]
        assert tokens.keys() == losses.keys() <= record["sources"].keys()
        whole = sum(losses[name] * tokens[name] for name in tokens) / record["supervised"]
        assert record["token_loss"] == pytest.approx(whole, rel=1e-6)
        assert record["loss"] != record["token_loss"]
    assert "source_loss" not in records(finished["tiny"])[0]
