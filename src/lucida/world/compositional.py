"""Harder questions: each joins two abilities that the questions of `questions` ask one by one.

    attribute-by-relation   an attribute of a thing that only a relation tells from its like
    presence-detailed       every word is true of something, all of them together perhaps of nothing
    counting-compared       two counts, and which is the larger
    spatial-nearest         distances to everything else, and the least of them
    reading-by-place        several signs, of which a place or a relation names one

As there, a function gives None when the scene cannot carry such a question. Three of them are asked
of fuller scenes (`crowds`), where no value is more frequent than another.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from lucida.world import questions
from lucida.world.crowds import make_crowd, make_signs
from lucida.world.phrases import article, short_name
from lucida.world.questions import RELATIONS, Asker, Exchange, margin, plural, standing
from lucida.world.scenes import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    TEXTURES,
    Box,
    Scene,
    Sign,
    Thing,
    make_scene,
)

SIDES = ("left", "right", "top", "bottom")
"""How a place names the sign that stands as `RELATIONS` says to all others."""
NEITHER = "neither"
_VALUES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES}
_ASKED = {
    "colour": "what colour is the {}?",
    "shape": "what shape is the {}?",
    "size": "is the {} small or large?",
    "texture": "is the {} plain, striped or dotted?",
}
_TRIES = 16


def attribute_by_relation(scene: Scene, rng: random.Random) -> Exchange | None:
    """An attribute of the one star, or of the one red thing, that stands on one side of another
    thing (GQA). There are others of its like, and none of them would give the same answer."""
    kind = rng.choice(tuple(_VALUES))
    by = {"colour": "shape", "shape": "colour"}.get(kind) or rng.choice(("colour", "shape"))
    likes = Counter(getattr(t, by) for t in scene.things)
    several = sorted(value for value, number in likes.items() if number > 1)
    for _ in range(_TRIES if several else 0):
        value, anchor, number = rng.choice(several), rng.choice(scene.things), rng.randrange(4)
        group = [t for t in scene.things if getattr(t, by) == value and t is not anchor]
        found = standing(group, anchor, number, margin(scene))
        if len(group) < 2 or found is None or len(found) != 1:
            continue
        answers = [getattr(t, kind) for t in group]
        answer = getattr(found[0], kind)
        if answers.count(answer) == 1:
            name = value if by == "shape" else f"{value} thing"
            phrase = f"{name} {RELATIONS[number]} the {short_name(anchor)}"
            question = _ASKED[kind].format(phrase)
            return Exchange("attribute-by-relation", kind, question, answer, _VALUES[kind])
    return None


def presence_detailed(scene: Scene, rng: random.Random) -> Exchange | None:
    """Is a thing of this size, colour, texture and shape there? Where it is not, there is one that
    differs in `kind` alone, and the word that is wrong for it is true of another (AMBER)."""
    kind = rng.choice(tuple(_VALUES))
    thing = rng.choice(scene.things)
    there = {_describe_thing(t) for t in scene.things}
    others = sorted({getattr(t, kind) for t in scene.things} - {getattr(thing, kind)})
    absent = [replace(thing, **{kind: value}) for value in others]
    absent = [t for t in absent if _describe_thing(t) not in there]
    # A held-out pair is asked about only where the thing itself is one.
    unseen = HELD_OUT - {(thing.colour, thing.shape)}
    absent = [t for t in absent if (t.colour, t.shape) not in unseen]
    if not absent:
        return None
    answer = rng.choice(("yes", "no"))
    asked = thing if answer == "yes" else rng.choice(absent)
    question = f"is there {article(_describe_thing(asked))}?"
    return Exchange("presence-detailed", kind, question, answer, ("yes", "no"))


def _describe_thing(thing: Thing) -> str:
    """Every attribute, plain texture included: what is not said would leave it open."""
    return f"{thing.size} {thing.colour} {thing.texture} {thing.shape}"


def counting_compared(scene: Scene, rng: random.Random) -> Exchange | None:
    """Of which of two kinds there are more, or of neither (compare integer of CLEVR).

    Both are there. A third of the answers each is the first, the second and neither, whatever the
    question speaks of: it is asked only where that property could give all three.
    """
    kind = rng.choice(("colour", "shape", "texture"))
    counts = Counter(getattr(t, kind) for t in scene.things)
    pairs = [(a, b) for a in sorted(counts) for b in sorted(counts) if a != b]
    same = [(a, b) for a, b in pairs if counts[a] == counts[b]]
    unequal = [(a, b) for a, b in pairs if counts[a] > counts[b]]
    if not same or not unequal:
        return None
    draw = rng.randrange(3)
    first, second = rng.choice(unequal if draw else same)
    more = first if draw else None
    # 0: as many of both; 1 and 2: the kind with more is named first, and second.
    if draw == 2:
        first, second = second, first
    names = [plural(v) if kind == "shape" else f"{v} things" for v in (first, second)]
    options = [plural(v) if kind == "shape" else v for v in (first, second)]
    question = f"are there more {names[0]}, more {names[1]} or {NEITHER}?"
    answer = NEITHER if more is None else options[(first, second).index(more)]
    return Exchange("counting-compared", kind, question, answer, (*options, NEITHER))


def nearest(scene: Scene, rng: random.Random) -> Exchange | None:
    """Which of at least two other things is nearest, clearly so from middle to middle and not
    otherwise from edge to edge (the proximity relations of VSR; `kind` says of how many)."""
    thing = rng.choice(scene.things)
    others = [t for t in scene.things if t is not thing]
    if len(others) < 2:
        return None
    others.sort(key=lambda other: math.dist(thing.centre, other.centre))
    first, second = others[:2]
    ahead = math.dist(thing.centre, second.centre) - math.dist(thing.centre, first.centre)
    gaps = [_gap(thing.box, other.box) for other in others]
    if ahead < margin(scene) or gaps[0] > min(gaps):
        return None
    kind = "of two" if len(others) == 2 else "of more"
    question = f"which thing is nearest to the {short_name(thing)}?"
    return Exchange("spatial-nearest", kind, question, short_name(first))


def _gap(a: Box, b: Box) -> float:
    """Pixels between the edges of two boxes."""
    return math.hypot(*(max(0, a[k] - b[k + 2], b[k] - a[k + 2]) for k in (0, 1)))


def reading_by_place(scene: Scene, rng: random.Random) -> Exchange | None:
    """The word on one of several signs, named by where it is or by how it stands to a thing
    (pictures of ST-VQA and TextVQA hold several texts)."""
    if len(scene.signs) < 2:
        return None
    kind = rng.choice(("place", "relation"))
    for _ in range(_TRIES):
        number = rng.randrange(4)
        if kind == "place":
            found = [s for s in scene.signs if _beyond(s, scene, number)]
            name = f"{SIDES[number]} sign"
        else:
            anchor = rng.choice(scene.things)
            found = standing(scene.signs, anchor, number, margin(scene))
            name = f"sign {RELATIONS[number]} the {short_name(anchor)}"
        if found is not None and len(found) == 1:
            question = f"what does the {name} say?"
            return Exchange("reading-by-place", kind, question, found[0].word)
    return None


def _beyond(sign: Sign, scene: Scene, number: int) -> bool:
    """Whether it stands as `RELATIONS[number]` says, clearly, to every other sign."""
    others = [s for s in scene.signs if s is not sign]
    return all(standing([sign], other, number, margin(scene)) for other in others)


SHARING: dict[str, tuple[Asker, Callable[..., Scene]]] = {
    "attribute-by-relation": (attribute_by_relation, make_crowd),
    "presence-detailed": (presence_detailed, make_crowd),
    "counting-compared": (counting_compared, make_crowd),
    "spatial-nearest": (nearest, make_scene),
    "boxes-precise": (questions.boxes, make_scene),
    "reading-by-place": (reading_by_place, make_signs),
}
"""Task → how it is asked, and of which scenes."""
