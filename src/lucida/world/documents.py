"""Captions, alt texts, documents with several pictures, conversations and plain text."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lucida.world import questions
from lucida.world.phrases import (
    NUMBERS,
    article,
    full_name,
    long_caption,
    place,
    short_caption,
    short_name,
)
from lucida.world.questions import Exchange
from lucida.world.requests import request
from lucida.world.scenes import Scene


@dataclass(frozen=True, slots=True)
class Line:
    """What one speaker says: text, and whole numbers where the picture of that scene is shown."""

    role: Literal["system", "user", "assistant", "text"]
    parts: tuple[str | int, ...]


def caption(scene: Scene, rng: random.Random) -> Exchange:
    """A short caption; the options are the five references that it is scored against (COCO)."""
    references = tuple(short_caption(scene, k) for k in range(5))
    return Exchange("caption", "short", "describe the picture.", references[0], references)


def describe_scenes(scenes: list[Scene], rng: random.Random) -> tuple[Line, ...]:
    """A long caption after the picture, with no question (alignment data)."""
    return (Line("user", (0,)), Line("assistant", (long_caption(scenes[0], rng),)))


def alt_text(scenes: list[Scene], rng: random.Random) -> tuple[Line, ...]:
    """Short, partial and noisy, as web alt texts are; one in twelve is about something else."""
    scene = scenes[0]
    if rng.random() < 1 / 12:
        text = rng.choice(("free shipping worldwide", "image 4 of 12", "logo", "best price today"))
    else:
        names = [short_name(t) for t in scene.things]
        text = " ".join(rng.sample(names, rng.randint(1, min(2, len(names)))))
        if scene.sign is not None and rng.random() < 0.3:
            text += f" {scene.sign.word}"
        text = rng.choice(
            ("{}", "{} - stock picture", "{} no. 7", "buy {} online", "{}.png")
        ).format(text)
    return (Line("text", (0, f" {text}")),)


def write_interleaved_page(scenes: list[Scene], rng: random.Random) -> tuple[Line, ...]:
    """A page with several pictures, each near the sentence that speaks of it (MMC4)."""
    parts: list[str | int] = [rng.choice(("a walk through the gallery.", "three pictures today."))]
    for number, scene in enumerate(scenes):
        sentence = f" {_sentence(scene, rng)}"
        parts += [number, sentence] if rng.random() < 0.7 else [sentence, number]
    parts.append(rng.choice((" that was all.", " come again.")))
    return (Line("text", tuple(parts)),)


def conversation(scenes: list[Scene], rng: random.Random) -> tuple[Line, ...]:
    """Several turns about one picture; later turns may rest on earlier ones (LLaVA-Instruct)."""
    scene = scenes[0]
    askers = (questions.attribute, questions.counting, questions.presence, questions.reading)
    turns: list[Line] = []
    for asker in rng.sample(askers, 3):
        exchange = asker(scene, rng)
        if exchange is None:
            continue
        shown: tuple[str | int, ...] = () if turns else (0,)
        turns += [
            Line("user", (*shown, exchange.question)),
            Line("assistant", (exchange.answer,)),
        ]
    shown = () if turns else (0,)
    turns += [
        Line("user", (*shown, "describe the picture in detail.")),
        Line("assistant", (long_caption(scene, rng),)),
    ]
    return tuple(turns)


def instruction(scenes: list[Scene], rng: random.Random) -> tuple[Line, ...]:
    """Text only: a small task, a bad request and its refusal, or a harmless request that looks like
    a bad one (FLAN, ShareGPT). What `requests` holds out is never asked."""
    asked = request([short_name(t) for t in scenes[0].things], rng)
    return (Line("user", (asked.question,)), Line("assistant", (asked.answer,)))


def plain_text(scenes: list[Scene], rng: random.Random) -> tuple[Line, ...]:
    """A little story about things of a scene; no picture."""
    return (Line("text", (story(scenes[0], rng),)),)


def story(scene: Scene, rng: random.Random) -> str:
    """Three to five sentences in which every word is one of the world."""
    hero = rng.choice(scene.things)
    name = short_name(hero)
    sentences = [
        rng.choice((f"once there was {article(full_name(hero))}.", f"i know {article(name)}."))
    ]
    for other in scene.things:
        if other is hero:
            continue
        # Along the axis on which the two are further apart.
        where = questions.RELATIONS[
            (0 if other.centre[0] > hero.centre[0] else 1)
            if abs(other.centre[0] - hero.centre[0]) > abs(other.centre[1] - hero.centre[1])
            else (2 if other.centre[1] > hero.centre[1] else 3)
        ]
        verb = rng.choice(("stood", "was", "lived"))
        sentences.append(f"the {name} {verb} {where} {article(short_name(other))}.")
    if scene.sign is not None:
        sentences.append(f"near it a sign said {scene.sign.word}.")
    sentences.append(rng.choice(("nothing else happened.", f"the {name} was happy.", "the end.")))
    return " ".join(sentences)


def _sentence(scene: Scene, rng: random.Random) -> str:
    thing = rng.choice(scene.things)
    where = place(thing.box, scene.width, scene.height)
    return rng.choice(
        (
            f"here is {article(full_name(thing))}.",
            f"look at the {short_name(thing)} at the {where}.",
            f"this one has {NUMBERS[len(scene.things)]} things.",
            short_caption(scene, rng.randrange(5)),
        )
    )
