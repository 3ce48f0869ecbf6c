"""Run folders: records survive crashes, environments are kept, one process writes at a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from lucida.core.errors import RunError
from lucida.core.recipe import load_recipe
from lucida.core.runs import JsonLines, RunFolder, list_runs, plain


def test_records_come_back_in_order(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    assert lines.read() == []
    for step in range(3):
        lines.append({"step": step, "loss": np.float32(0.5), "ids": np.arange(2)})
    assert lines.read() == [{"step": step, "loss": 0.5, "ids": [0, 1]} for step in range(3)]


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b"{", b"\x00\x00"])
def test_a_torn_last_line_is_left_out_and_then_removed(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    assert JsonLines(path).read() == [{"step": 1}]
    JsonLines(path).append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_file_that_is_only_a_torn_line_starts_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"st')
    JsonLines(path).append({"step": 0})
    assert JsonLines(path).read() == [{"step": 0}]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
def test_a_line_that_the_disk_takes_in_part_leaves_nothing(tmp_path):
    """In a process of its own, whose files cannot grow: a disk that has a few bytes left."""
    code = f"""
import resource, signal
from lucida.core.errors import RunError
from lucida.core.runs import JsonLines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lines, most = JsonLines({str(tmp_path / "metrics.jsonl")!r}), resource.RLIM_INFINITY
lines.append({{"step": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (lines.path.stat().st_size + 5, most))
try:
    lines.append({{"step": 2, "loss": 0.123456789}})
except RunError as problem:
    assert "the disk is full" in str(problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
lines.append({{"step": 3}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert JsonLines(tmp_path / "metrics.jsonl").read() == [{"step": 1}, {"step": 3}]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nbroken\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2 is not a JSON object"):
        JsonLines(path).read()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for step in range(5):
        lines.append({"step": step})
    lines.keep(lambda record: record["step"] < 3)
    lines.append({"step": 3})
    assert [record["step"] for record in lines.read()] == [0, 1, 2, 3]


def test_json_holds_what_training_measures(tmp_path):
    given = {1: math.nan, "a": (math.inf, np.int64(2)), "b": tmp_path, "c": {3}, "d": True}
    assert plain(given) == {
        "1": None, "a": [None, 2], "b": str(tmp_path), "c": [3], "d": True,
    }  # fmt: skip


def test_a_run_folder_explains_itself(tmp_path):
    run = RunFolder(tmp_path / "mini").prepare()
    recipe = load_recipe("mini", ["seed=3"])
    run.write_recipe(recipe)
    assert run.recipe == recipe
    facts = run.environment("lucida train mini", device="cpu")
    assert facts["command"] == "lucida train mini"
    assert facts["device"] == "cpu"
    assert facts["packages"]["torch"]
    assert facts["cores"] >= 1
    assert json.loads(run.environment_file.read_text()) == facts


def test_resuming_adds_to_the_environment(tmp_path):
    run = RunFolder(tmp_path).prepare()
    run.environment("first")
    facts = run.environment("second")
    assert facts["command"] == "first"
    assert [entry["command"] for entry in facts["resumed"]] == ["second"]


def test_results_are_empty_before_evaluation(tmp_path):
    run = RunFolder(tmp_path)
    assert run.results.to_json() == {"tasks": {}, "seconds": {}}
    run.write_results({"tasks": {"counting": {"score": np.float64(0.5)}}})
    assert run.results.tasks["counting"].score == 0.5
    run.results_file.write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        _ = run.results
    run.results_file.write_text('{"tasks": {}, "seconds": {}, "tasks": {}}')
    with pytest.raises(RunError, match="the key 'tasks' stands twice"):
        _ = run.results


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        _ = RunFolder(tmp_path).recipe


def test_two_processes_cannot_write_one_run(tmp_path):
    code = (
        "import sys; from lucida.core.errors import RunError\n"
        "from lucida.core.runs import RunFolder\n"
        "try:\n    with RunFolder(sys.argv[1]).locked(): print('taken')\n"
        "except RunError as problem: print(problem)"
    )

    def other():
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
        return done.stdout.decode()

    with RunFolder(tmp_path).locked():
        assert "is writing this run" in other()
    assert other().strip() == "taken"


def test_runs_are_listed_with_state_and_broken_ones_are_not_hidden(tmp_path):
    for name, files in {
        "a": {},
        "b": {"config.json": "{}"},
        "c": {"results.json": '{"tasks": {"counting": {"score": 0.5}}}'},
        "d": {"metrics.jsonl": "broken\n"},
        "e": {"results.json": '{"tasks": 3}'},
    }.items():
        run = RunFolder(tmp_path / name).prepare()
        run.write_recipe(load_recipe("mini"))
        run.metrics.append({"step": 7, "loss": 1.0})
        for file, content in files.items():
            (run.path / file).write_text(content)
    (tmp_path / "f").mkdir()
    found = {each.path.name: each for each in list_runs(tmp_path)}
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert [found[name].state for name in "abcde"] == [
        "unfinished", "trained", "evaluated", "unreadable", "unreadable",
    ]  # fmt: skip
    assert found["a"].step == 7
    assert found["c"].scores == {"counting": 0.5}
    assert "line 1 is not a JSON object" in found["d"].problem


def test_steps_of_a_listed_run_are_those_of_all_its_stages(tmp_path):
    run = RunFolder(tmp_path / "two").prepare()
    run.write_recipe(load_recipe("mini-two-stage"))
    for stage, step, total in [("align", 1, 1), ("align", 40, 40), ("sft", 1, 41), ("sft", 2, 42)]:
        run.metrics.append({"stage": stage, "step": step, "total_step": total, "loss": 1.0})
    run.metrics.append({"stage": "sft", "resumed": True})
    (found,) = list_runs(tmp_path)
    assert (found.stage, found.step) == ("sft", 42)


def test_no_runs_folder_is_no_error(tmp_path):
    assert list_runs(tmp_path / "none") == []
