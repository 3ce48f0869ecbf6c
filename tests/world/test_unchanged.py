"""Scenes, questions and texts of the tasks that scores and shipped parts rest on stay as they are.

The digests were taken when these tasks were the only ones. Whoever changes a question on purpose
makes another benchmark of it: every score that was published of the old one is then void.
"""

import hashlib

import pytest

from lucida.eval.benchmarks import benchmark
from lucida.world.tasks import TASKS, mixed_item
from lucida.world.text import document, exercise

MIXTURE = ["attribute", "counting", "presence", "spatial", "relation-pointed", "caption", "reading"]
ITEMS = {
    "caption": "e8bffa250c34",
    "attribute": "39df0ba808dd",
    "unanswerable": "2a39dfd16763",
    "reading": "39ce6ecea8e4",
    "boxes": "2116fb27385c",
    "region": "64b7b0d7a152",
    "inventory": "d2648d08a3b1",
    "relation": "0f5627858400",
    "spatial": "61ed0dbdecdb",
    "counting": "0702a7153c5a",
    "presence": "1aceefb21bf1",
    "presence-random": "ef7c9cd721ae",
    "presence-popular": "6dcf0733e77e",
    "presence-adversarial": "d8f196e774a5",
    "diagram": "3d59cedacaff",
    "comparison": "03bc5106103d",
    "long-caption": "b0ae256cf713",
    "alt-text": "d35e58aaf92c",
    "interleaved": "3065ac64f918",
    "conversation": "23f56f8990c2",
    "instruction": "5ee4460596ca",
    "text": "d4449311fa70",
    "side": "14e6fad9eafc",
    "relation-pointed": "3de9308675b6",
    "spatial-pointed": "39ac03668fb4",
}
EXAMPLES = {
    "caption": "26f4569428fe",
    "attribute": "a4677deb3a55",
    "unanswerable": "946ba24e2088",
    "reading": "c76cde64d5f0",
    "boxes": "2e7e47d7b498",
    "relation": "a68573d49767",
    "relation-pointed": "afe634b6d79a",
    "side": "1a49dfd64282",
    "spatial": "4ec1bd84a878",
    "spatial-pointed": "9903afc50697",
    "counting": "91b562455d40",
    "presence": "5abb05534c67",
    "presence-random": "b37201ac2824",
    "presence-popular": "a017ecc7cb4f",
    "presence-adversarial": "a8155308e218",
    "diagram": "54ff07d60a76",
    "comparison": "e3314107e3a5",
    "attribute-novel": "98c7c1bd1335",
    "boxes-novel": "1a297f8d8f85",
    "text-questions": "77014f60d1da",
    "text-documents": "7a9a6ac59558",
}
OTHERS = {
    "exercise": "1b87b5cca2f3",
    "document": "5dd83d8f69a4",
    "mixed": "c24330ec9870",
    "mixed, with one that does not share": "e8e556132c0d",
}


def _digest(parts):
    return hashlib.blake2b("\n".join(map(repr, parts)).encode(), digest_size=6).hexdigest()


def _scene(scene):
    things = [(t.shape, t.colour, t.size, t.texture, t.box, t.label) for t in scene.things]
    sign = scene.sign and (scene.sign.word, scene.sign.box)
    return scene.id, scene.width, scene.height, scene.background, things, sign


def _item(item):
    exchanges = [
        (e.task, e.kind, e.question, e.answer, e.options, e.box, e.image, e.told)
        for e in item.exchanges
    ]
    turns = [(line.role, line.parts) for line in item.turns]
    return item.id, [_scene(scene) for scene in item.scenes], exchanges, turns


def _items(task):
    for split, count in (("train", 60), ("validation", 10), ("test", 40), ("novel", 10)):
        yield from (_item(task.item(3, split, index, 5)) for index in range(count))
    yield _item(task.item(0, "train", 10**9, 8, 96))


def _examples(name):
    for e in benchmark(name).examples(60):
        yield e.id, e.question, e.answers, e.options, e.candidates, e.kind, e.cluster, e.box, e.size


def _others(name):
    if name == "exercise":
        for index in range(90):
            told = exercise(0, "train", index, progress=index % 3)
            yield _scene(told.scene), told.told, [(e.question, e.answer) for e in told.exchanges]
    elif name == "document":
        yield from (document(0, "train", index) for index in range(200))
    else:
        names = MIXTURE + ["diagram"] * (name == "mixed, with one that does not share")
        tasks = [TASKS[each] for each in names]
        yield from (_item(mixed_item(tasks, 0, "train", index)) for index in range(60))


@pytest.mark.parametrize("name", ITEMS)
def test_items_are_what_they_were(name):
    assert _digest(_items(TASKS[name])) == ITEMS[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_what_they_were(name):
    assert _digest(_examples(name)) == EXAMPLES[name]


@pytest.mark.parametrize("name", OTHERS)
def test_mixtures_and_texts_are_what_they_were(name):
    assert _digest(_others(name)) == OTHERS[name]
