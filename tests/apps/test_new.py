"""The starter that `lucida new` writes: whole, read as it stands, and trained."""

import csv
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lucida.apps import command
from lucida.apps.cli import app
from lucida.apps.new import HELD_OUT, PICTURES, write_starter
from lucida.core.errors import RunError
from lucida.core.recipe import load_recipe
from lucida.core.runs import RunFolder
from lucida.training.folder import folder_of


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new") / "starter"
    write_starter(folder)
    return folder


def read(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_twenty_pictures_with_questions_none_in_both_files(starter):
    assert len(list((starter / "pictures").glob("*.png"))) == PICTURES
    pictures = [{row["image"] for row in read(starter / f"{n}.csv")} for n in ("train", "held-out")]
    assert [len(each) for each in pictures] == [PICTURES - HELD_OUT, HELD_OUT]
    assert not pictures[0] & pictures[1]
    assert all(max(Image.open(starter / name).size) == 64 for each in pictures for name in each)


def test_every_question_has_one_answer(starter):
    for name in ("train", "held-out"):
        rows = read(starter / f"{name}.csv")
        asked = [(row["image"], row["question"]) for row in rows]
        assert len(asked) == len(set(asked))
        assert all(row["answer"] for row in rows)


def test_the_recipe_trains_as_it_stands(starter, tmp_path, monkeypatch):
    """With a tiny budget, from another folder than its own."""
    from lucida.training.loop import train_run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    small = ["stages.sft.budget.steps=2", "stages.sft.validate_every=1", "precision=fp32"]
    recipe = load_recipe(starter / "recipe.yaml", [*small, "threads=1"])
    run = RunFolder(train_run(recipe, tmp_path / "run"))
    assert (run.path / "config.json").is_file()
    assert sum("validation_loss" in row for row in run.logged) == 2


def test_the_command_it_tells_is_one_from_the_new_folder(tmp_path, monkeypatch):
    """Also where `lucida` is not on the path."""
    monkeypatch.chdir(tmp_path)
    beside = Path(sys.executable).parent / "lucida"
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    told = shlex.split(CliRunner().invoke(app, ["new", "mine"]).output.split("next: ")[1])
    assert told[:3] == ["cd", "mine", "&&"] and told[-2:] == ["train", "recipe.yaml"]
    assert ".." not in Path(told[3]).parts
    assert Path(told[3]).is_absolute() and (not beside.exists() or Path(told[3]).samefile(beside))


def test_what_stands_there_stays(starter):
    with pytest.raises(RunError, match="stands there already"):
        write_starter(starter)


def test_the_folder_is_no_run_and_its_recipe_stays(starter, tmp_path):
    recipe = load_recipe(str(starter))
    assert folder_of(str(starter), recipe, None, changed=True) == Path("runs/starter")
    run = RunFolder(tmp_path / "begun").prepare()
    run.write_recipe(recipe)
    run.metrics.append({"step": 1})
    assert folder_of(str(run.path), recipe, None) == run.path
    with pytest.raises(RunError, match="this is a run"):
        folder_of(str(run.path), recipe, None, changed=True)
