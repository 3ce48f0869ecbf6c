"""A run that goes on from a model: from a run, the end of a stage, an export or an import."""

import json
import shutil

import pytest
import torch
from tiny_training import tiny_recipe

from lucida.core.document import dump_document
from lucida.core.errors import LucidaError, RecipeError
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder
from lucida.core.spec import Recipe
from lucida.core.start import describe_origin, find_start
from lucida.model.blueprint import skeleton
from lucida.model.checkpoint import build, load, save
from lucida.training.loop import train_alone


@pytest.fixture(scope="module")
def begun(parts, tmp_path_factory):
    """A finished run of two stages, the end of the first kept."""
    first = tiny_recipe(parts).model_dump(mode="json")
    for stage in first["stages"]:
        stage["budget"] = {"steps": 2}
    first["stages"][0] |= {"keep": True, "template": "plain"}
    first["blind"] = None
    folder = tmp_path_factory.mktemp("begun") / "run"
    train_alone(Recipe.model_validate(first), folder)
    return folder


def go_on(parts, path, tmp_path, model=None, **changes):
    """A recipe file with one stage of two steps that goes on from a model, loaded."""
    values = tiny_recipe(parts).model_dump(mode="json")
    stage = values["stages"][-1] | {"name": "more", "budget": {"steps": 2}}
    model = {"from": str(path)} | (model or {})
    kept = {key: values[key] for key in ("seed", "precision", "threads")}
    recipe = {"name": "on", "model": model, "stages": [stage | changes], **kept}
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_document(recipe))
    return load_recipe(file)


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_design_is_that_of_the_run(parts, begun, tmp_path):
    recipe = go_on(parts, begun, tmp_path)
    assert recipe.model == RunFolder(begun).recipe.model.model_copy(update={"from": str(begun)})
    assert_equal(tensors(build(recipe.model)[0]), tensors(load(begun)[0]))


def test_a_stage_end_holds_the_weights_of_that_stage(parts, begun, tmp_path):
    """The same as of a run of that stage alone, asked in that stage's template."""
    recipe = go_on(parts, f"{begun}@align", tmp_path)
    assert find_start(f"{begun}@align") == begun / "stages" / "align"
    assert find_start(f"{begun}@sft") == begun
    alone = RunFolder(begun).recipe.model_dump(mode="json")
    alone["stages"] = alone["stages"][:1]
    alone["stages"][0]["keep"] = False
    train_alone(Recipe.model_validate(alone), tmp_path / "alone")
    expected, given = load(tmp_path / "alone")[0], build(recipe.model)[0]
    assert_equal(tensors(given), tensors(expected))
    assert recipe.model.language.template == "plain"
    assert given.config.spec == expected.config.spec


def test_training_goes_on_from_those_weights(parts, begun, tmp_path):
    recipe = go_on(parts, begun, tmp_path, train={"projector": 1e-3})
    train_alone(recipe, tmp_path / "run")
    before, after = tensors(load(begun)[0]), tensors(load(tmp_path / "run")[0])
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector"}
    told = RunFolder(tmp_path / "run").environment_entry["start"]
    assert told["recipe"] == "tiny"
    assert told["stages"] == ["align", "sft"]
    assert "went on from" not in describe_origin(recipe.model)
    third = go_on(parts, tmp_path / "run", tmp_path)
    assert f"recipe on, stages more), which went on from {begun}" in describe_origin(third.model)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["spec"]["from"] is None


def test_a_stopped_run_needs_its_start_unchanged(parts, begun, tmp_path):
    """A run that went on from a model resumes bit for bit, and notices another model there."""
    start = shutil.copytree(begun, tmp_path / "start")
    recipe = go_on(parts, start, tmp_path, budget={"steps": 4}, checkpoint_every=2)
    whole = train_alone(recipe, tmp_path / "whole")
    half = tmp_path / "half"
    train_alone(recipe, half, observers=())
    for name in ("config.json", "model.safetensors"):
        (half / name).unlink()
    train_alone(recipe, half)
    assert_equal(tensors(load(whole)[0]), tensors(load(half)[0]))
    (half / "config.json").unlink()
    model, processor = load(start)
    with torch.no_grad():
        next(model.projector.parameters()).add_(1)
    save(model, processor, start)
    with pytest.raises(LucidaError, match=r"model\.from"):
        train_alone(recipe, half)


def test_what_differs_is_refused_with_both_values(parts, begun, tmp_path):
    model = {"projector": {"kind": "linear"}, "image": {"policy": "crop"}}
    recipe = go_on(parts, begun, tmp_path, model)
    for look in (build, skeleton):
        with pytest.raises(RecipeError) as problem:
            look(recipe.model)
        told = str(problem.value)
        assert "model.projector.kind: 'mlp' in the saved model, 'linear' in the recipe" in told
        assert "model.image.policy: 'letterbox' in the saved model, 'crop' in the recipe" in told


def test_how_it_is_asked_may_change(parts, begun, tmp_path):
    model = {
        "language": {"template": "prismatic", "max_length": 99},
        "attention_mask": "image_block",
    }
    recipe = go_on(parts, begun, tmp_path, model)
    built, processor = build(recipe.model)
    assert (processor.template, processor.max_length) == ("prismatic", 99)
    assert built.mask == "image_block"
    assert built.config.model_spec.language.template == "prismatic"


def test_the_language_model_goes_on_alone(parts, begun, tmp_path):
    recipe = go_on(parts, begun, tmp_path, {"vision": None})
    built, _ = build(recipe.model)
    assert built.vision is None
    assert built.projector is None
    saved = load(begun)[0]
    assert_equal(tensors(built.language), tensors(saved.language))
    assert skeleton(recipe.model).vision is None


def test_the_skeleton_has_the_names_and_shapes(parts, begun, tmp_path):
    recipe = go_on(parts, begun, tmp_path)
    expected = {name: tuple(each.shape) for name, each in build(recipe.model)[0].named_parameters()}
    found = {name: tuple(each.shape) for name, each in skeleton(recipe.model).named_parameters()}
    assert found == expected


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere", "there is no such folder"),
        ("{run}@algin", "did you mean `align`"),
        ("{other}@align", "stages.align.keep=true"),
        ("{unfinished}", "this run is not finished"),
        ("{empty}", "holds no model"),
        ("{llava}", "lucida import"),
    ],
)
def test_what_is_no_start_is_refused(parts, begun, tmp_path, path, told):
    places = {name: tmp_path / name for name in ("other", "unfinished", "empty", "llava")}
    shutil.copytree(begun, places["other"], ignore=shutil.ignore_patterns("stages"))
    for name in ("unfinished", "empty", "llava"):
        places[name].mkdir()
    shutil.copy(begun / "recipe.yaml", places["unfinished"])
    (places["llava"] / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(RecipeError, match=told):
        go_on(parts, path.format(run=begun, **places), tmp_path)


def test_a_whole_model_is_no_part(begun, parts):
    values = tiny_recipe(parts).model_dump(mode="json")
    values["model"]["language"]["path"] = str(begun)
    with pytest.raises(RecipeError, match=r"model\.from="):
        build(Recipe.model_validate(values).model)


def test_the_recipe_of_a_run_is_read_without_its_start(parts, begun, tmp_path):
    start = shutil.copytree(begun, tmp_path / "start")
    run = train_alone(go_on(parts, start, tmp_path), tmp_path / "run")
    shutil.rmtree(start)
    assert RunFolder(run).recipe.model.start == str(start)


def test_kept_ends_need_merged_adapters(parts):
    pytest.importorskip("peft")
    values = tiny_recipe(parts).model_dump(mode="json")
    for stage in values["stages"]:
        stage |= {"lora": {"rate": 1e-3, "rank": 2}, "train": {}}
    values["stages"][0]["keep"] = True
    with pytest.raises(ValueError, match="its adapters go on"):
        Recipe.model_validate(values)
    values["stages"][1]["lora"]["rank"] = 4
    assert Recipe.model_validate(values).stages[0].keep


def test_plan_inspect_and_data_verbs_see_the_same_model(parts, begun, tmp_path):
    """Shapes, tokens and provenance without the weights."""
    from lucida.apps.inspect.look import look
    from lucida.apps.inspect.page import page
    from lucida.apps.plan.devices import find_device
    from lucida.apps.plan.estimate import plan_recipe
    from lucida.apps.weightless import weightless_processor
    from lucida.data.sources import open_source

    recipe = go_on(parts, begun, tmp_path)
    model, processor = build(recipe.model)
    planned = plan_recipe(recipe, find_device("cpu"))
    language = sum(weight.numel() for weight in model.language.parameters())
    assert planned["modules"]["language"] == language
    assert planned["tokens_per_image"]["one_view"] == 4
    seen = look(recipe, shown=1)
    assert f"from {begun} (recipe tiny, stages align, sft)" in page(seen)
    light = weightless_processor(recipe, recipe.stages[0])
    sample = open_source(recipe.stages[0].mixture.sources["pictures"])[0]
    given, expected = light.encode(sample), processor.encode(sample)
    assert given.input_ids.tolist() == expected.input_ids.tolist()
