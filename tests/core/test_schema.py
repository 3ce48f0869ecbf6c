"""The printed schema accepts what `load_recipe` reads and refuses what it refuses."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from lucida.core.document import dump_document, parse_document, read_document
from lucida.core.recipe import PRESETS, dump_recipe, load_recipe, presets, schema
from lucida.core.spec import Recipe

FILES = sorted(PRESETS.glob("*.yaml"))
CHECK = Draft202012Validator(json.loads(json.dumps(schema())))


def mistakes(data):
    return [(list(each.absolute_path), each.message) for each in CHECK.iter_errors(data)]


def test_it_is_a_schema_and_describes_every_field_and_form():
    Draft202012Validator.check_schema(schema())
    forms = schema()["$defs"]
    assert forms["RecipeFile"]["properties"].keys() == Recipe.model_fields.keys()
    assert "bf16" in forms["RecipeFile"]["properties"]["precision"]["description"]
    assert forms["Difference"]["required"] == ["base"]
    assert forms["Family"]["required"] == ["family", "recipes"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_file_fits(path):
    assert mistakes(read_document(path).data) == []


@pytest.mark.parametrize("name", ["mini", "prism-dinosiglip+7b", "vila-7b", "nanovlm-450m"])
def test_a_dumped_recipe_fits(name):
    assert mistakes(parse_document(dump_recipe(load_recipe(name)), name).data) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_changed_key_of_a_shipped_file_is_refused(path):
    data = read_document(path).data
    inside = next(iter(data["recipes"].values())) if "recipes" in data else data
    inside["modle"] = 1
    assert any("modle" in message for _, message in mistakes(data))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("base: mini\nchange: {seed: 1}", []),
        ("base: 3", ["base"]),
        ("base: mini\nchanges: [seed]", ["changes"]),
        ("base: mini\nchanges: {seeed: 1}", ["changes"]),
        ("base: mini\nprovenance: me", ["provenance"]),
        ("family: F\nrecipes: {}", ["recipes"]),
        ("recipes: {a: {base: mini}}", []),
        ("family: F\nother: 1\nrecipes: {a: {base: mini}}", []),
        ("family: F\nrecipes: {a: 3}", ["recipes", "a"]),
        ("family: F\nrecipes: {A b: {base: mini}}", ["recipes"]),
        ("family: F\nrecipes: {a: {base: mini, seed: 3}}", ["recipes", "a"]),
        ("family: F\nrecipes: {a: {model: {vision: null}}}", ["recipes", "a"]),
        ("name: x", []),
    ],
)
def test_what_is_no_recipe_file_is_refused_at_its_place(text, place):
    assert place in [found for found, _ in mistakes(parse_document(text, "text").data)]


@pytest.mark.parametrize(
    "text",
    [
        "base: mini",
        "base: mini\nname: x\nchanges: {stages.sft.budget.steps: 3, model.projector: linear}",
        "family: F\nrecipes: {a: {base: mini}, b: {base: a, changes: {seed: 2}}}",
    ],
)
def test_every_form_fits(text):
    assert mistakes(parse_document(text, "text").data) == []


def test_a_family_of_whole_recipes_needs_no_names():
    whole = {k: v for k, v in read_document(PRESETS / "mini.yaml").data.items() if k != "name"}
    data = parse_document(dump_document({"family": "F", "recipes": {"a": whole}}), "text").data
    assert mistakes(data) == []
    assert mistakes(whole) != []
    assert len(presets()) > len(FILES)
