"""The miniature of text retention: no pictures, honest guesses, the same examples every time."""

import json
import math

import pytest
from asking import never

from lucida.eval.benchmarks import BENCHMARKS, WORLD, benchmark


def test_questions_are_answered_by_the_words_before_them():
    task = benchmark("text-questions")
    examples = task.examples()
    assert len(examples) == task.count
    assert len({e.id for e in examples}) == len(examples)
    assert task.examples(7) == examples[:7]
    assert BENCHMARKS["text-questions"]().examples(7) == examples[:7]
    for example in examples:
        words, question = example.question.split("\n")
        assert example.sample.images == ()
        assert "<b" not in words
        if example.kind == "reading":
            assert example.answers[0] in words
        if example.kind == "presence" and example.answers[0] == "yes":
            colour, shape = question.rstrip("?").split()[-2:]
            assert colour in words and shape in words
    parsed = [task.parse(e, f" {e.answers[0].upper()}\n", never) for e in examples]
    assert set(task.scores(examples, parsed)) == {1.0}
    assert set(task.summary(examples, parsed, [1.0] * 1000).values()) == {100}
    assert sum(task.guesses(examples).majority) < 500


def test_demonstrations_are_of_other_scenes():
    task = benchmark("text-questions")
    shown = task.train_examples(5)
    assert len(shown) == 5
    assert not {e.question for e in shown} & {e.question for e in task.examples()}


def test_documents_are_scored_by_their_loss():
    task = benchmark("text-documents")
    examples = task.examples()
    assert len(examples) == task.count == 300
    assert task.examples(3) == examples[:3]
    assert task.files == () and task.root is None
    said = [json.dumps({"nats": len(e.candidates[0]), "tokens": 4}) for e in examples]
    scores = task.scores(
        examples, [task.parse(e, o, never) for e, o in zip(examples, said, strict=True)]
    )
    assert scores == pytest.approx([1 / math.log(2)] * 300)


@pytest.mark.parametrize("name", WORLD)
def test_the_ways_to_ask_fit_the_examples(name):
    task = benchmark(name)
    for example in task.examples(40):
        assert ("likelihood" not in task.protocols) or len(example.candidates) > 1


@pytest.mark.parametrize("name", [n for n in WORLD if n != "text-documents"])
def test_demonstrations_of_the_world_are_no_test_examples(name):
    task = benchmark(name)
    shown = task.train_examples(4)
    assert len(shown) == 4 and len({e.id for e in shown}) == 4
    assert all("/train-" in e.id for e in shown)
    assert all(e.answer or e.box for e in shown)
