"""A run goes on with the data and the parts that it was begun with, or says what is another."""

import json
import shutil

import pytest
from tiny_training import tiny_recipe, write_parts

from lucida.core.errors import LucidaError, RunError
from lucida.core.runs import list_runs
from lucida.training.loop import train_run
from lucida.training.state import checkpoints
from lucida.training.step import Stepper


class Stop(Exception):
    """Ends a training in its middle."""


def stopped(recipe, folder, monkeypatch, after=4):
    """A run that was killed after so many steps; its newest checkpoint is of step 3."""
    taken = []

    def step(*given, **named):
        if len(taken) == after:
            raise Stop
        taken.append(0)
        return original(*given, **named)

    original = Stepper.step
    with monkeypatch.context() as context:
        context.setattr(Stepper, "step", step)
        with pytest.raises(Stop):
            train_run(recipe, folder)
    return folder


def data_of(recipe):
    from pathlib import Path

    return Path(recipe.stages[0].mixture.sources["pictures"].path)


@pytest.fixture
def own(tmp_path):
    """A recipe with parts and pictures that a test may change."""
    return tiny_recipe(write_parts(tmp_path / "parts"))


@pytest.fixture
def run(own, tmp_path, monkeypatch):
    return stopped(own, tmp_path / "run", monkeypatch)


def rewrite(path, old, new):
    path.write_text(path.read_text().replace(old, new))


CHANGES = {
    "a text": lambda data, parts: rewrite(data, "Which colour?", "What colour?!"),
    "a record less": lambda data, parts: data.write_text(
        json.dumps(json.loads(data.read_text())[:-1])
    ),
    "a picture": lambda data, parts: shutil.copy(data.parent / "0.png", data.parent / "1.png"),
    "the tokenizer": lambda data, parts: rewrite(
        parts / "language" / "tokenizer_config.json", "{", '{"note": 1,'
    ),
    "the pictures' size": lambda data, parts: rewrite(
        parts / "vision" / "preprocessor_config.json", "0.5", "0.4"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_on_other_data_or_parts_is_refused_until_accepted(change, own, run, tmp_path):
    CHANGES[change](data_of(own), tmp_path / "parts")
    with pytest.raises(RunError, match="other data or parts") as caught:
        train_run(own, run)
    assert " -> " in str(caught.value) and "--accept-changes" in str(caught.value)
    assert checkpoints(run)[-1].name == "step-000003"
    train_run(own, run, accept=True)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["resumed"][-1]["accepted"]
    assert train_run(own, run) == run


def test_touched_and_copied_back_data_are_the_same(own, run):
    data = data_of(own)
    shutil.copy(data, data.with_suffix(".kept"))
    data.unlink()
    shutil.copy(data.with_suffix(".kept"), data)
    assert train_run(own, run) == run


def test_a_run_that_has_trained_nothing_takes_the_data_of_now(own, tmp_path, monkeypatch, capsys):
    folder = stopped(own, tmp_path / "run", monkeypatch, after=1)
    CHANGES["a text"](data_of(own), None)
    train_run(own, folder)
    assert "data or parts have changed" in capsys.readouterr().err


def test_lengths_of_other_data_are_not_used_again(tmp_path, monkeypatch):
    recipe = tiny_recipe(write_parts(tmp_path / "parts"))
    stages = [
        each.model_copy(update={"batch": each.batch.model_copy(update={"order": "length"})})
        for each in recipe.stages
    ]
    recipe = recipe.model_copy(update={"stages": stages})
    folder = stopped(recipe, tmp_path / "run", monkeypatch)
    before = (folder / "lengths-align.npz").read_bytes()
    rewrite(data_of(recipe), "Which colour?", "Which colour is it then?")
    with pytest.raises(RunError, match="data"):
        train_run(recipe, folder)
    train_run(recipe, folder, accept=True)
    assert (folder / "lengths-align.npz").read_bytes() != before


DAMAGED = ("metrics.jsonl", "environment.json", "inputs.json", "dropped.jsonl", "recipe.yaml")
CONTENTS = {
    "noise": b"\xff\xfe\x00\x93" * 9,
    "cut": b'{"stage": "align", "st\n',
    "no object": b"5\n",
    "a list": b"[]\n",
    "an empty object": b"{}\n",
    "other types": b'{"stage": [], "step": {}, "total_step": "x", "loss": [], "source": [],'
    b' "resumed": 3, "left_out": 4}\n',
    "deep": b"[" * 20000 + b"\n",
    "a long number": b"1" * 5000 + b"\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_stands_in_a_file_of_a_run_only_a_lucida_error_comes_out(
    name, recipe, tmp_path, monkeypatch
):
    last = recipe.stages[1]  # one step of it is enough
    last = last.model_copy(update={"budget": last.budget.model_copy(update={"steps": 1})})
    recipe = recipe.model_copy(update={"stages": [recipe.stages[0], last]})
    whole = stopped(recipe, tmp_path / "whole", monkeypatch)
    for number, content in enumerate(CONTENTS.values()):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(content)
        list_runs(folder)
        try:
            train_run(recipe, folder)
        except LucidaError as problem:
            assert name in str(problem) or content == CONTENTS["an empty object"]
