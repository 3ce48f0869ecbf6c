"""The pages of the families say what `fetch`, `plan` and the recipes say."""

import re
import shlex

import pytest
from family_pages import FAMILIES, PAGES, list_commands, list_files, list_plans, read_part

from lucida.core.recipe import load_recipe, presets


@pytest.mark.parametrize("page", FAMILIES)
def test_files_and_commands_are_those_of_the_recipe(page):
    name, places = FAMILIES[page]
    text = (PAGES / f"{page}.md").read_text()
    assert read_part(text, "files") == "".join(list_files(name)), "run scripts/family_pages.py"
    assert read_part(text, "commands") == "".join(list_commands(name, places))


@pytest.mark.parametrize("page", FAMILIES)
def test_every_change_and_every_name_is_one(page):
    name, places = FAMILIES[page]
    text = (PAGES / f"{page}.md").read_text().replace("\\\n", " ")
    plans = [shlex.split(line) for line in re.findall(r"lucida plan (.+)", text)]
    assert len(plans) >= max(4, len(places))
    for planned, *words in plans:
        load_recipe(planned, words[: words.index("--device")])
    named = re.findall(r"lucida (?:fetch|train|doctor|launch|plan) ([\w.+-]+)", text)
    named += re.findall(r"\| `([\w.+-]+)` \|", text)
    assert named and set(named) <= set(presets())
    (launched,) = re.findall(r"lucida launch \S+ (.*?) --local", text) or [""]
    load_recipe(name, launched.split())


def test_every_place_has_its_plan():
    for page, (_, places) in FAMILIES.items():
        table = read_part((PAGES / f"{page}.md").read_text(), "plan")
        assert all(f"| {place.count} x " in table for place in places), page


@pytest.mark.slow
@pytest.mark.parametrize("page", FAMILIES)
def test_hours_and_memory_are_those_of_plan(page):
    name, places = FAMILIES[page]
    text = (PAGES / f"{page}.md").read_text()
    assert read_part(text, "plan") == "".join(list_plans(name, places))
