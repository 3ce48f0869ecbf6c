"""Tasks that only demonstrations can tell: what a word means, how answers are called or written.

    picture "which thing is zib?" "red star"    picture "which thing is zib?" "red ring"
    picture "which thing is zib?" ▁             zib is red; without the demonstrations nobody knows

An item is a few pictures with a question about each, all under one rule that was drawn for the
item. Invented words and ways of writing of the test split occur in no training.

Reference: Lin et al., VILA, 2023, arXiv 2312.07533, section 3.2 and table 3 (interleaved data keep
in-context learning); Tsimpoukelli et al., Frozen, 2021, arXiv 2106.13884, section 4.3 (binding of
invented words from a few pictures).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from functools import partial

from lucida.world import questions
from lucida.world.documents import Line
from lucida.world.phrases import short_name
from lucida.world.questions import Exchange
from lucida.world.scenes import Scene, Split, make_scene

SHOTS = 4
"""Demonstrations of an item, before the question that it is about."""
BEFORE = ("", "it is", "i see", "look at", "this one is", "here is", "well,")
AFTER = ("", "now", "today", "here", "again", "for sure", "of course")

Rule = Callable[[Scene, random.Random, int], Exchange | None]
"""(scene, generator, number of the picture) → the question about it, answered by the rule."""


def is_held_out(words: str) -> bool:
    """Whether these invented words belong to the splits that training does not see: half of all."""
    return zlib.crc32(words.encode()) % 2 == 1


def invent_word(rng: random.Random, held_out: bool) -> str:
    """A word of three letters that means nothing."""
    while True:
        word = rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice("bdfgklmnprstvxz")
        if is_held_out(word) == held_out:
            return word


def draw_meaning(rng: random.Random, held_out: bool) -> Rule:
    """An invented word for a colour or a shape: "which thing is zib?", "red star"."""
    word, field = invent_word(rng, held_out), rng.choice(("colour", "shape"))
    value = rng.choice(questions.COLOURS if field == "colour" else questions.SHAPES)

    def ask(scene: Scene, rng: random.Random, number: int) -> Exchange | None:
        meant = [thing for thing in scene.things if getattr(thing, field) == value]
        if len(meant) != 1 or len(scene.things) < 2:
            return None
        options = tuple(map(short_name, scene.things))
        question = f"which thing is {word}?"
        return Exchange("demonstrated-word", field, question, short_name(meant[0]), options)

    return ask


def draw_labels(rng: random.Random, held_out: bool) -> Rule:
    """Invented words for yes and no: "zib or lom: is there a red star?". Yes and no take turns, in
    an order drawn once, so that two demonstrations show both."""
    yes, no = invent_word(rng, held_out), invent_word(rng, held_out)
    while no == yes:
        no = invent_word(rng, held_out)
    shown, first = rng.sample((yes, no), 2), rng.randrange(2)

    def ask(scene: Scene, rng: random.Random, number: int) -> Exchange | None:
        wanted = "yes" if (rng.randrange(2) if number == SHOTS else first + number) % 2 else "no"
        asked = questions.presence(scene, rng, "random")
        if asked is None or asked.answer != wanted:
            return None
        question = f"{shown[0]} or {shown[1]}: {asked.question}"
        answer = yes if wanted == "yes" else no
        return Exchange("demonstrated-label", wanted, question, answer, tuple(shown))

    return ask


def draw_format(rng: random.Random, held_out: bool) -> Rule:
    """Words around an answer: "what colour is the star?", "i see red today"."""
    while True:
        before, after = rng.choice(BEFORE), rng.choice(AFTER)
        if (before or after) and is_held_out(f"{before}|{after}") == held_out:
            break

    def ask(scene: Scene, rng: random.Random, number: int) -> Exchange | None:
        asked = questions.attribute(scene, rng)
        if asked is None:
            return None
        answer = f"{before} {asked.answer} {after}".strip()
        return Exchange("demonstrated-format", asked.kind, asked.question, answer)

    return ask


RULES: dict[str, Callable[[random.Random, bool], Rule]] = {
    "demonstrated-word": draw_meaning,
    "demonstrated-label": draw_labels,
    "demonstrated-format": draw_format,
}


def demonstrate(
    name: str, rng: random.Random, seed: int, split: Split, index: int, count: int, size: int
) -> tuple[tuple[Scene, ...], tuple[Exchange, ...], tuple[Line, ...]]:
    """`SHOTS` + 1 scenes with one question each under one rule, and the conversation that asks them
    in order. `count` is not looked at: an item asks one question."""
    rule = RULES[name](rng, split != "train")
    scenes: list[Scene] = []
    asked: list[Exchange] = []
    for attempt in range(4096):
        number = len(scenes)
        # As in `tasks`: attempts lie behind all scenes that other indices begin with.
        scene = make_scene(seed, split, (SHOTS + 1) * index + number + attempt * 1_000_003, size)
        exchange = rule(scene, rng, number)
        if exchange is None:
            continue
        scenes.append(scene)
        asked.append(exchange)
        if number == SHOTS:
            break
    else:
        raise RuntimeError(f"too few scenes near {split} {index} carry a question of {name}")
    turns: list[Line] = []
    for number, exchange in enumerate(asked):
        turns.append(Line("user", (number, exchange.question)))
        turns.append(Line("assistant", (exchange.answer,)))
    return tuple(scenes), tuple(asked), tuple(turns)


MAKERS = {name: partial(demonstrate, name) for name in RULES}
"""Task → how its items are made."""
