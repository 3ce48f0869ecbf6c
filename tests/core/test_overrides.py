"""Overrides: lists by name or index, mappings, kinds, and refusals that say what exists."""

from __future__ import annotations

import pytest
from recipe_files import refusal, written

from lucida.core.errors import RecipeError
from lucida.core.fields import shape
from lucida.core.recipe import diff_recipes, dump_recipe, load_recipe
from lucida.core.spec import ModelSpec
from lucida.core.spec.data import LlavaSourceSpec

MINI = load_recipe("mini")


def stage(*overrides):
    return load_recipe("mini", overrides).stages[0]


@pytest.mark.parametrize("name", ["sft", "0"])
def test_a_list_item_is_found_by_name_or_index(name):
    assert stage(f"stages.{name}.optim.warmup=0.25").optim.warmup == 0.25


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_a_learning_rate_is_a_number_however_written(text):
    assert stage(f"stages.sft.train.language={text}").train["language"] == 0.001


def test_a_pattern_with_dots_is_one_key():
    assert stage("stages.sft.train.language.layers.*=1e-4").train["language.layers.*"] == 1e-4


def test_a_source_is_found_by_name_and_a_new_one_added_whole():
    assert stage("stages.sft.mixture.sources.world.count=7").mixture.sources["world"].count == 7
    sources = stage("stages.sft.mixture.sources.more={kind: world, tasks: [x]}").mixture.sources
    assert sources["more"].tasks == ["x"]


def test_a_source_name_may_hold_dots(tmp_path):
    text = load_recipe("mini").model_dump_json().replace('"world":', '"world.v1":')
    path = tmp_path / "dotted.yaml"
    path.write_text(text)
    recipe = load_recipe(path, ["stages.sft.mixture.sources.world.v1.count=7"])
    assert recipe.stages[0].mixture.sources["world.v1"].count == 7


SWITCHES = ["model.projector.kind=linear", "model.projector=linear"]


@pytest.mark.parametrize("override", SWITCHES)
def test_a_new_kind_never_drops_a_choice_of_the_recipe(override, tmp_path):
    """The same from the command line, in `changes`, and in a recipe written out."""
    key, value = override.split("=")
    changes = written(tmp_path, f"base: mini\nname: x\nchanges: {{{key}: {value}}}", "x.yaml")
    for message in (refusal("mini", [override]), refusal(changes)):
        assert "the kind linear has no `norm`, `position`" in message
        assert "model.projector={kind: linear} starts without" in message
    whole = dump_recipe(MINI).replace("kind: mlp", "kind: linear")
    for key in ("norm", "position"):
        assert f"model.projector.{key}" in refusal(written(tmp_path, whole))


@pytest.mark.parametrize("override", SWITCHES)
@pytest.mark.parametrize("dumped", [False, True])
def test_a_new_kind_takes_the_place_of_one_without_choices(override, dumped, tmp_path):
    name = "mini"
    plain = ["model.projector={kind: mlp, depth: 2}"]
    if dumped:
        name, plain = written(tmp_path, dump_recipe(load_recipe(name, plain))), []
    assert load_recipe(name, [*plain, override]).model.projector.model_dump() == {"kind": "linear"}


def test_a_new_kind_alone_is_written_as_a_mapping():
    recipe = load_recipe("mini", ["model.projector={kind: linear}"])
    assert recipe.model.projector.model_dump() == {"kind": "linear"}


def test_every_tagged_union_keeps_what_both_kinds_have_and_refuses_what_one_lacks():
    """Whatever kinds there are, projectors, sources and those to come: the rule reads the specs."""
    data = MINI.model_dump(mode="json")
    here = data["model"]["projector"]
    kinds = shape(ModelSpec.model_fields["projector"].annotation).specs
    for kind, spec in kinds.items():
        lost = {"norm", "position"} - spec.model_fields.keys()
        if lost:
            assert all(f"`{key}`" in refusal("mini", [f"model.projector={kind}"]) for key in lost)
        else:
            assert load_recipe("mini", [f"model.projector={kind}"]).model.projector.norm
    assert here["norm"]


def test_the_same_kind_again_drops_nothing():
    assert load_recipe("mini", ["model.projector=mlp"]) == MINI


def test_a_new_kind_keeps_the_keys_that_both_have():
    changed = stage(
        "stages.sft.mixture.sources.world={kind: text, path: x.json, weight: 3, documents: lines}",
        "stages.sft.mixture.sources.world=llava",
    )
    assert changed.mixture.sources["world"] == LlavaSourceSpec(path="x.json", weight=3.0)


def test_a_slip_in_the_file_is_not_hidden_by_a_new_kind(tmp_path):
    path = tmp_path / "slip.yaml"
    path.write_text(MINI.model_dump_json().replace('"depth":2', '"dpeth":2'))
    with pytest.raises(RecipeError, match="dpeth"):
        load_recipe(
            path,
            [
                "model.projector.norm=false",
                "model.projector.position=false",
                "model.projector=linear",
            ],
        )


def test_what_the_file_leaves_out_can_be_set():
    assert stage("stages.sft.batch.pack=false").batch.pack is False
    assert load_recipe("mini", ["model.image.policy=crop"]).model.image.policy == "crop"


def test_a_field_below_a_default_kind_can_be_set(tmp_path):
    values = MINI.model_dump(mode="json")
    del values["model"]["projector"]
    path = tmp_path / "plain.yaml"
    path.write_text(str(values).replace("None", "null").replace("True", "true"))
    assert load_recipe(path, ["model.projector.depth=3"]).model.projector.depth == 3


def test_null_takes_a_part_away_and_a_key_below_brings_it_back():
    assert load_recipe("mini", ["blind=null"]).blind is None
    assert load_recipe("mini", ["blind=null", "blind.steps=3"]).blind.steps == 3


def test_later_overrides_win():
    assert load_recipe("mini", ["seed=1", "seed=2"]).seed == 2


def test_an_override_changes_nothing_else():
    assert diff_recipes(MINI, load_recipe("mini", ["seed=1"])) == ["seed: 0 -> 1"]


def test_a_stage_that_shares_an_anchor_is_changed_alone(tmp_path):
    path = tmp_path / "anchored.yaml"
    path.write_text(
        """
name: anchored
model: {vision: null, language: {path: x}}
stages:
  - {name: one, train: {language: 1}, mixture: &m {sources: {w: {kind: world, tasks: [a]}}},
     budget: {steps: 1}}
  - {name: two, train: {language: 1}, mixture: *m, budget: {steps: 1}}
"""
    )
    recipe = load_recipe(path, ["stages.one.mixture.sources.w.count=9"])
    counts = [each.mixture.sources["w"].count for each in recipe.stages]
    assert counts == [9, 4096]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "expected key=value"),
        ("=1", "expected key=value"),
        ("a..b=1", "unknown key `a`"),
        ("seed.x=1", "seed is a plain value; it has no `x`"),
        ("stages.stf.seed=1", "did you mean `sft`?"),
        ("stages.1.name=x", "(or 0 to 0)"),
        ("stages.-1.name=x", "stages has no entry `-1`"),
        ("model.projector=liner", "unknown kind `liner`; did you mean `linear`?"),
        ("model.projektor.kind=mlp", "did you mean `projector`?"),
        ("stages.sft.mixture.sources.wold.count=1", "did you mean `world`?"),
        ("seed=[1", "not YAML"),
        ("seed=&a [*a]", "nested too deeply"),
        ("seed=!!int abc", "`abc` does not fit its tag !!int"),
        ("seed=!!timestamp 2020-99-99", "the tag !!timestamp has no meaning"),
        ("seed=9223372036854775808", "64 bits are the most"),
        ("seed=0xfffffffffffffffff", "64 bits are the most"),
        ("seed='5'", "expected a whole number >= 0, got '5'"),
        ("seed=1e30", "expected a whole number >= 0, got 1e+30"),
        ('description="a\\0"', "may not hold the character"),
        ("stages.sft.train.a\0=1", "a key may not hold the character"),
        ("seed=true", "expected a whole number >= 0, got true"),
        ("stages.sft.train.vision=.inf", "expected a number or `frozen`, got inf"),
        ("stages=3", "expected a list of mappings with at least 1 entry, got 3"),
    ],
)
def test_a_wrong_override_is_refused_in_words(override, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe("mini", [override])
    assert words in str(caught.value)
    assert f"override {override}" in str(caught.value)


def test_wrong_overrides_are_reported_together():
    with pytest.raises(RecipeError) as caught:
        load_recipe("mini", ["sead=1", "model.projector=x", "stages.sft.budget.steps=0"])
    assert "3 mistakes" in str(caught.value)
