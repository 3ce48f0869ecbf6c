"""Recipes by named differences: what they unfold into, and what is refused with its line."""

from __future__ import annotations

import pytest
from recipe_files import refusal, written

from lucida.core.errors import RecipeError
from lucida.core.recipe import diff_recipes, dump_recipe, load_recipe

FAMILY = """\
family: Trials
recipes:
  first:
    base: mini-two-stage
    description: Without the first stage.
    provenance: reconstruction
    changes:
      stages.align: null
      model.projector: {kind: linear}
      stages.sft.budget: {steps: 7}
    sources:
      stages.sft.train: a guess
      stages.sft.budget.steps: another guess
  second:
    base: first
    changes:
      stages.sft.budget.steps: 9
"""


def test_a_difference_unfolds_into_a_whole_recipe(tmp_path):
    recipe = load_recipe(f"{written(tmp_path, FAMILY, 'trials.yaml')}#first")
    by_hand = load_recipe(
        "mini-two-stage",
        ["name=first", "description=Without the first stage.", "provenance=reconstruction",
         "stages.align=null", "model.projector={kind: linear}", "stages.sft.budget={steps: 7}",
         "sources={stages.sft.train: a guess, stages.sft.budget.steps: another guess}"],
    )  # fmt: skip
    assert diff_recipes(recipe, by_hand) == []
    assert recipe.description == by_hand.description


def test_a_difference_of_a_difference_keeps_notes_about_what_did_not_change(tmp_path):
    path = written(tmp_path, FAMILY, "trials.yaml")
    recipe = load_recipe(f"{path}#second", ["seed=4"])
    assert (recipe.name, recipe.description, recipe.seed) == ("second", "", 4)
    assert recipe.provenance == "reconstruction"
    assert recipe.stages[0].budget.steps == 9
    assert recipe.sources == {"stages.sft.train": "a guess"}
    assert load_recipe(f"{path}#first").stages[0].budget.steps == 7


def test_a_file_may_be_one_difference_and_its_base_another_file(tmp_path):
    family = written(tmp_path, FAMILY, "trials.yaml")
    text = f"base: {family.name}#second\nname: mine\nchanges: {{seed: 3}}\n"
    member = load_recipe(written(tmp_path, text, "member.yaml"))
    assert (member.seed, member.stages[0].budget.steps) == (3, 9)
    mine = written(tmp_path, "base: mini\nname: mine\nchanges: {seed: 3}\n", "mine.yaml")
    assert load_recipe(mine).seed == 3
    beside = written(tmp_path, "base: mine.yaml\nname: ours\n", "ours.yaml")
    assert (load_recipe(beside).name, load_recipe(beside).seed) == ("ours", 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: mni\nname: x\n", ["line 1", "did you mean `mini`?"]),
        ("base: 3\nname: x\n", ["line 1", "expected the name of a recipe"]),
        ("base: mini\nname: x\nchange: {seed: 1}\n", ["line 3", "did you mean `changes`?"]),
        ("base: mini\nname: x\nchanges: [seed]\n", ["line 3", "dotted keys"]),
        ("base: mini\nname: x\nchanges:\n  seeed: 1\n", ["line 4", "did you mean `seed`?"]),
        ("base: mini\nname: x\nchanges:\n  seed: one\n", ["line 4", "expected a whole number"]),
        (
            "base: mini\nname: x\nchanges:\n  stages.algn: null\n",
            ["line 4", "stages has no entry `algn`"],
        ),
        (
            "base: mini\nname: x\nchanges:\n  stages.sft.train.visoin: null\n",
            ["line 4", "no `visoin` to remove; did you mean `vision`?"],
        ),
        ("base: mini\nname: x\nchanges: {stages.sft: null}\n", ["stages", "at least 1 entry"]),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, text, words):
    message = refusal(written(tmp_path, text, "trials.yaml"))
    for each in words:
        assert each in message


def test_a_mistake_of_the_base_is_told_where_it_stands_there(tmp_path):
    text = FAMILY.replace("{steps: 7}", "{steps: none}")
    path = written(tmp_path, text, "trials.yaml")
    message = refusal(f"{path}#first")
    assert "trials.yaml, line 10" in message


def test_the_lines_of_a_list_follow_its_entries(tmp_path):
    path = written(tmp_path, FAMILY, "trials.yaml")
    message = refusal(f"{path}#first", ["stages.sft.optim.warmup=x"])
    assert "stages.sft.optim.warmup (override" in message
    text = "base: mini-two-stage\nname: x\nchanges: {stages.align: null}\n"
    broken = "mini-two-stage.yaml, line"
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text, "y.yaml"), ["stages.sft.mixture.sources.world.count=0"])
    assert "stages.sft.mixture.sources.world.count (override" in str(caught.value)
    assert broken not in str(caught.value)


@pytest.mark.parametrize(
    ("notes", "words"),
    [("[1]", "from names to texts, got [1]"), ("{1: x}", "a text as key, got 1")],
)
def test_notes_of_a_base_that_are_none_are_refused_with_its_line(tmp_path, notes, words):
    whole = dump_recipe(load_recipe("mini")).replace("\nsources: {}", f"\nsources: {notes}")
    base = written(tmp_path, whole, "whole.yaml")
    text = f"base: {base}\nname: x\nchanges: {{seed: 1}}\n"
    message = refusal(written(tmp_path, text, "y.yaml"))
    assert words in message and "whole.yaml, line" in message


def test_a_circle_of_bases_is_refused(tmp_path):
    text = "family: F\nrecipes:\n  a: {base: b}\n  b: {base: a}\n"
    path = written(tmp_path, text, "trials.yaml")
    assert "its own base" in refusal(f"{path}#a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("family: F\nrecipes: {}\n", "mapping from names to recipes"),
        ("recipes: {a: {base: mini}}\n", "the family's name"),
        ("family: F\nother: 1\nrecipes: {a: {base: mini}}\n", "unknown key"),
        ("family: F\nrecipes: {a: 3}\n", "line 2"),
        ("family: F\nrecipes: {a: {base: mini, name: b}}\n", "it is called a already"),
    ],
)
def test_a_file_that_is_no_family_is_refused(tmp_path, text, words):
    assert words in refusal(f"{written(tmp_path, text, 'trials.yaml')}#a")


def test_a_family_needs_the_name_of_one_of_its_recipes(tmp_path):
    path = written(tmp_path, FAMILY, "trials.yaml")
    assert f"{path}#first" in refusal(path)
    assert "did you mean `second`?" in refusal(f"{path}#secnd")
    assert "name one of its recipes" in refusal("prismatic")
    assert "one recipe in this file" in refusal(
        f"{written(tmp_path, 'base: mini', 'one.yaml')}#one"
    )
