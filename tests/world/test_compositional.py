"""Harder questions: right by brute force over the scene, balanced, and not to be had for less."""

import math
import re
from collections import Counter

import pytest

from lucida.world.compositional import NEITHER, SHARING
from lucida.world.phrases import short_name
from lucida.world.scenes import COLOURS, SHAPES, SIZES, TEXTURES
from lucida.world.tasks import TASKS, mixed_item

RELATED = r"(left of|right of|above|below) the (\w+ \w+)"
LEAST = 6  # pixels by which a relation holds


def _asked(name, count=250, split="test"):
    for index in range(count):
        item = TASKS[name].item(0, split, index)
        for exchange in item.exchanges:
            yield item.scenes[0], exchange


def _by_name(scene, words):
    (found,) = [t for t in scene.things if short_name(t) == words]
    return found


def _holds(relation, a, b):
    """Whether a stands so to b, clearly; None on the line."""
    axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[
        relation
    ]
    gap = sign * (b.centre[axis] - a.centre[axis])
    return None if abs(gap) < LEAST else gap > 0


def test_one_thing_alone_of_its_like_stands_so_and_has_the_attribute():
    pattern = re.compile(rf"(?:what colour|what shape|is)(?: is)? the (\w+)(?: thing)? {RELATED}")
    kinds = Counter()
    for scene, exchange in _asked("attribute-by-relation"):
        value, relation, name = pattern.match(exchange.question).groups()
        anchor = _by_name(scene, name)
        like = [t for t in scene.things if value in (t.colour, t.shape) and t is not anchor]
        stand = [_holds(relation, t, anchor) for t in like]
        assert None not in stand
        assert stand.count(True) == 1
        answer = getattr(like[stand.index(True)], exchange.kind)
        assert exchange.answer == answer
        assert answer in exchange.options
        # Without the relation the question has another answer as well.
        assert [getattr(t, exchange.kind) for t in like].count(answer) == 1 < len(like)
        kinds[exchange.kind] += 1
    assert min(kinds[kind] for kind in ("colour", "shape", "size", "texture")) > 80


def test_what_is_asked_in_detail_is_there_in_every_word_or_wrong_in_one():
    pattern = re.compile(r"is there an? (\w+) (\w+) (\w+) (\w+)\?")
    fields = ("size", "colour", "texture", "shape")
    answers = Counter()
    for scene, exchange in _asked("presence-detailed"):
        words = pattern.fullmatch(exchange.question).groups()
        rows = [tuple(getattr(t, field) for field in fields) for t in scene.things]
        assert exchange.answer == ("yes" if words in rows else "no")
        for word, values in zip(words, zip(*rows, strict=True), strict=True):
            assert word in values
        if exchange.answer == "no":
            k = fields.index(exchange.kind)
            assert any(r[:k] + r[k + 1 :] == words[:k] + words[k + 1 :] for r in rows)
        answers[exchange.kind, exchange.answer] += 1
    assert len(answers) == 8
    assert max(answers.values()) < 1.4 * min(answers.values())


def _number(scene, words):
    words = words.removesuffix(" things")
    value = {f"{s}s": s for s in SHAPES if s != "cross"} | {"crosses": "cross"}
    return sum(value.get(words, words) in (t.colour, t.shape, t.texture) for t in scene.things)


def test_the_larger_of_two_counts_is_named_and_each_answer_is_a_third():
    pattern = re.compile(r"are there more (.+), more (.+) or neither\?")
    places = Counter()
    for scene, exchange in _asked("counting-compared", 500):
        names = pattern.fullmatch(exchange.question).groups()
        first, second = (_number(scene, words) for words in names)
        assert min(first, second) > 0
        right = NEITHER if first == second else names[first < second]
        assert exchange.answer == right.removesuffix(" things")
        assert exchange.options == (*(n.removesuffix(" things") for n in names), NEITHER)
        places[exchange.options.index(exchange.answer)] += 1
    assert max(places.values()) / places.total() < 0.38


def test_the_nearest_is_nearer_than_all_others_and_a_half_is_not_enough():
    pattern = re.compile(r"which thing is nearest to the (\w+ \w+)\?")
    answers, others = Counter(), []
    for scene, exchange in _asked("spatial-nearest"):
        thing = _by_name(scene, pattern.fullmatch(exchange.question).group(1))
        distances = sorted(
            (math.dist(thing.centre, t.centre), short_name(t)) for t in scene.things if t != thing
        )
        assert distances[0][1] == exchange.answer
        assert distances[1][0] - distances[0][0] >= LEAST
        assert exchange.kind == ("of two" if len(distances) == 2 else "of more")
        answers[exchange.answer] += 1
        others.append(len(distances))
    assert answers.most_common(1)[0][1] / answers.total() < 0.1
    assert sum(1 / number for number in others) / len(others) < 0.45


def test_one_sign_alone_stands_where_the_question_says():
    pattern = re.compile(rf"what does the (?:(left|right|top|bottom) sign|sign {RELATED}) say\?")
    sides = {"left": "left of", "right": "right of", "top": "above", "bottom": "below"}
    kinds, words = Counter(), Counter()
    for scene, exchange in _asked("reading-by-place"):
        side, relation, name = pattern.fullmatch(exchange.question).groups()
        if side:
            stand = [
                all(_holds(sides[side], s, other) for other in scene.signs if other is not s)
                for s in scene.signs
            ]
        else:
            stand = [_holds(relation, s, _by_name(scene, name)) for s in scene.signs]
            assert None not in stand
        assert stand.count(True) == 1
        assert scene.signs[stand.index(True)].word == exchange.answer
        assert len(scene.signs) > 1
        assert exchange.kind == ("place" if side else "relation")
        kinds[exchange.kind] += 1
        words[exchange.answer] += 1
    assert min(kinds.values()) > 100
    assert words.most_common(1)[0][1] / words.total() < 0.1


def test_precise_boxes_are_asked_as_boxes_are():
    for scene, exchange in _asked("boxes-precise", 60):
        named = re.fullmatch(r"where is the (.+)\?", exchange.question).group(1).split()
        (found,) = [
            t
            for t in scene.things
            if set(named) <= {t.size, t.colour, t.texture, t.shape} and t.shape == named[-1]
        ]
        assert exchange.box == found.box


def test_every_answer_is_a_word_that_the_world_knows():
    known = {*COLOURS, *SHAPES, *SIZES, *TEXTURES, *(f"{s}s" for s in SHAPES), "crosses", NEITHER}
    for name in ("attribute-by-relation", "counting-compared"):
        assert {e.answer for _, e in _asked(name, 100)} <= known


@pytest.mark.parametrize("split", ["validation", "novel"])
@pytest.mark.parametrize("name", SHARING)
def test_other_splits_and_larger_pictures_carry_them(name, split):
    for size in (64, 96):
        for index in range(20):
            assert TASKS[name].item(5, split, index, 3, size).exchanges


def test_tasks_share_a_picture_where_they_ask_of_the_same_kind_of_scene():
    tasks = [TASKS[name] for name in ("attribute", "counting", *SHARING)]
    scene_of = {name: make.__name__ for name, (_, make) in SHARING.items()}
    scene_of |= dict.fromkeys(("attribute", "counting", "boxes"), "make_scene")
    scenes, several = Counter(), 0
    for index in range(300):
        item = mixed_item(tasks, 0, "train", index)
        assert item == mixed_item(tasks, 0, "train", index)
        asked = {exchange.task for exchange in item.exchanges}
        (of,) = {scene_of[name] for name in asked}
        scenes[of] += 1
        several += len(asked) > 1
    # Four of the eight families ask of ordinary scenes, three of crowds, one of signs.
    assert abs(scenes["make_scene"] / 300 - 4 / 8) < 0.12
    assert abs(scenes["make_crowd"] / 300 - 3 / 8) < 0.12
    assert abs(scenes["make_signs"] / 300 - 1 / 8) < 0.12
    assert several > 200
