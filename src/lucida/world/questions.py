"""Questions about one scene, each with its exact answer, balanced so that guessing gains little.

Every function takes a scene and a random generator and gives an `Exchange`, or None when the scene
cannot carry such a question (no sign to read, no unambiguous relation).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from lucida.world.phrases import article, full_name, short_name, sign_name
from lucida.world.scenes import (
    COLOURS,
    HELD_OUT,
    POPULAR,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Sign,
    Thing,
)

READ = ("what does the sign say?", "what word is on the sign?", "read the sign.")
INVENTORY = "what is in the picture?"
POINT = "point first."
RELATIONS = ("left of", "right of", "above", "below")
AXES = ("horizontal", "vertical")
MARGIN = 6
"""Pixels by which two centres must differ before a relation counts as true (at 64 pixels)."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer. `box` (pixels of image `image`) is the answer when it is given;
    `told` is what is said where words and boxes are mixed; an `answer` beside it is its last word.

    `kind` names the sub-score (colour, adversarial, simple, ...). `options` are the candidate
    answers of tasks that the field scores by choice.
    """

    task: str
    kind: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    box: tuple[int, int, int, int] | None = None
    image: int = 0
    told: tuple[str | tuple[int, int, int, int], ...] = ()


Asker = Callable[[Scene, random.Random], Exchange | None]
Pointing = Literal["ordered", "unordered", "wrong"]


def attribute(scene: Scene, rng: random.Random) -> Exchange | None:
    """Colour, shape, size or texture of one thing (VQAv2, GQA)."""
    kind = rng.choice(("colour", "shape", "size", "texture"))
    if kind == "colour":
        found = _alone(scene, rng, "shape")
        if found is None:
            return None
        return Exchange(
            "attribute", kind, f"what colour is the {found.shape}?", found.colour, COLOURS
        )
    if kind == "shape":
        found = _alone(scene, rng, "colour")
        if found is None:
            return None
        question = f"what shape is the {found.colour} thing?"
        return Exchange("attribute", kind, question, found.shape, SHAPES)
    thing = rng.choice(scene.things)
    if kind == "size":
        question = f"is the {short_name(thing)} small or large?"
        return Exchange("attribute", kind, question, thing.size, SIZES)
    question = f"is the {short_name(thing)} plain, striped or dotted?"
    return Exchange("attribute", kind, question, thing.texture, TEXTURES)


def unanswerable(scene: Scene, rng: random.Random) -> Exchange | None:
    """A question whose thing is not there, or is: the answer is then a colour (VizWiz)."""
    absent = [s for s in SHAPES if all(t.shape != s for t in scene.things)]
    if absent and rng.random() < 0.5:
        question = f"what colour is the {rng.choice(absent)}, if there is one?"
        return Exchange("unanswerable", "absent", question, "unanswerable")
    found = _alone(scene, rng, "shape")
    if found is None:
        return None
    question = f"what colour is the {found.shape}, if there is one?"
    return Exchange("unanswerable", "present", question, found.colour)


def reading(scene: Scene, rng: random.Random) -> Exchange | None:
    """The word on the sign (TextVQA)."""
    if scene.sign is None:
        return None
    question = rng.choice(READ)
    return Exchange("reading", "word", question, scene.sign.word)


def boxes(scene: Scene, rng: random.Random) -> Exchange | None:
    """The box of the thing that a phrase names (RefCOCO; `kind` is the clutter, as in OCID-Ref)."""
    thing = rng.choice(scene.things)
    phrase = short_name(thing) if rng.random() < 0.5 else full_name(thing)
    kind = "free" if scene.clutter <= 2 else "touching" if scene.clutter <= 4 else "stacked"
    return Exchange("boxes", kind, f"where is the {phrase}?", "", box=thing.box)


def region(scene: Scene, rng: random.Random) -> Exchange | None:
    """Everything about one thing, its box included, asked by its shape, colour or both (the region
    descriptions of Visual Genome); of the sign, where it is and what it says (text spotting)."""
    if scene.sign is not None and rng.random() < 0.3:
        box = scene.sign.box
        if rng.random() < 0.4:
            return Exchange("region", "sign", "where is the sign?", "", told=("", box))
        told = ("a sign ", box, f" that says {scene.sign.word}")
        return Exchange("region", "sign", "tell me about the sign.", "", told=told)
    thing = rng.choice(scene.things)
    names = [
        name
        for name, field in ((thing.shape, "shape"), (f"{thing.colour} thing", "colour"))
        if sum(getattr(t, field) == getattr(thing, field) for t in scene.things) == 1
    ]
    name = rng.choice([*names, short_name(thing)])
    told = (f"{article(full_name(thing))} ", thing.box)
    return Exchange("region", "thing", f"tell me about the {name}.", "", told=told)


def inventory(scene: Scene, rng: random.Random) -> Exchange | None:
    """Everything in the picture with its box, in reading order (grounded captioning)."""
    return Exchange("inventory", "all", INVENTORY, "", told=tell_scene(scene, None))


def tell_scene(
    scene: Scene, rng: random.Random | None
) -> tuple[str | tuple[int, int, int, int], ...]:
    """Words and boxes of everything in a scene, in random order or, without `rng`, from the top
    left in rows of a third of the picture."""
    entries = [(article(full_name(t)), t.box) for t in scene.things]
    entries += [(sign_name(sign), sign.box) for sign in scene.signs]
    if rng is None:
        entries.sort(
            key=lambda entry: ((entry[1][1] + entry[1][3]) * 3 // (2 * scene.height), entry[1])
        )
    else:
        rng.shuffle(entries)
    parts: list[str | tuple[int, int, int, int]] = []
    opening = f"picture: {article(scene.background)} background;"
    for words, box in entries:
        parts += [f"{opening} {words} ", box]
        opening = ";"
    return tuple(parts)


def spatial(scene: Scene, rng: random.Random, pointing: bool = False) -> Exchange | None:
    """A statement about where two things stand, true or false (VSR)."""
    found = _apart(scene, rng)
    if found is None:
        return None
    a, b, axis, number = found
    truth = rng.random() < 0.5
    # ^ 1: the other relation of the same axis.
    relation = RELATIONS[number if truth else number ^ 1]
    question = f"true or false: the {short_name(a)} is {relation} the {short_name(b)}."
    answer = "true" if truth else "false"
    exchange = Exchange("spatial", AXES[axis], question, answer, ("true", "false"))
    return _pointing(exchange, a, b, f"{RELATIONS[number]}: {answer}") if pointing else exchange


def relation(scene: Scene, rng: random.Random, pointing: bool = False) -> Exchange | None:
    """Which of two relations holds (the "choose" questions of GQA)."""
    found = _apart(scene, rng)
    if found is None:
        return None
    a, b, axis, number = found
    options = ("left", "right") if axis == 0 else ("above", "below")
    words = "left or right of" if axis == 0 else "above or below"
    question = f"is the {short_name(a)} {words} the {short_name(b)}?"
    answer = options[number % 2]
    exchange = Exchange("relation", AXES[axis], question, answer, options)
    return _pointing(exchange, a, b, answer) if pointing else exchange


def _pointing(exchange: Exchange, a: Thing, b: Thing, verdict: str) -> Exchange:
    """The same question, answered by the boxes of both things and then the verdict: a chain of
    thought on the ground of the picture (Shikra, arXiv 2306.15195, section 6.1)."""
    return replace(
        exchange,
        task=f"{exchange.task}-pointed",
        question=f"{POINT} {exchange.question}",
        told=("", a.box, " ", b.box, f" {verdict}"),
    )


def side(scene: Scene, rng: random.Random) -> Exchange | None:
    """On which side of the picture a thing stands (the position questions of GQA)."""
    thing, axis = rng.choice(scene.things), rng.randrange(2)
    extent = (scene.width, scene.height)
    gap = thing.centre[axis] - extent[axis] / 2
    if abs(gap) < margin(scene) / 2:
        return None
    options = ("left", "right") if axis == 0 else ("top", "bottom")
    question = f"is the {short_name(thing)} on the {options[0]} or the {options[1]} side?"
    return Exchange("side", AXES[axis], question, options[gap > 0], options)


def _apart(scene: Scene, rng: random.Random) -> tuple[Thing, Thing, int, int] | None:
    """Two things, an axis on which they are clearly apart, and the number in `RELATIONS` of how the
    first stands to the second."""
    if len(scene.things) < 2:
        return None
    least = margin(scene)
    for _ in range(8):
        a, b = rng.sample(scene.things, 2)
        axis = rng.randrange(2)
        gap = b.centre[axis] - a.centre[axis]
        if abs(gap) >= least:
            # Where b lies further right or down, a is left of it or above: the first of the axis's
            # two.
            return a, b, axis, 2 * axis + (gap < 0)
    return None


def counting(scene: Scene, rng: random.Random, pointing: Pointing | None = None) -> Exchange | None:
    """How many things have a property (TallyQA; complex: two properties or a relation).

    The answer is drawn first, uniformly among those that the scene allows, so that "one" is not
    the usual answer. With `pointing` the same question is answered by a box for each thing and then
    the number, as Molmo counts (arXiv 2409.17146): from left to right, in a random order, or, as a
    control, with boxes of the right sizes at random places.
    """
    simple = rng.random() < 0.5
    phrases = _simple_counts(scene) if simple else _complex_counts(scene, rng)
    by_answer: dict[int, list[tuple[str, list[Thing]]]] = {}
    for phrase, things in phrases:
        by_answer.setdefault(len(things), []).append((phrase, things))
    number = rng.choice(sorted(by_answer))
    phrase, things = rng.choice(by_answer[number])
    options = tuple(str(n) for n in range(7))
    kind = "simple" if simple else "complex"
    question = f"how many {phrase} are there?"
    if pointing is None:
        return Exchange("counting", kind, question, str(number), options)
    boxes = [thing.box for thing in sorted(things, key=lambda thing: thing.centre)]
    if pointing == "unordered":
        rng.shuffle(boxes)
    elif pointing == "wrong":
        boxes = [_move_box(box, scene, rng) for box in boxes]
    # [1:]: no space in front of the first box.
    told = tuple(part for box in boxes for part in (" ", box))[1:]
    task = "counting-pointed" if pointing == "ordered" else f"counting-pointed-{pointing}"
    said = ("", *told, f" {number}") if boxes else (f"{number}",)
    return Exchange(task, kind, question, str(number), options, told=said)


def _move_box(
    box: tuple[int, int, int, int], scene: Scene, rng: random.Random
) -> tuple[int, int, int, int]:
    """A box of the same size anywhere in the scene."""
    width, height = box[2] - box[0], box[3] - box[1]
    left, top = rng.randint(0, scene.width - width), rng.randint(0, scene.height - height)
    return left, top, left + width, top + height


def presence(scene: Scene, rng: random.Random, kind: str | None = None) -> Exchange | None:
    """Is it there? Half of the time it is not: chosen at random, among the popular, or
    adversarially from a colour and a shape that are both present but not together (POPE)."""
    kind = kind or rng.choice(("random", "popular", "adversarial", "adversarial"))
    there = {(t.colour, t.shape) for t in scene.things}
    if rng.random() < 0.5:
        if kind == "adversarial" and not _mix(there):
            return None
        return _presence(kind, rng.choice(sorted(there)), "yes")
    if kind == "adversarial":
        candidates = _mix(there)
    elif kind == "popular":
        candidates = [pair for pair in POPULAR if pair not in there]
    else:
        candidates = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in there]
    candidates = [pair for pair in candidates if pair not in HELD_OUT]
    if not candidates:
        return None
    return _presence(kind, rng.choice(candidates), "no")


def diagram(scene: Scene, rng: random.Random) -> Exchange | None:
    """Which letter marks a thing, with the letters as options in the question (AI2D)."""
    labels = tuple(t.label for t in scene.things)
    if len(labels) < 2 or not all(labels):
        return None
    thing = rng.choice(scene.things)
    question = f"which letter marks the {short_name(thing)}? options: {', '.join(labels)}."
    return Exchange("diagram", "letter", question, thing.label, labels)


def comparison(first: Scene, second: Scene, rng: random.Random) -> Exchange | None:
    """Two pictures: which has more of a shape, or whether both have a colour."""
    if rng.random() < 0.5:
        counts = []
        for shape in SHAPES:
            pair = [sum(t.shape == shape for t in s.things) for s in (first, second)]
            if pair[0] != pair[1]:
                counts.append((shape, "first" if pair[0] > pair[1] else "second"))
        answer = rng.choice(("first", "second"))
        matching = [shape for shape, which in counts if which == answer]
        if not matching:
            return None
        question = (
            f"which picture has more {plural(rng.choice(matching))}, the first or the second?"
        )
        return Exchange("comparison", "more", question, answer, ("first", "second"))
    held = [{t.colour for t in s.things} for s in (first, second)]
    both, one = held[0] & held[1], held[0] ^ held[1]
    answer = rng.choice(("yes", "no"))
    candidates = sorted(both if answer == "yes" else one)
    if not candidates:
        return None
    question = f"do both pictures have something {rng.choice(candidates)}?"
    return Exchange("comparison", "both", question, answer, ("yes", "no"))


def margin(scene: Scene) -> float:
    """Pixels of this scene by which two centres must differ before a relation counts as true."""
    return MARGIN * max(scene.width, scene.height) / 64


Placed = TypeVar("Placed", Thing, Sign)


def standing(
    group: Sequence[Placed], anchor: Thing | Sign, number: int, least: float
) -> list[Placed] | None:
    """Those of `group` that stand to `anchor` as `RELATIONS[number]` says; None when one of them is
    less than `least` pixels from the line on which that changes."""
    axis, sign = number // 2, 1 if number % 2 == 0 else -1
    gaps = [sign * (anchor.centre[axis] - each.centre[axis]) for each in group]
    if any(abs(gap) < least for gap in gaps):
        return None
    return [each for each, gap in zip(group, gaps, strict=True) if gap > 0]


def plural(shape: str) -> str:
    """More than one of a shape."""
    return "crosses" if shape == "cross" else f"{shape}s"


def _alone(scene: Scene, rng: random.Random, field: str) -> Thing | None:
    """A thing that no other thing of the scene shares its `field` with."""
    values = [getattr(t, field) for t in scene.things]
    alone = [t for t in scene.things if values.count(getattr(t, field)) == 1]
    return rng.choice(alone) if alone else None


def _presence(kind: str, pair: tuple[str, str], answer: str) -> Exchange:
    question = f"is there {article(' '.join(pair))}?"
    return Exchange("presence", kind, question, answer, ("yes", "no"))


def _mix(there: set[tuple[str, str]]) -> list[tuple[str, str]]:
    colours, shapes = sorted({c for c, _ in there}), sorted({s for _, s in there})
    return [
        (c, s) for c in colours for s in shapes if (c, s) not in there and (c, s) not in HELD_OUT
    ]


def _simple_counts(scene: Scene) -> list[tuple[str, list[Thing]]]:
    things = scene.things
    rows = [(plural(s), [t for t in things if t.shape == s]) for s in SHAPES]
    rows += [(f"{c} things", [t for t in things if t.colour == c]) for c in COLOURS]
    rows.append(("things", list(things)))
    return rows


def _complex_counts(scene: Scene, rng: random.Random) -> list[tuple[str, list[Thing]]]:
    things = scene.things
    rows = []
    for size in SIZES:
        rows.append((f"{size} things", [t for t in things if t.size == size]))
        for shape in SHAPES:
            found = [t for t in things if t.size == size and t.shape == shape]
            rows.append((f"{size} {plural(shape)}", found))
    rows += [(f"{name} things", [t for t in things if t.texture == name]) for name in TEXTURES]
    anchor = rng.choice(things)
    others = [t for t in things if t is not anchor]
    for number, relation in enumerate(RELATIONS):
        there = standing(others, anchor, number, margin(scene))
        if there is not None:
            rows.append((f"things {relation} the {short_name(anchor)}", there))
    return rows
