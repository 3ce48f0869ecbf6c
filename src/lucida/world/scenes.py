"""Scenes: what is in a picture, where, and of which kind, decided by (seed, split, index) alone.

A scene holds one to six things on a background, and sometimes a sign with a word (`crowds` makes
fuller ones). Pixels are counted from the top left; boxes are (x0, y0, x1, y1) with x1, y1
exclusive. No (colour, shape) pair stands twice in a scene, so that "the red star" names one thing.

Splits never share a scene: a hash of the first thing's kind and place decides the split that a
scene belongs to, so two scenes of different splits differ at least there. Some (colour, shape)
pairs are held out: they occur in split `novel` only, where every scene has at least one.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test", "novel"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "novel")

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("white", "grey", "black", "sandy", "checked")
# fmt: off
WORDS = (
    "open", "stop", "cafe", "exit", "milk", "book", "fish", "taxi", "bank", "park", "ship", "moon",
    "gold", "rain", "king", "tree", "snow", "wolf", "lamp", "nest", "desk", "jazz", "farm", "zone",
)
# fmt: on

# Unequal on purpose: "popular" absent things (POPE) need a world in which some things are popular.
COLOUR_WEIGHTS = (16, 10, 12, 12, 8, 16, 8, 8)
SHAPE_WEIGHTS = (18, 18, 14, 16, 12, 12)

HELD_OUT = frozenset(
    {("red", "ring"), ("blue", "cross"), ("green", "star"), ("yellow", "triangle")}
    | {("pink", "square"), ("cyan", "circle")}
)
"""Pairs that training never sees together, though it sees each colour and each shape."""

_PATIENCE = 40
_PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES)
_PAIR_WEIGHTS = tuple(cw * sw for cw in COLOUR_WEIGHTS for sw in SHAPE_WEIGHTS)
POPULAR = tuple(
    pair
    for _, pair in sorted(zip(_PAIR_WEIGHTS, _PAIRS, strict=True), reverse=True)
    if pair not in HELD_OUT
)[:8]
"""The most frequent pairs of the training split."""


Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the scene."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape; `box` is tight around its pixels."""

    shape: str
    colour: str
    size: str
    texture: str
    box: Box
    label: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        return _middle(self.box)


@dataclass(frozen=True, slots=True)
class Sign:
    """A board with a word on it."""

    word: str
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        return _middle(self.box)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is true of one picture."""

    id: str
    width: int
    height: int
    background: str
    things: tuple[Thing, ...]
    signs: tuple[Sign, ...] = ()

    @property
    def sign(self) -> Sign | None:
        """The sign where there is one only, so that "the sign" names it."""
        return self.signs[0] if len(self.signs) == 1 else None

    @property
    def clutter(self) -> int:
        """Number of things, the miniature of OCID-Ref's clutter level."""
        return len(self.things)


def scene_rng(*numbers: int) -> random.Random:
    """A generator of its own for every tuple of whole numbers."""
    # Constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): neighbouring numbers give states
    # that have nothing in common.
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 31
    return random.Random(state)


def make_scene(
    seed: int, split: Split, index: int, size: int = 64, *, labelled: bool = False
) -> Scene:
    """The scene number `index` of a split. `size` is the longer side in pixels (64 or 96).

    `labelled` puts a letter beside every thing (diagrams).
    """
    rng = scene_rng(seed, SPLITS.index(split), index, size, int(labelled))
    width, height = _canvas(rng, size)
    unit = size / 64
    taken: list[Box] = []
    things: list[Thing] = []
    count = rng.choices((1, 2, 3, 4, 5, 6), (4, 10, 26, 30, 20, 10))[0]
    for number in range(count):
        thing = _place(rng, split, number, things, taken, (width, height, unit), labelled)
        if thing is not None:
            things.append(thing)
            # A pixel between things, and room for the letter, which is 6 wide.
            taken.append(grown(thing.box, 1 + 5 * labelled))
    sign = None if labelled or rng.random() < 0.15 else _place_sign(rng, taken, width, height)
    signs = () if sign is None else (sign,)
    name = f"{split}-{seed}-{index}" + ("-96" if size == 96 else "") + ("-labels" * labelled)
    return Scene(name, width, height, rng.choice(BACKGROUNDS), tuple(things), signs)


def owner(thing: Thing, width: int) -> Split:
    """The split that owns scenes with this first thing; `novel` scenes follow test's rule."""
    x0, y0, x1, _ = thing.box
    mixed = x0 * 7 + y0 * 13 + x1 * 3 + width * 5
    mixed += COLOURS.index(thing.colour) * 11 + SHAPES.index(thing.shape) * 17
    residue = mixed % 10
    return "validation" if residue == 0 else "test" if residue == 1 else "train"


def _canvas(rng: random.Random, size: int) -> tuple[int, int]:
    shape = rng.random()
    if shape < 0.6:
        return size, size
    return (size, size * 3 // 4) if shape < 0.8 else (size * 3 // 4, size)


def _place(
    rng: random.Random,
    split: Split,
    number: int,
    things: list[Thing],
    taken: list[Box],
    canvas: tuple[int, int, float],
    labelled: bool,
) -> Thing | None:
    """One more thing where there is room; None when `_PATIENCE` tries found none."""
    width, height, unit = canvas
    colour, shape = _pair(rng, novel=split == "novel" and number == 0)
    if any(t.colour == colour and t.shape == shape for t in things):
        return None
    size = rng.choice(SIZES)
    texture = rng.choices(TEXTURES, (50, 25, 25))[0]
    low, high = (10, 13) if size == "small" else (17, 22)
    side = round(rng.randint(low, high) * unit)
    wanted = "test" if split == "novel" else split
    margin = 8 if labelled else 1
    # A tenth of the places of a first thing belong to validation, and a tenth to test (`owner`).
    for _ in range(_PATIENCE if number else 40 * _PATIENCE):
        x0 = rng.randint(1, width - side - margin)
        y0 = rng.randint(1, height - side - 1)
        box = (x0, y0, x0 + side, y0 + side)
        thing = Thing(shape, colour, size, texture, box, "ABCDEF"[number] if labelled else "")
        if number == 0 and owner(thing, width) != wanted:
            continue
        if not any(overlap(box, other) for other in taken):
            return thing
    if number == 0:
        raise RuntimeError(f"no place for the first thing of a {width}x{height} scene")
    return None


def _pair(rng: random.Random, novel: bool) -> tuple[str, str]:
    if novel:
        return rng.choice(sorted(HELD_OUT))
    while True:
        pair = rng.choices(_PAIRS, cum_weights=_CUMULATIVE)[0]
        if pair not in HELD_OUT:
            return pair


def _place_sign(rng: random.Random, taken: list[Box], width: int, height: int) -> Sign | None:
    word = rng.choice(WORDS)
    wide, tall = board(word)
    for _ in range(30):
        x0 = rng.randint(0, width - wide)
        y0 = rng.randint(0, height - tall)
        box = (x0, y0, x0 + wide, y0 + tall)
        if not any(overlap(box, other) for other in taken):
            return Sign(word, box)
    return None


def board(word: str) -> tuple[int, int]:
    """Width and height in pixels of a sign with this word."""
    return 6 * len(word) + 4, 13


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share a pixel."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def grown(box: Box, by: int) -> Box:
    """The box with `by` pixels more on every side."""
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


_CUMULATIVE = tuple(itertools.accumulate(_PAIR_WEIGHTS))
