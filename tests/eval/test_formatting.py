"""Scores in their own unit: points for shares, raw where lower is better; failures are told."""

import json
import math

import pytest

from lucida.apps.demo import show_scores
from lucida.core.results import Gain, TaskScores
from lucida.core.runs import RunFolder
from lucida.core.spec import EvaluationSpec
from lucida.eval.asking import Response
from lucida.eval.difference import differences, write_page
from lucida.eval.formatting import format_score, is_better
from lucida.eval.report import write_report
from lucida.eval.run import evaluate_target

SHARE = TaskScores(score=0.5)
BITS = TaskScores(score=1.5, higher_is_better=False)


def test_worked_examples():
    assert (
        format_score(SHARE, 0.714) == "71.4" and format_score(SHARE, 0.714, signed=True) == "+71.4"
    )
    assert (
        format_score(BITS, 1.2345) == "1.234" and format_score(BITS, -0.1, signed=True) == "-0.100"
    )
    above, below, across = (
        Gain(mean=0.0, interval=list(ends)) for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2))
    )
    assert is_better(SHARE, above) and not is_better(SHARE, across)
    assert not is_better(TaskScores(score=0.5, clusters=1), above)
    assert is_better(BITS, below) and not is_better(BITS, above)


class Reader:
    """Needs so many bits for every byte; answers what it is asked wrongly, or not at all."""

    protocols = ("loss", "generate")

    def __init__(self, bits):
        self.bits, self.identity = bits, {"bits": bits}

    def stream(self, examples, protocol, max_new_tokens):
        for index, example in enumerate(examples):
            if protocol == "generate":
                yield index, Response("", failed="timed out" if index % 2 else None)
                continue
            size = len(example.candidates[0].encode())
            yield (
                index,
                Response(json.dumps({"nats": self.bits * math.log(2) * size, "tokens": size})),
            )

    def read_box(self, text, width, height):
        return None


@pytest.fixture
def evaluated(tmp_path):
    """Two folders with scores of a text and of a task with pictures."""
    (tmp_path / "data/perplexity").mkdir(parents=True)
    (tmp_path / "data/perplexity/a.txt").write_text("A red star.\n" * 400)
    spec = EvaluationSpec(data=str(tmp_path / "data"), samples=100, baselines=[])
    for name, bits in (("first", 1.5), ("second", 1.25)):
        folder, tasks = tmp_path / name, ["perplexity", "attribute"]
        evaluate_target(name, lambda _, b=bits: Reader(b), folder, spec, tasks, 8)
    return tmp_path / "first", tmp_path / "second"


def test_bits_are_no_points(evaluated, capsys):
    first, second = evaluated
    results = json.loads((first / "results.json").read_text())
    assert results["tasks"]["perplexity"]["score"] == pytest.approx(1.5)
    assert results["tasks"]["perplexity"]["higher_is_better"] is False
    show_scores(RunFolder(first).results)
    told = capsys.readouterr()
    told = told.out + told.err
    assert "1.500" in told and "150.0" not in told
    assert "8.000" in told  # by chance
    assert "0.0*" in told  # nothing right: at the floor
    assert "* not surely above guessing" in told
    assert "attribute: 4 of 8 questions were never answered and count as empty outputs" in told
    page = write_report(first).read_text()
    assert "1.500 to 1.500" in page and "150.0" not in page
    text, _ = differences(first, second)
    assert text.task == "perplexity"
    assert (text.shown(text.gain.mean, signed=True), text.state) == ("-0.250", "up always")
    page = write_page(first, second, [text], second / "diff.html").read_text()
    assert "-0.250" in page and "up always" in page and "-25.0" not in page
