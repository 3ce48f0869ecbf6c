"""Searching: what is proposed, told, ended early, taken up again and put to the test."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from lucida.apps.command import app
from lucida.apps.verbs import study as verbs  # noqa: F401 - puts the verbs there
from lucida.core.errors import RecipeError, RunError
from lucida.core.files import atomic_write
from lucida.core.recipe import load_recipe
from lucida.core.runs import JsonLines, read_json
from lucida.study import search
from lucida.study.axes import load_search, make_trial
from lucida.study.design import load_design
from lucida.study.execute import StudyFolder, Worker
from lucida.study.search import RESULTS, Trial, run_search
from lucida.study.worker import OUTCOME

pytest.importorskip("optuna")
TEXT = """
name: rates
baseline: mini-short
axes:
  stages.sft.train.projector: {low: 1.0e-4, high: 1.0e-1, log: true}
  model.projector.depth: [1, 2, 3]
trials: %d
evaluation: {tasks: [counting], limit: 6%s}
outcome: counting
"""


@pytest.fixture
def given(tmp_path):
    def make(trials=8, more=""):
        file = tmp_path / "rates.yaml"
        file.write_text(TEXT % (trials, more))
        return load_search(file)

    return make


@pytest.fixture
def pretend(monkeypatch):
    """Runs are written rather than trained; `score` gives theirs from the recipe."""
    started = []

    def use(score, died=()):
        def start(folder, arm, seed):
            recipe, run = load_recipe(folder.recipe(arm, seed)), folder.run(arm, seed)
            started.append(recipe)
            process = subprocess.Popen([sys.executable, "-c", "pass"])
            if len(started) not in died:
                write_run(run, recipe, score(recipe))
                process.wait()
            return Worker(arm, seed, process, io.BytesIO())

        monkeypatch.setattr(search.Worker, "start", start)
        return started

    return use


def write_run(run, recipe, score):
    """A finished run whose first `score` of 100 answers are right."""
    run.prepare().write_recipe(recipe)
    (run.path / "predictions").mkdir(exist_ok=True)
    rows = [{"id": f"{n}", "prompt": "?", "output": "", "score": float(n < score)}
            for n in range(100)]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    atomic_write(run.path / "predictions" / "counting.jsonl", text)
    task = {"score": score / 100, "interval": [0, 1], "metric": "accuracy", "n": 100}
    run.write_results({"tasks": {"counting": task}, "seconds": {"train": 1.0}})
    atomic_write(run.path / OUTCOME, json.dumps({"state": "done", "memory_mb": 1.0}))


def depth_and_rate(recipe):
    """Three layers and a rate near 1e-2 are best."""
    rate = recipe.stages[0].train["projector"]
    return round(20 * recipe.model.projector.depth + 30 - 10 * abs(rate - 1e-2) / 1e-2)


def test_a_search_finds_what_is_good_and_writes_its_test(tmp_path, given, pretend):
    started = pretend(depth_and_rate)
    rows = run_search(*given(16), tmp_path / "out", jobs=2)
    assert len(rows) == 16 and rows[0]["values"]["model.projector.depth"] == 3
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {row["values"]["model.projector.depth"] for row in rows} == {1, 2, 3}
    confirm = load_design(tmp_path / "out" / "confirm.yaml")
    assert confirm.study.seeds == [1, 2, 3]  # the search had 0
    assert confirm.arms["found"] == rows[0]["values"]
    best = confirm.recipe("found", 1)
    assert best.model.projector.depth == 3 and len(started) == 16
    assert read_json(tmp_path / "out" / RESULTS)["trials"] == rows


def test_equal_values_at_the_same_time_are_trained_once(tmp_path, monkeypatch):
    """All four that are under way of three values are begun before the first one ends."""
    file, go, started, begun = tmp_path / "rates.yaml", tmp_path / "go", [], []
    rate = "  stages.sft.train.projector: {low: 1.0e-4, high: 1.0e-1, log: true}\n"
    file.write_text((TEXT % (6, "")).replace(rate, ""))

    def start(folder, arm, seed):
        run = folder.run(arm, seed)
        started.append(run.path.name)
        write_run(run, load_recipe(folder.recipe(arm, seed)), 50)
        (run.path / OUTCOME).rename(run.path / "later.json")
        code = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)\n"
        code += "os.rename(*sys.argv[2:])"
        words = [sys.executable, "-c", code, go, run.path / "later.json", run.path / OUTCOME]
        return Worker(arm, seed, subprocess.Popen(words), io.BytesIO())

    def count(*given, begin=search._begin):
        begun.append(begin(*given))
        if len(begun) == 4:
            go.touch()
        return begun[-1]

    monkeypatch.setattr(search.Worker, "start", start)
    monkeypatch.setattr(search, "_begin", count)
    rows = run_search(*load_search(file), tmp_path / "out", jobs=4)
    assert [row["state"] for row in rows] == ["complete"] * 6
    assert sorted(started) == sorted({row["run"] for row in rows})


def test_a_worker_that_dies_is_told_and_the_search_goes_on(tmp_path, given, pretend):
    started = pretend(depth_and_rate, died=(3,))
    with pytest.raises(RunError, match="without an outcome") as told:
        run_search(*given(5), tmp_path / "out")
    assert "goes on where it stopped" in str(told.value) and len(started) == 3
    rows = run_search(*given(5), tmp_path / "out")
    assert [row["state"] for row in rows] == ["complete"] * 5
    assert started[3].model_dump() == started[2].model_dump()  # first what had been lost
    assert len(started) == 6  # the two that had ended were not run again
    more = run_search(*given(7), tmp_path / "out")
    assert len(more) == 7 and len(started) == 8


def test_what_is_below_the_median_ends_early(tmp_path, given, monkeypatch):
    curve = [10.0, 20.0]

    def start(folder, arm, seed):
        recipe, run = load_recipe(folder.recipe(arm, seed)), folder.run(arm, seed)
        bad = len(list((folder.path / "runs").glob("*"))) > 5
        run.prepare()
        for step, score in zip((50, 100), curve, strict=True):
            tasks = {
                "counting": {
                    "score": 0.001 * score if bad else score / 100,
                    "n": 64,
                    "interval": [0.0, 1.0],
                }
            }
            row = {"stage": "sft", "total_step": step, "evaluation": {"step": step, "tasks": tasks}}
            JsonLines(run.path / "metrics.jsonl").append(row)
        if not bad:
            write_run(run, recipe, 50)
        wait = "import time; time.sleep(60)" if bad else "import time; time.sleep(0.5)"
        return Worker(arm, seed, subprocess.Popen([sys.executable, "-c", wait]), io.BytesIO())

    monkeypatch.setattr(search.Worker, "start", start)
    rows = run_search(*given(8, ", curve: 50"), tmp_path / "out")
    assert [row["state"] for row in rows].count("pruned") == 2
    run = tmp_path / "out" / "runs" / rows[-1]["run"]
    assert read_json(run / OUTCOME) == {"state": "pruned"}


def test_less_is_better_of_bits_per_byte(tmp_path):
    file = tmp_path / "rates.yaml"
    file.write_text((TEXT % (8, ", curve: 50")).replace("counting", "text-documents"))
    given, base = load_search(file)
    design = make_trial(given, base, {"model.projector.depth": 1})
    told = []
    asked = SimpleNamespace(report=lambda *each: told.append(each), should_prune=lambda: False)
    trial = Trial(asked, design, StudyFolder(tmp_path / "out"))
    run = trial.folder.run(*trial.run).prepare()
    row = {"tasks": {"text-documents": {"score": 1.5, "interval": [1, 2], "n": 4}}}
    run.metrics.append({"stage": "sft", "total_step": 50, "evaluation": row})
    assert not trial.falls_behind(given.outcome) and told == [(-150, 50)]


def test_failed_trials_are_results_and_none_that_ends_is_an_error(tmp_path, given, monkeypatch):
    def start(folder, arm, seed):
        run = folder.run(arm, seed)
        run.prepare()
        atomic_write(run.path / OUTCOME, json.dumps({"state": "diverged", "why": "loss 9,256"}))
        return Worker(arm, seed, subprocess.Popen([sys.executable, "-c", ""]), io.BytesIO())

    monkeypatch.setattr(search.Worker, "start", start)
    with pytest.raises(RunError, match="none of 3 trials"):
        run_search(*given(3), tmp_path / "out")
    found = read_json(tmp_path / "out" / RESULTS)["trials"]
    assert [row["state"] for row in found] == ["fail"] * 3


def test_another_search_is_refused_in_its_folder(tmp_path, given, pretend):
    pretend(depth_and_rate)
    run_search(*given(1), tmp_path / "out")
    with pytest.raises(RunError, match="evaluation differs"):
        run_search(*given(1, ", curve: 50"), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("low: 1.0e-4", "low: 1", "not below high"),
        ("low: 1.0e-4", "low: 0", "`log` needs low above 0"),
        ("[1, 2, 3]", "[2]", "needs two or more"),
        ("[1, 2, 3]", "[2, many]", "axis model.projector.depth, value many"),
        ("model.projector.depth", "model.projector.dept", "axis model.projector.dept"),
        ("outcome: counting", "outcome: count", "expected mean or one of counting"),
        ("trials: 8", "trials: 0", "greater than 0"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, old, new, said):
    file = tmp_path / "rates.yaml"
    text = TEXT % (8, "")
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=said):
        load_search(file)


def test_the_command_says_what_comes_next(tmp_path, given, pretend):
    given(12)
    pretend(depth_and_rate)
    out = str(tmp_path / "out")
    told = CliRunner().invoke(app, ["study", "search", str(tmp_path / "rates.yaml"), "--out", out])
    assert told.exit_code == 0, told.output
    flat = " ".join(told.output.split())
    assert "12 trials of seed 0" in flat and "confirm.yaml` asks other seeds" in flat
    assert "what explains the scores: " in flat
