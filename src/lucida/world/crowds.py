"""Fuller scenes, for tasks at which an ordinary scene is too easy: many things, or several signs.

Everything that `scenes` promises holds here too: the same numbers give the same scene, and the
first thing's kind and place decide the split, so that no scene of one split is of another. What
differs: what stands in a scene is drawn before where, every value as often as any other, and a full
scene is laid out anew instead of losing what found no room. So no value goes with another, and
guessing from the words of a question gains nothing.
"""

from __future__ import annotations

import random

from lucida.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    WORDS,
    Box,
    Scene,
    Sign,
    Split,
    Thing,
    board,
    grown,
    overlap,
    owner,
    scene_rng,
)

SIDES = {"small": (10, 11), "large": (15, 17)}
"""Least and most pixels of a thing's side (at 64 pixels)."""
_SEEN = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)
_LAYOUTS, _TRIES = 20, 40


def make_crowd(seed: int, split: Split, index: int, size: int = 64) -> Scene:
    """Six to nine things, a little smaller than in an ordinary scene, and no sign.

    `size` is the side of the square picture in pixels (64 or 96).
    """
    rng = scene_rng(seed, SPLITS.index(split), index, size, 2)
    return _laid_out(rng, split, _name(seed, split, index, size, "crowd"), size, (6, 9), 0)


def make_signs(seed: int, split: Split, index: int, size: int = 64) -> Scene:
    """Two or three signs with different words, and two or three things.

    `size` is the side of the square picture in pixels (64 or 96); letters are as large in both.
    """
    rng = scene_rng(seed, SPLITS.index(split), index, size, 3)
    name = _name(seed, split, index, size, "signs")
    return _laid_out(rng, split, name, size, (2, 3), rng.randint(2, 3))


def _laid_out(
    rng: random.Random, split: Split, name: str, size: int, least_most: tuple[int, int], signs: int
) -> Scene:
    """A square scene; one whose layout fails `_LAYOUTS` times loses its last thing."""
    kinds = _kinds(rng, split, rng.randint(*least_most), size / 64)
    words = rng.sample(WORDS, signs)
    background = rng.choice(BACKGROUNDS)
    wanted = "test" if split == "novel" else split
    while True:
        for _ in range(_LAYOUTS):
            things = [_place_thing(rng, kinds[0], size, wanted)]
            taken = [grown(things[0].box, 1)]
            boards = [_room(rng, board(word), size, taken) for word in words]
            # The largest first: they are the ones that find no room.
            others = sorted(kinds[1:], key=lambda kind: -kind[1])
            boxes = [_room(rng, (side, side), size, taken) for _, side in others]
            if None not in boards and None not in boxes:
                things += [_thing(kind, box) for (kind, _), box in zip(others, boxes, strict=True)]
                shown = tuple(map(Sign, words, boards))
                return Scene(name, size, size, background, tuple(things), shown)
        if len(kinds) > 1:
            kinds.pop()


Kind = tuple[tuple[str, str, str, str], int]
"""Colour, shape, size and texture, and the side in pixels."""


def _kinds(rng: random.Random, split: Split, count: int, unit: float) -> list[Kind]:
    pairs = rng.sample(_SEEN, count)
    if split == "novel":
        pairs[0] = rng.choice(sorted(HELD_OUT))
    kinds = []
    for colour, shape in pairs:
        size = rng.choice(SIZES)
        side = round(rng.randint(*SIDES[size]) * unit)
        kinds.append(((colour, shape, size, rng.choice(TEXTURES)), side))
    return kinds


def _thing(kind: tuple[str, str, str, str], box: Box) -> Thing:
    colour, shape, size, texture = kind
    return Thing(shape, colour, size, texture, box)


def _place_thing(rng: random.Random, kind: Kind, size: int, wanted: Split) -> Thing:
    """The first thing, where the split owns it."""
    described, side = kind
    while True:
        x0, y0 = rng.randint(1, size - side - 1), rng.randint(1, size - side - 1)
        thing = _thing(described, (x0, y0, x0 + side, y0 + side))
        if owner(thing, size) == wanted:
            return thing


def _room(rng: random.Random, extent: tuple[int, int], size: int, taken: list[Box]) -> Box | None:
    """A free box of this width and height, which is then taken; None after `_TRIES` tries."""
    wide, tall = extent
    for _ in range(_TRIES):
        x0, y0 = rng.randint(1, size - wide - 1), rng.randint(1, size - tall - 1)
        box = (x0, y0, x0 + wide, y0 + tall)
        if not any(overlap(box, other) for other in taken):
            taken.append(grown(box, 1))
            return box
    return None


def _name(seed: int, split: Split, index: int, size: int, kind: str) -> str:
    return f"{split}-{seed}-{index}" + ("-96" if size == 96 else "") + f"-{kind}"
