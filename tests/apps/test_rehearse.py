"""Recipes rehearsed: small ones always, every full-scale preset once in a while."""

import json
import time

import pytest

from lucida.apps.rehearse import rehearsal
from lucida.apps.rehearse.parts import make_tokenizer, shrink
from lucida.apps.rehearse.records import COUNT, texts, write_source
from lucida.core.errors import RecipeError, RunError
from lucida.core.recipe import load_recipe, presets
from lucida.core.spec import Recipe
from lucida.data.sources import open_source
from lucida.model.configs import encoder_shape, language_shape

FULL_SCALE = [name for name in presets() if not name.startswith("mini") and "-mini" not in name]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))


def signature(name: str) -> str:
    """What a rehearsal of a preset depends on: sizes of parts alone make no difference."""
    recipe = load_recipe(name)
    values = recipe.model_dump(mode="json", exclude={"name", "description", "sources", "family"})
    language = values["model"]["language"]
    language["path"] = language_shape(language["path"]).model_type
    for part in [values["model"]["vision"], *values["model"]["vision"]["more"]]:
        config, pixels = encoder_shape(part["path"])
        part["path"] = [config.model_type, config.image_size, config.patch_size, pixels.size]
    for stage in values["stages"]:
        stage["budget"] = stage["batch"]["samples"] = None
    return json.dumps(values, sort_keys=True)


DIFFERENT = list({signature(name): name for name in reversed(FULL_SCALE)}.values())[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_a_full_scale_recipe_is_rehearsed(name, tmp_path):
    begun = time.process_time()
    run = rehearsal.rehearse(load_recipe(name), tmp_path / "rehearsal")
    results = json.loads((run / "results.json").read_text())
    # What only a judge scores is asked, and its answers are counted.
    asked = {*results["tasks"], *results.get("judged", {})}
    assert asked == set(load_recipe(name).evaluation.tasks)
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [row["stage"] for row in rows if "loss" in row]
    wanted = [stage.name for stage in load_recipe(name).stages]
    assert steps == [each for each in wanted for _ in range(rehearsal.STEPS)]
    assert time.process_time() - begun < 300


@pytest.mark.parametrize("name", ["llava-1.5-7b", "vila-7b", "nanovlm-222m"])
def test_every_record_that_is_made_can_be_read(name, tmp_path):
    """Of LLaVA's layout, MMC4's pages and shards with scores."""
    for stage in load_recipe(name).stages:
        for spec in stage.mixture.sources.values():
            written = write_source(spec.model_dump(mode="json"), tmp_path)
            source = open_source(type(spec).model_validate(written))
            assert len(source) >= COUNT * 0.2
            samples = [source[number] for number in range(len(source))]
            assert any(sample.images for sample in samples)


def test_small_parts_keep_their_kind():
    config, _ = encoder_shape("openai/clip-vit-large-patch14-336")
    small = shrink(config, heads=4)
    assert type(small) is type(config) and small.image_size == 336 and small.patch_size == 14
    assert (small.hidden_size, small.num_hidden_layers) == (64, 3)
    tokenizer = make_tokenizer("qwen2", "Qwen/Qwen2.5-0.5B", texts())
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") != tokenizer.unk_token_id
    assert tokenizer.bos_token is None and len(tokenizer("What is this?").input_ids) < 13


def test_a_recipe_of_the_miniature_world_with_its_blind_baseline(tmp_path):
    """Not slow: one rehearsal always runs; the next one makes its folder anew."""
    changes = [
        "precision=fp32",
        "blind={steps: 50}",
        "evaluation.tasks=[attribute]",
        "evaluation.baselines=[]",
    ]
    recipe = load_recipe("mini-short", changes)
    run = rehearsal.rehearse(recipe, tmp_path / "rehearsal")
    assert set(json.loads((run / "results.json").read_text())["tasks"]) == {"attribute"}
    rows = (run / "blind" / "metrics.jsonl").read_text().splitlines()
    assert sum("grad_norm" in row for row in rows) == rehearsal.STEPS
    rehearsal.clear(tmp_path / "rehearsal")
    assert not run.exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="something else than a rehearsal"):
        rehearsal.rehearse(load_recipe("llava-1.5-7b"), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_cannot_be_rehearsed(tmp_path):
    values = load_recipe("mini").model_dump(mode="json", by_alias=True)
    values["model"]["from"] = "runs/other"
    with pytest.raises(RecipeError, match="begins with the parts"):
        rehearsal.rehearse(Recipe.model_validate(values), tmp_path / "a")
    with pytest.raises(RunError, match="of the kind lines cannot be made"):
        write_source({"kind": "lines", "path": "x.jsonl"}, tmp_path)
