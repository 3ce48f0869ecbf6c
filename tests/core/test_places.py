"""Relative paths of a recipe: beside its file, else in the working folder."""

import os
from pathlib import Path

import pytest

from lucida.core.document import Document, dump_document
from lucida.core.errors import DataError
from lucida.core.places import anchor_paths, check_there, find_beside
from lucida.core.recipe import load_recipe
from lucida.core.spec import TextSourceSpec


def write_recipe(folder, path):
    source = {"kind": "llava", "path": path, "images": "pictures"}
    stage = {"name": "sft", "train": {"projector": 1e-3}, "budget": {"steps": 1}}
    values = {
        "name": "placed",
        "model": {"vision": {"path": "lucida:siglip-mini"}, "language": {"path": "some/model"}},
        "stages": [stage | {"mixture": {"sources": {"mine": source}}}],
    }
    (folder / "recipe.yaml").write_text(dump_document(values))
    return folder / "recipe.yaml"


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder with data beside where we work."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "there" / "pictures").mkdir(parents=True)
    (tmp_path / "there" / "train.json").write_text("[]")
    return tmp_path / "there"


def source_of(recipe):
    return recipe.stages[0].mixture.sources["mine"]


def test_paths_beside_the_recipe_are_found_from_anywhere(beside):
    recipe = load_recipe(write_recipe(beside, "train.json"))
    assert source_of(recipe).path == str(beside / "train.json")
    assert source_of(recipe).images == str(beside / "pictures")
    assert recipe.model.language.path == "some/model"
    again = load_recipe(os.path.relpath(beside / "recipe.yaml"))
    assert again == recipe


def test_others_stay_relative_to_the_working_folder(beside):
    Path("other.json").write_text("[]")
    recipe = load_recipe(write_recipe(beside, "other.json"))
    assert source_of(recipe).path == "other.json"


def test_in_the_working_folder_nothing_changes(beside, monkeypatch):
    monkeypatch.chdir(beside)
    assert source_of(load_recipe(write_recipe(beside, "train.json"))).path == "train.json"


def test_the_recipe_of_a_run_is_not_touched(beside):
    (beside / "environment.json").write_text("{}")
    document = Document({"path": "train.json"}, {})
    anchor_paths(document, beside)
    assert document.data == {"path": "train.json"}


def test_changes_of_a_difference_are_anchored_too(beside):
    document = Document({"base": "mini", "changes": {"evaluation.data": "pictures"}}, {})
    anchor_paths(document, beside)
    assert document.data["changes"]["evaluation.data"] == str(beside / "pictures")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pictures/*.jpg", "{folder}/pictures/*.jpg"),
        ("*.json", "{folder}/*.json"),
        ("pictures@align", "{folder}/pictures@align"),
        ("shards/{{0..3}}.tar", "shards/{{0..3}}.tar"),
        ("lucida:siglip-mini", "lucida:siglip-mini"),
        ("https://a/train.json", "https://a/train.json"),
        ("/train.json", "/train.json"),
        ("~/train.json", "~/train.json"),
        ("", ""),
        ("nothing", "nothing"),
    ],
)
def test_what_is_a_path_beside(beside, text, found):
    assert find_beside(text.format(), beside) == found.format(folder=beside)


def test_what_is_nowhere_says_where_it_was_looked_for(beside):
    with pytest.raises(DataError) as problem:
        check_there(TextSourceSpec(path="nothing.txt"), "source mine")
    told = str(problem.value)
    assert "given nothing.txt" in told or "nothing.txt" in told
    assert "beside its file, then in the working folder" in told
    assert str(Path.cwd()) in told
