"""CHAIR in the miniature world: mentions, and whether they are there."""

import pytest

from lucida.eval.benchmarks import benchmark
from lucida.eval.metrics.mentions import chair_scores, find_mentions, is_there

STAR = {"size": "small", "colour": "red", "texture": "striped", "shape": "star"}
RING = {"size": "large", "colour": "green", "texture": "plain", "shape": "ring"}
SIGN = {"word": "stop"}


def test_what_a_caption_says_is_there():
    found = find_mentions("A large red star on a sandy background, and a sign that says stop.")
    assert found == [{"size": "large", "colour": "red", "shape": "star"}, {"word": "stop"}]
    assert find_mentions("two blue crosses") == [{"colour": "blue", "shape": "cross"}]
    assert find_mentions("red and a ring") == [{"shape": "ring"}], "an adjective of nothing"
    assert find_mentions("stop at the bank, a dog") == []
    assert find_mentions(None) == find_mentions("") == []


def test_a_thing_has_all_that_is_said_of_it():
    assert is_there({"colour": "red", "shape": "star"}, [RING, STAR])
    assert not is_there({"size": "large", "colour": "red", "shape": "star"}, [RING, STAR])
    assert not is_there({"word": "open"}, [STAR, SIGN])


def test_worked_example():
    found = chair_scores(["a red star and a blue ring"], [[STAR, RING]])
    assert (found.instances, found.sentences, found.cover, found.mentions) == (0.5, 1.0, 0.5, 2.0)
    silent = chair_scores(["nothing", "a sign that says stop"], [[STAR], [STAR, SIGN]])
    assert (silent.instances, silent.sentences, silent.mentions) == (0.0, 0.0, 0.5)
    assert silent.cover == pytest.approx(1 / 3)


def test_the_worlds_own_captions_invent_nothing():
    task = benchmark("caption-chair")
    examples = task.examples(40)
    assert [e.id for e in examples] == [e.id for e in benchmark("caption").examples(40)]
    for number in range(5):
        said = [e.answers[number % len(e.answers)] for e in examples]
        assert set(task.scores(examples, said)) == {1.0}
        totals = task.summary(examples, said, [1.0] * 40)
        assert totals["CHAIRi"] == totals["CHAIRs"] == 0.0
        assert totals["cover"] == 100.0 and totals["mentions"] > 1
    shuffled = [e.answers[0] for e in [*examples[1:], examples[0]]]
    totals = task.summary(examples, shuffled, task.scores(examples, shuffled))
    assert totals["CHAIRi"] > 70 and totals["CHAIRs"] > 90
