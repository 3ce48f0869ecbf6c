"""Tasks that an outside judge scores: answers are stored and exported, nothing is scored here."""

import json

import pytest

from lucida.apps.demo import show_scores
from lucida.core.errors import RunError
from lucida.core.results import Results
from lucida.core.spec import EvaluationSpec
from lucida.eval.asking import Response
from lucida.eval.benchmarks import benchmark
from lucida.eval.gallery import predictions
from lucida.eval.report import write_report
from lucida.eval.run import evaluate_target


class Talking:
    """Says something about everything, or nothing where it fails."""

    protocols, identity = ("generate",), {"name": "talking"}

    def __init__(self, *failing):
        self.failing, self.asked = failing, []

    def stream(self, examples, protocol, max_new_tokens):
        for index, example in enumerate(examples):
            self.asked.append(example.id)
            failed = example.id in self.failing
            yield (
                index,
                Response(
                    "" if failed else f"about {example.id}", failed=(failed and "cut") or None
                ),
            )

    def read_box(self, text, width, height):
        return None


@pytest.fixture
def evaluated(published, tmp_path):
    """Gives what evaluating judged tasks and one other writes, by this answerer."""
    spec = EvaluationSpec(data=str(published), baselines=[], samples=100)

    def evaluated(answerer):
        tasks = ["llava-bench", "mm-vet", "pope-random"]
        return evaluate_target("talking", lambda _: answerer, tmp_path / "out", spec, tasks)

    return evaluated, tmp_path / "out"


def test_answers_go_to_the_judge_and_nothing_is_scored(evaluated, capsys):
    evaluate, folder = evaluated
    results = evaluate(Talking())
    assert list(results["tasks"]) == ["pope-random"]
    assert set(results["answers"]) == {"llava-bench", "mm-vet"}
    said = json.loads((folder / results["answers"]["mm-vet"]).read_text())
    assert said == {"v1_0": "about mm-vet/v1_0"}
    rows = predictions(folder, "llava-bench").read()
    assert len(rows) == 3 and all(row["score"] is None for row in rows)
    assert all(row["output"] == f"about {row['id']}" for row in rows)
    again = Talking()
    assert evaluate(again) == results
    assert again.asked == []
    show_scores(Results.model_validate(results))
    told = "".join(capsys.readouterr())
    assert "mm-vet has no score here: its judge reads answers/" in told
    assert "pope-random" in write_report(folder).read_text()


def test_an_answer_that_never_came_is_counted_and_asked_again(evaluated, capsys):
    evaluate, folder = evaluated
    results = evaluate(Talking("llava-bench/1"))
    assert results["failed"] == {"llava-bench": 1, "mm-vet": 0}
    show_scores(Results.model_validate(results))
    assert "1 of its answers never came and are empty" in "".join(capsys.readouterr())
    stored = predictions(folder, "llava-bench").read()
    assert [row.get("failed") for row in stored] == [None, None, "cut"]
    again = Talking()
    assert evaluate(again)["failed"] == {"llava-bench": 0, "mm-vet": 0}
    assert again.asked == ["llava-bench/1"]
    lines = (folder / results["answers"]["llava-bench"]).read_text().splitlines()
    assert len(lines) == 3


def test_a_judged_task_refuses_to_score(published):
    task = benchmark("mm-vet", data=str(published))
    with pytest.raises(RunError, match="scored by an outside judge"):
        task.scores(task.examples(), [""])
