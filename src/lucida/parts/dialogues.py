"""Conversations in words alone, for the chat model: a scene is told where a picture would stand.

Three forms, each a `Sample` that any chat template can write:

    questions   the scene, then isolated questions, each a branch
    dialogue    several turns: a system text at times, the scene, questions, questions about "it",
                and requests in between
    requests    one to three requests without a scene
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from lucida.data.sample import Sample, Turn
from lucida.parts.corpus import Reader, Told
from lucida.world.phrases import short_name
from lucida.world.questions import MARGIN, Exchange
from lucida.world.requests import Request, request
from lucida.world.scenes import SPLITS, Scene, Split, make_scene, scene_rng
from lucida.world.sentences import sentence
from lucida.world.text import exercise

STANDS = 2.0
"""Where the exercises stand: at the end of the base model's training, as in its card."""
PLAIN = (
    "you are a helpful model.",
    "you tell people about pictures.",
    "help with what is asked.",
    "say what is in the picture.",
)
"""System texts that change nothing."""
SENTENCES = ("answer in a sentence.", "say it in whole sentences.", "you answer in sentences.")
"""System texts that ask for sentences."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, and the kind of each of its answers in the order in which they stand."""

    sample: Sample
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Said:
    """A question and its answer in words, boxes written as tokens."""

    kind: str
    question: str
    answer: str

    @property
    def turns(self) -> tuple[Turn, Turn]:
        return Turn("user", (self.question,)), Turn("assistant", (self.answer,))


def questions_talk(reader: Reader, seed: int, split: Split, index: int) -> Talk:
    """Exercise number `index`: the scene told by the user, its questions as branches."""
    told = exercise(seed, split, index, progress=STANDS)
    asked = [_make_spoken(reader, told.scene, each) for each in told.exchanges]
    stem = (Turn("user", (_words(reader, told.scene, told.told),)),)
    branches = tuple(one.turns for one in asked)
    sample = Sample(f"questions/{split}-{seed}-{index}", stem=stem, branches=branches)
    return Talk(sample, tuple(one.kind for one in asked))


def dialogue_talk(reader: Reader, seed: int, split: Split, index: int) -> Talk:
    """Up to eleven questions. A third of the dialogues begin with a system text that asks for
    sentences, a third with one that changes nothing; in some the scene is told after a request."""
    rng = scene_rng(seed, SPLITS.index(split), index, 558)
    told = exercise(seed, split, index, progress=STANDS)
    scene, names = told.scene, [short_name(t) for t in told.scene.things]
    system = rng.choice((None, rng.choice(PLAIN), rng.choice(SENTENCES)))
    whole = system in SENTENCES
    about_it = _about_it(scene, rng, boxes=not whole) if whole or rng.random() < 0.5 else []
    asked = [*about_it, *told.exchanges[: rng.randint(1, 4)]]
    if whole:
        asked = [each for each in map(_in_a_sentence, asked) if each is not None]
    said = [_make_spoken(reader, scene, each) for each in asked]
    # The scene is told in the first question, where a picture would be shown.
    said[0] = replace(said[0], question=f"{_words(reader, scene, told.told)}\n{said[0].question}")
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        # Never between a thing's name and the questions about "it".
        place = rng.randint(min(len(said), max(1, len(about_it))), len(said))
        said.insert(place, _make_request(request(names, rng)))
    if rng.random() < 0.3:
        said.insert(0, _make_request(request(names, rng)))
    return _talk(f"dialogue/{split}-{seed}-{index}", said, system)


def requests_talk(seed: int, split: Split, index: int) -> Talk:
    """One to three requests, behind a system text at times; none of them is held out."""
    rng = scene_rng(seed, SPLITS.index(split), index, 559)
    names = [short_name(t) for t in make_scene(seed, split, index).things]
    said = [_make_request(request(names, rng)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    system = rng.choice((None, None, rng.choice(PLAIN), rng.choice(SENTENCES)))
    return _talk(f"requests/{split}-{seed}-{index}", said, system)


def request_talk(asked: Request, origin: str) -> Talk:
    """One request by itself."""
    return _talk(origin, [_make_request(asked)], None)


def _talk(origin: str, said: list[_Said], system: str | None) -> Talk:
    turns = [turn for one in said for turn in one.turns]
    if system is not None:
        turns.insert(0, Turn("system", (system,)))
    return Talk(Sample(origin, branches=(tuple(turns),)), tuple(one.kind for one in said))


def _make_request(asked: Request) -> _Said:
    return _Said(asked.kind, asked.question, asked.answer)


def _make_spoken(reader: Reader, scene: Scene, exchange: Exchange) -> _Said:
    """A question with its answer in words; a box is written as its tokens."""
    answer = exchange.answer
    if exchange.box is not None:
        answer = _words(reader, scene, (exchange.box,))
    elif exchange.told:
        answer = _words(reader, scene, exchange.told)
    return _Said(exchange.task, exchange.question, answer)


def _words(reader: Reader, scene: Scene, told: Told) -> str:
    """Words and boxes as one text."""
    return "".join(part if isinstance(part, str) else reader.box(scene, part) for part in told)


def _in_a_sentence(exchange: Exchange) -> Exchange | None:
    """The same, its answer a sentence of kind "sentence"; None where there is no such sentence."""
    answer = sentence(exchange)
    return None if answer is None else replace(exchange, task="sentence", answer=answer)


def _about_it(scene: Scene, rng: random.Random, boxes: bool) -> list[Exchange]:
    """Two or three questions about one thing, which only the first of them names."""
    thing = rng.choice(scene.things)
    asked = [
        Exchange("it", "size", "is {} small or large?", thing.size),
        Exchange("it", "texture", "is {} plain, striped or dotted?", thing.texture),
    ]
    if boxes:
        asked.append(Exchange("it", "box", "where is {}?", "", box=thing.box))
    sides = (("left", "right"), ("top", "bottom"))
    for axis, (extent, options) in enumerate(zip((scene.width, scene.height), sides, strict=True)):
        gap = thing.centre[axis] - extent / 2
        if abs(gap) >= MARGIN * max(scene.width, scene.height) / 128:
            question = f"is {{}} on the {options[0]} or the {options[1]} side?"
            asked.append(Exchange("it", "side", question, options[gap > 0]))
    chosen = rng.sample(asked, min(len(asked), rng.randint(2, 3)))
    names = (f"the {short_name(thing)}", "it", "it")
    tasks = ("attribute", "it", "it")
    return [
        replace(each, task=task, question=each.question.format(name))
        for each, name, task in zip(chosen, names, tasks, strict=False)
    ]
