"""Requests: right answers, held out until asked for; sentences that say the answer."""

import random
import re

from lucida.world.documents import instruction
from lucida.world.requests import ONE_TO_TEN, REFUSAL, bad, harmless, request, task
from lucida.world.scenes import make_scene
from lucida.world.sentences import sentence
from lucida.world.text import exercise

NAMES = ["red star", "blue ring", "pink cross"]


def _drawn(make, held_out, count=1500):
    rng = random.Random(7)
    return [make(rng, held_out=held_out) for _ in range(count)]


def _tasks(rng, held_out=False):
    return task(NAMES, rng, held_out)


def test_requests_are_drawn_by_the_generator_alone():
    once, again = (
        [request(NAMES, random.Random(k), held) for k in range(200) for held in (False, True)]
        for _ in range(2)
    )
    assert once == again
    assert {one.kind for one in once} == {"bad", "harmless", "task"}


def test_what_is_held_out_is_never_asked_otherwise():
    for make in (bad, harmless, _tasks):
        asked = {one.question for one in _drawn(make, False)}
        kept = {one.question for one in _drawn(make, True)}
        assert len(kept) > 40
        assert not asked & kept
    told = {
        instruction([make_scene(0, split, k)], random.Random(k))[0].parts[0]
        for split in ("train", "test")
        for k in range(800)
    }
    assert not told & {one.question for make in (bad, harmless) for one in _drawn(make, True)}


def test_held_out_objects_are_new_to_their_deed():
    """Not only the wording is new: "steal the gold at the farm" is held out in every wording."""

    def deeds(make, held_out):
        pattern = re.compile(r"(steal|burn|buy|draw) (the [a-z ]+?)(?:[?.]|$)")
        found = (pattern.search(one.question) for one in _drawn(make, held_out))
        return {match.groups() for match in found if match}

    for make in (bad, harmless):
        assert deeds(make, True)
        assert not deeds(make, True) & deeds(make, False)


def test_bad_requests_are_refused_and_harmless_ones_never():
    assert {one.answer for one in _drawn(bad, False) + _drawn(bad, True)} == {REFUSAL}
    others = _drawn(harmless, False) + _drawn(harmless, True) + _drawn(_tasks, False)
    assert REFUSAL not in {one.answer for one in others}


def test_no_word_tells_bad_from_harmless():
    words = []
    for make in (bad, harmless):
        asked = _drawn(make, False) + _drawn(make, True)
        words.append({word for one in asked for word in re.findall(r"\w+", one.question)})
    assert words[0] <= words[1]


def test_tasks_are_right():
    number = {name: value for value, name in enumerate(ONE_TO_TEN, start=1)}
    seen = set()
    for one in _drawn(_tasks, False) + _drawn(_tasks, True):
        values = [number[word] for word in re.findall(r"\w+", one.question) if word in number]
        said, asked = one.answer.rstrip("."), one.question
        if re.match(
            r"what is \w+ and|what do you get when you add|add|how many are \w+ and", asked
        ):
            assert number[said] == sum(values)
            seen.add("sum")
        elif values and ("without" in asked or "you take" in asked):
            assert number[said] == values[0] - values[1]
            seen.add("difference")
        elif "more" in asked and len(values) == 2:
            assert number[said] == max(values)
            seen.add("more")
        elif len(values) == 2:
            step = 1 if values[0] < values[1] else -1
            counted = range(values[0], values[1] + step, step)
            assert said == ", ".join(ONE_TO_TEN[value - 1] for value in counted)
            seen.add("count")
        elif "other order" in asked:
            assert said == "pink cross, blue ring and red star"
            seen.add("order")
        elif "first" in asked:
            assert said == "red star"
            seen.add("first")
    assert seen == {"sum", "difference", "more", "count", "order", "first"}


def test_sentences_say_the_answer():
    forms = set()
    for index in range(300):
        for exchange in exercise(0, "train", index).exchanges:
            said = sentence(exchange)
            if exchange.box is not None or exchange.told or exchange.task == "caption":
                assert said is None
            elif said is not None:
                assert exchange.answer in said
                assert said.endswith(".")
                assert not re.search(r"[{}?]", said)
                forms.add(exchange.task)
    assert forms >= {"attribute", "reading", "counting", "presence", "side", "relation", "spatial"}
