"""Prompts, scores and totals of text benchmarks against values worked out by hand."""

import json
import math

import pytest
from asking import make, measured, never

from lucida.core.errors import DataError


def test_mmlu_asks_behind_five_worked_questions(published):
    task = make("mmlu", published)
    example = next(e for e in task.examples() if e.id == "mmlu/abstract_algebra/0")
    worked = "Worked?\nA. w\nB. x\nC. y\nD. z\nAnswer: D\n\n"
    assert example.question == (
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
        + 5 * worked
        + 'What is 2+2, "exactly"?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:'
    )
    assert example.sample.images == ()
    assert task.protocols[0] == "likelihood"
    scores, totals = measured(task, " B")
    assert set(scores.values()) == {1}
    assert totals["subjects"] == 100


def test_bbh_reads_what_follows_the_answer_is(published):
    task = make("bbh", published)
    example = task.examples()[0]
    assert example.question == (
        "Evaluate.\n\nQ: True is\nA: So the answer is True.\n\n"
        "Q: not ( True ) is\nA: Let's think step by step."
    )
    read = lambda text: task.parse(example, text, never)  # noqa: E731
    assert (
        read("not True is False. So the answer is False.\n\nQ: next the answer is True.") == "False"
    )
    assert read("the answer is (A).") == "(A)"
    assert read("False") is None
    assert task.scores([example], ["False"]) == [1]


def test_drop_takes_numbers_spans_and_dates(published):
    task = make("drop", published)
    examples = {e.id: e for e in task.examples()}
    assert examples["drop/q1"].details["spans"] == (("3",), ("three", "goals"))
    assert examples["drop/q2"].answers == ("4 July",)
    assert examples["drop/q1"].question == (
        "Passage: They won 3 goals.\nQuestion: How many goals?\nAnswer:"
    )
    scores, totals = measured(task, "3\nPassage: and so on")
    assert scores == {"drop/q1": 1, "drop/q2": 0}
    assert totals == {"exact match": 50, "F1": 50}


def test_perplexity_is_worked_out_from_losses(published):
    task = make("perplexity", published)
    examples = task.examples()
    text = "It was a bright cold day in April.\n" * 100
    assert "".join(sorted((e.candidates[0] for e in examples), key=len, reverse=True)) == text
    assert {turn.role for e in examples for turn in e.sample.branches[0]} == {"text"}
    losses = {e.id: json.dumps({"nats": len(e.candidates[0]), "tokens": 10}) for e in examples}
    scores, totals = measured(task, losses)
    # One nat for each byte: 1 / ln 2 bits.
    assert list(scores.values()) == pytest.approx([1 / math.log(2)] * len(examples))
    assert totals["bits per byte"] == pytest.approx(1 / math.log(2))
    assert totals["perplexity per word"] == pytest.approx(math.exp(35 / 8))
    assert totals["perplexity per token"] == pytest.approx(math.exp(3500 / (10 * len(examples))))
    assert not task.higher_is_better
    for wrong in (
        "",
        "nan",
        '{"nats": 1}',
        '{"nats": NaN, "tokens": 3}',
        '{"nats": 1, "tokens": 0}',
    ):
        with pytest.raises(DataError, match="has no loss"):
            measured(task, wrong)
