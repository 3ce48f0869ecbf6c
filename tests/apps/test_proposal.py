"""What a training proposes at its end is run here: it must work with what the run has."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
from tiny import encoder_folder, language_folder

from lucida.apps import cli
from lucida.apps.ahead import check_evaluation, following, task_problems
from lucida.apps.demo import command
from lucida.core.errors import LucidaError, RunError
from lucida.core.recipe import load_recipe, presets

torch.set_num_threads(1)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Overrides that train a recipe of the world in a second."""
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LUCIDA_DATA", raising=False)
    values = {
        "model.vision.path": encoder_folder("siglip"),
        "model.language.path": language_folder(),
        "stages.sft.mixture.sources.world.tasks": ["counting", "attribute"],
        "stages.sft.mixture.sources.world.count": 4,
        "stages.sft.mixture.sources.world.questions": 2,
        "stages.sft.budget.steps": 2,
        "stages.sft.batch.samples": 2,
        "evaluation.limit": 4,
        "evaluation.baselines": [],
        "evaluation.max_new_tokens": 4,
        "evaluation.samples": 100,
        "blind.steps": 1,
    }

    def overrides(**changes):
        chosen = values | {name.replace("__", "."): value for name, value in changes.items()}
        return [f"{name}={json.dumps(value)}" for name, value in chosen.items()]

    return overrides


def call(*words):
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    return caught.value.code or 0


def trained(capsys, folder, overrides):
    """Trains by the command line and gives the words that it proposes, without `lucida`."""
    assert call("train", "mini", *overrides, "--run", str(folder)) == 0
    err = capsys.readouterr().err
    proposed = next(line for line in err.splitlines() if line.startswith("next: "))
    words = shlex.split(proposed.removeprefix("next: "))
    assert words[: len(command())] == command()
    return words[len(command()) :], err


CASES = {
    "all tasks": ({"evaluation__tasks": ["counting"]}, ["counting"], []),
    "no task": ({"evaluation__tasks": []}, ["counting", "attribute"], ["names no task"]),
    "some without files": (
        {"evaluation__tasks": ["gqa", "counting"]},
        ["counting"],
        ["gqa cannot be asked yet"],
    ),
    "none with files": (
        {"evaluation__tasks": ["gqa"]},
        ["counting", "attribute"],
        ["gqa cannot be asked yet", "names none that can be asked"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_proposed_evaluation_works(capsys, tmp_path, small, case):
    changes, tasks, told = CASES[case]
    folder = tmp_path / "a run"
    words, err = trained(capsys, folder, small(**changes))
    assert words[:2] == ["eval", str(folder)]
    assert all(remark in err for remark in told)
    assert call(*words) == 0
    results = json.loads((folder / "results.json").read_text())
    assert list(results["tasks"]) == tasks


def test_a_run_that_cannot_be_measured_is_talked_with(capsys, tmp_path, small, monkeypatch):
    """A file that is missing is told before the training; one that went away since, behind it."""
    text = tmp_path / "nowhere.txt"
    retention = {"file": str(text)}
    overrides = small(evaluation__tasks=["counting"], evaluation__retention=retention)
    assert call("train", "mini", *overrides, "--run", str(tmp_path / "none")) == 1
    assert "nowhere.txt" in capsys.readouterr().err
    text.write_text("a red star.\n" * 50)
    trained(capsys, tmp_path / "run", overrides)
    text.unlink()
    words, remarks = following(load_recipe("mini", overrides), tmp_path / "run")
    assert words == ["chat", str(tmp_path / "run")] and "nowhere.txt is not there" in remarks[0]
    assert call(*words, "--prompt", "how many?") == 0


def test_a_folder_with_an_odd_name_is_still_a_folder(capsys, tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, _ = trained(capsys, Path("diff"), small(evaluation__tasks=["counting"]))
    assert words == ["eval", "./diff"]
    assert call(*words) == 0


@pytest.mark.parametrize(
    "name", [name for name in presets() if "mini" in name and name != "real-mini"]
)
def test_every_recipe_of_the_world_proposes_its_evaluation(name):
    recipe = load_recipe(name)
    words, remarks = following(recipe, Path("runs/mine"))
    assert words == ["eval", "runs/mine"] and remarks == []
    check_evaluation(recipe, asked=True)


@pytest.mark.parametrize("name", [name for name in presets() if "mini" not in name])
def test_every_full_recipe_without_its_files_says_what_is_missing(name, monkeypatch, tmp_path):
    for data in (None, str(tmp_path)):
        monkeypatch.delenv("LUCIDA_DATA", raising=False)
        if data is not None:
            monkeypatch.setenv("LUCIDA_DATA", data)
        recipe = load_recipe(name)
        words, remarks = following(recipe, Path("runs/mine"))
        if problems := task_problems(recipe.evaluation, recipe.evaluation.tasks):
            assert words != ["eval", "runs/mine"]
            assert all(any(task in remark for remark in remarks) for task in problems)
            with pytest.raises(RunError, match="cannot be asked after the training"):
                check_evaluation(recipe, asked=True)


def test_the_demo_of_a_recipe_without_tasks_stops_before_training(tmp_path, small):
    from lucida.apps.demo import main

    for tasks in ([], ["gqa"]):
        with pytest.raises(LucidaError, match=r"evaluation\.tasks"):
            main(tmp_path / "run", "mini", small(evaluation__tasks=tasks))
    assert not (tmp_path / "run").exists()
