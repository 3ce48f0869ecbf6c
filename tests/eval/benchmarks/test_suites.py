"""A suite is one command: its tasks, with and without demonstrations, over three seeds."""

import json
import statistics

import pytest
from four_tasks import write_four
from typer.testing import CliRunner

import lucida.eval.few_shot
from lucida.apps.cli import app
from lucida.eval.benchmarks import benchmark
from lucida.eval.run import evaluate_run

TASKS = ("okvqa", "textvqa", "coco-captions", "flickr30k")


@pytest.fixture
def four(tmp_path, monkeypatch):
    """A data root of these tasks; demonstrations are remembered by task, not by data root."""
    write_four(tmp_path / "data")
    monkeypatch.setenv("LUCIDA_DATA", str(tmp_path / "data"))
    lucida.eval.few_shot.pool_of.cache_clear()
    yield
    lucida.eval.few_shot.pool_of.cache_clear()


def test_four_tasks_with_none_and_four_demonstrations(run, four):
    told = CliRunner().invoke(app, ["eval", str(run.path), "--suite", "vila-fewshot"])
    assert told.exit_code == 0, told.output
    assert "0-shot" in told.output
    assert "4-shot" in told.output
    tasks = json.loads(run.results_file.read_text())["tasks"]
    assert set(tasks) == set(TASKS)
    for name in TASKS:
        row = tasks[name]["shots"]["4"]
        assert row["n"] == tasks[name]["n"] == 3
        assert len(row["scores"]) == 3, "three seeds"
        assert row["mean"] == pytest.approx(statistics.mean(row["scores"]))
        assert row["sd"] == pytest.approx(statistics.stdev(row["scores"]))
        asked = [
            [json.loads(line)["prompt"] for line in file.read_text().splitlines()]
            for file in sorted((run.path / "predictions").glob(f"{name}.4-shot-*.jsonl"))
        ]
        assert len(asked) == 3
        assert len({json.dumps(prompts) for prompts in asked}) == 3, "seeds draw differently"
        assert all(p.count("<image>") == 5 for prompts in asked for p in prompts)
        assert all(p.count("assistant:") == 4 for prompts in asked for p in prompts)


def test_all_files_that_are_missing_are_named_at_once(run, tmp_path):
    (tmp_path / "nothing").mkdir()

    def told(*words):
        where = ["--data", str(tmp_path / "nothing")]
        ended = CliRunner().invoke(app, ["eval", str(run.path), *words, *where])
        assert ended.exit_code == 1
        return ended.output.replace("\n", "")

    tasks = [benchmark(name) for name in ("gqa", "pope-random", "pope-popular")]
    output = told("--task", ",".join(task.name for task in tasks))
    for file in (file for task in tasks for file in task.files):
        assert (file.path in output and file.source in output) == (file.needed != "train"), file
    assert "pope-random, pope-popular: " in output, "the pictures of both are named once"
    assert benchmark("gqa").files[2].path in told("--task", "gqa", "--shots", "2")
    assert "perplexity needs perplexity/" in told("--task", "perplexity")


def test_too_few_pictures_to_demonstrate_with(run, tmp_path, monkeypatch):
    write_four(tmp_path / "data", train=4)
    monkeypatch.setenv("LUCIDA_DATA", str(tmp_path / "data"))
    lucida.eval.few_shot.pool_of.cache_clear()
    told = CliRunner().invoke(app, ["eval", str(run.path), "--suite", "vila-fewshot"])
    lucida.eval.few_shot.pool_of.cache_clear()
    assert told.exit_code == 1
    assert "too few training examples" in told.output
    told = CliRunner().invoke(app, ["eval", str(run.path), "--suite", "vila-fewshots"])
    assert told.exit_code == 1
    assert "vila-fewshot" in told.output


def test_files_that_are_gone_do_not_hide_the_rest_of_the_report(run, four, monkeypatch):
    evaluate_run(run.path, ["okvqa"])
    monkeypatch.delenv("LUCIDA_DATA")
    results = evaluate_run(run.path, ["attribute"], 5)
    assert set(results["tasks"]) == {"okvqa", "attribute"}
    html = run.report_file.read_text()
    assert html.count('<article class="shot') > 0
    assert "Not shown: nobody said where the benchmarks" in html
