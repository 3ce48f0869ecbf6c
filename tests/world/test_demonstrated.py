"""Tasks that only demonstrations can tell: the rule can be read off them, and from nothing else."""

import re

import pytest

from lucida.core.errors import RunError
from lucida.eval.benchmarks import benchmark
from lucida.eval.few_shot import add_demonstrations
from lucida.world.demonstrated import SHOTS, is_held_out
from lucida.world.phrases import short_name
from lucida.world.tasks import TASKS

NAMES = ("demonstrated-word", "demonstrated-label", "demonstrated-format")


@pytest.mark.parametrize("name", NAMES)
def test_the_conversation_is_its_exchanges_in_order(name):
    for index in range(20):
        item = TASKS[name].item(0, "train", index)
        assert len(item.scenes) == len(item.exchanges) == SHOTS + 1
        said = [part for line in item.turns for part in line.parts]
        asked = [(n, e.question, e.answer) for n, e in enumerate(item.exchanges)]
        assert said == [part for each in asked for part in each]


def test_a_word_means_one_colour_or_shape_throughout():
    for index in range(30):
        item = TASKS["demonstrated-word"].item(0, "test", index)
        (kind,) = {exchange.kind for exchange in item.exchanges}
        (value,) = {e.answer.split()[kind == "shape"] for e in item.exchanges}
        for scene, exchange in zip(item.scenes, item.exchanges, strict=True):
            meant = [t for t in scene.things if value in (t.colour, t.shape)]
            assert [short_name(thing) for thing in meant] == [exchange.answer]


def test_labels_stand_for_yes_and_no_and_two_demonstrations_show_both():
    for index in range(30):
        item = TASKS["demonstrated-label"].item(0, "test", index)
        label: dict[bool, str] = {}
        for scene, exchange in zip(item.scenes, item.exchanges, strict=True):
            names = re.match(r"(\w+) or (\w+): is there an? (\w+ \w+)", exchange.question).groups()
            there = names[2] in map(short_name, scene.things)
            assert label.setdefault(there, exchange.answer) == exchange.answer
            assert set(exchange.options) == set(names[:2])
        assert len(set(label.values())) == 2
        assert len({exchange.answer for exchange in item.exchanges[:2]}) == 2


def test_answers_are_written_in_one_way():
    for index in range(30):
        item = TASKS["demonstrated-format"].item(0, "test", index)
        values = "red orange yellow green cyan blue purple pink small large plain striped dotted "
        values += "circle square triangle star cross ring"
        pattern = rf"(.*?) ?\b({'|'.join(values.split())})\b ?(.*)"
        around = {re.fullmatch(pattern, e.answer).group(1, 3) for e in item.exchanges}
        assert len(around) == 1 and any(around.pop())


@pytest.mark.parametrize("name", NAMES[:2])
def test_words_of_the_test_are_in_no_training(name):
    for split, held_out in (("train", False), ("test", True)):
        for index in range(20):
            exchange = TASKS[name].item(0, split, index).exchanges[0]
            last = exchange.question.split()[-1].rstrip("?")
            words = exchange.options if name.endswith("label") else (last,)
            assert {is_held_out(word) for word in words} == {held_out}


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_belong_to_their_question(name):
    task = benchmark(name)
    examples = task.examples(3)
    assert all(len(example.sample.images) == 1 for example in examples)
    asked = add_demonstrations(task, examples, 4, seed=1)
    for number, example in enumerate(asked):
        item = TASKS[name].item(0, "test", number)
        assert len(example.sample.images) == 5
        lines = example.question.splitlines()
        answers = [line.removeprefix("assistant: ") for line in lines if "assistant" in line]
        assert sorted(answers) == sorted(each.answer for each in item.exchanges[:-1])
        assert example.answers == (item.exchanges[-1].answer,)
    with pytest.raises(RunError, match="4 demonstrations for each question"):
        add_demonstrations(task, examples, 5, seed=0)
