"""Questions: right by the scene, balanced, deterministic; documents well formed."""

import re
from collections import Counter

import pytest

from lucida.world.phrases import short_name
from lucida.world.scenes import make_scene, scene_rng
from lucida.world.tasks import TASKS, mixed_item
from lucida.world.text import document, exercise

ASKED = ["attribute", "reading", "boxes", "spatial", "counting", "presence", "unanswerable"]
ASKED += ["region", "inventory", "relation"]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_items_are_deterministic_and_of_one_form(name):
    for index in range(40):
        item = TASKS[name].item(0, "test", index)
        assert item == TASKS[name].item(0, "test", index)
        assert bool(item.exchanges) != bool(item.turns) or name.startswith("demonstrated")
        shown = [p for line in item.turns for p in line.parts if isinstance(p, int)]
        assert sorted(shown) == list(range(len(item.scenes))) or item.exchanges
        for e in item.exchanges:
            assert bool(e.answer) + bool(e.box) + bool(e.told) == 1 or e.told[-1].endswith(e.answer)


def _by_name(scene, words):
    return next(t for t in scene.things if short_name(t) == words)


def test_spatial_answers_follow_from_centres():
    pattern = re.compile(
        r"true or false: the (\w+ \w+) is (left of|right of|above|below) the (.+)\."
    )
    for index in range(200):
        item = TASKS["spatial"].item(0, "test", index)
        for exchange in item.exchanges:
            first, relation, second = pattern.match(exchange.question).groups()
            (ax, ay), (bx, by) = (_by_name(item.scenes[0], n).centre for n in (first, second))
            holds = {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}
            assert exchange.answer == ("true" if holds[relation] else "false")


def test_relations_agree_with_statements():
    pattern = re.compile(r"is the (\w+ \w+) (?:left or right of|above or below) the (.+)\?")
    for index in range(200):
        item = TASKS["relation"].item(0, "test", index)
        for exchange in item.exchanges:
            names = pattern.match(exchange.question).groups()
            (ax, ay), (bx, by) = (_by_name(item.scenes[0], n).centre for n in names)
            holds = {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}
            assert holds[exchange.answer]


@pytest.mark.parametrize("name", ["relation", "spatial"])
def test_what_is_pointed_at_are_the_two_things_that_are_named(name):
    for index in range(100):
        item = TASKS[f"{name}-pointed"].item(0, "test", index)
        for exchange in item.exchanges:
            pattern = r"point first\. .*the (\w+ \w+) .* the (\w+ \w+)[.?]"
            pair = re.match(pattern, exchange.question).groups()
            boxes = tuple(_by_name(item.scenes[0], words).box for words in pair)
            assert (exchange.told[1], exchange.told[3]) == boxes
            assert exchange.told[-1].split()[-1] == exchange.answer


def test_presence_answers_follow_from_the_scene_and_adversarial_ones_are_hard():
    for kind in ("random", "popular", "adversarial"):
        for index in range(150):
            item = TASKS[f"presence-{kind}"].item(0, "test", index)
            things = item.scenes[0].things
            for exchange in item.exchanges:
                colour, shape = exchange.question.rstrip("?").split()[-2:]
                there = any((t.colour, t.shape) == (colour, shape) for t in things)
                assert exchange.answer == ("yes" if there else "no")
                if kind == "adversarial" and not there:
                    assert colour in {t.colour for t in things}
                    assert shape in {t.shape for t in things}


def _counted(scene, question):
    """What a counting question is about, found in the plainest way."""
    words = re.search(r"how many (.*) are there", question).group(1)
    if related := re.match(r"things (left of|right of|above|below) the (.+)", words):
        relation, name = related.groups()
        anchor = _by_name(scene, name)
        axis = 0 if relation in ("left of", "right of") else 1
        sign = 1 if relation in ("right of", "below") else -1
        return [t for t in scene.things if sign * (t.centre[axis] - anchor.centre[axis]) > 0]
    words = [w[:-2] if w == "crosses" else w.rstrip("s") for w in words.split()]
    wanted = [w for w in words if w != "thing"]
    return [
        t for t in scene.things if all(w in (t.colour, t.shape, t.size, t.texture) for w in wanted)
    ]


@pytest.mark.parametrize("order", ["", "-unordered", "-wrong"])
def test_what_is_pointed_at_are_the_things_that_are_counted(order):
    ordered, there = [], 0
    for index in range(100):
        item = TASKS[f"counting-pointed{order}"].item(0, "test", index)
        (scene,) = item.scenes
        for exchange in item.exchanges:
            boxes = [part for part in exchange.told if not isinstance(part, str)]
            assert len(boxes) == int(exchange.answer)
            assert exchange.told[-1].strip() == exchange.answer
            sides = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
            counted = [thing.box for thing in _counted(scene, exchange.question)]
            if order == "-wrong":
                assert all(0 <= x0 < x1 <= scene.width and 0 <= y0 < y1 <= scene.height
                           for x0, y0, x1, y1 in boxes)  # fmt: skip
                assert sorted(sides) == sorted((b[2] - b[0], b[3] - b[1]) for b in counted)
                there += sorted(boxes) == sorted(counted) and bool(boxes)
            else:
                assert sorted(boxes) == sorted(counted)
                middles = [x0 + x1 for x0, _, x1, _ in boxes]
                ordered.append(middles == sorted(middles))
    assert there < 3
    assert order == "-wrong" or all(ordered) == (order == "")


def test_counts_are_right():
    for index in range(200):
        item = TASKS["counting"].item(0, "test", index)
        for exchange in item.exchanges:
            number = len(_counted(item.scenes[0], exchange.question))
            assert exchange.answer == str(number), exchange


def test_no_answer_prevails():
    limits = {"spatial": 0.55, "presence-adversarial": 0.55, "counting": 0.45, "attribute": 0.3}
    for name, limit in limits.items():
        answers = Counter(
            e.answer for k in range(400) for e in TASKS[name].item(0, "test", k).exchanges
        )
        assert max(answers.values()) / answers.total() < limit, (name, answers)


def test_mixed_items_ask_several_families_about_one_scene():
    tasks = [TASKS[name] for name in ASKED]
    seen = Counter()
    for index in range(200):
        item = mixed_item(tasks, 0, "train", index)
        assert len(item.scenes) == 1
        assert len({(e.task, e.question) for e in item.exchanges}) == len(item.exchanges)
        seen.update(e.task for e in item.exchanges)
    assert set(seen) == set(ASKED)


def test_text_of_the_world_tells_what_the_questions_need():
    for index in range(200):
        told = exercise(0, "train", index)
        words = " ".join(part for part in told.told if isinstance(part, str))
        boxes = [part for part in told.told if not isinstance(part, str)]
        assert boxes[: len(told.scene.things)]
        for thing in told.scene.things:
            assert thing.colour in words
            assert thing.box in boxes
        for exchange in told.exchanges:
            assert exchange.box is None or exchange.box in boxes
        assert document(0, "train", index) == document(0, "train", index)


def test_generators_of_different_numbers_differ():
    draws = {
        scene_rng(seed, split, index).random()
        for seed in (0, 1)
        for split in (0, 1)
        for index in range(500)
    }
    assert len(draws) == 2000


def test_scenes_of_one_index_differ_between_sizes():
    assert make_scene(0, "train", 0, 64) != make_scene(0, "train", 0, 96)
