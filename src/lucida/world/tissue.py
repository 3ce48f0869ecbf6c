"""A second domain: stained tissue under a miniature microscope, with words of its own.

Nothing here looks like the scenes of `scenes`, and nothing of its vocabulary (`NAMES`) occurs in
the texts that the language models which ship have read: a model has to learn both the pictures and
the words, spelt by the pieces that its tokenizer has. A tissue is of one of four kinds, in one of
three stains, and holds nuclei and perhaps cells in mitosis, which have no nucleus.

Everything that `scenes` promises holds: the same numbers give the same tissue and the same pixels;
the kind, the stain and the first nucleus decide the split, so that none is shared; some pairs of
kind and stain are held out and occur in split `novel` only. What is asked (`SHARING`): the kind and
the stain, how many nuclei there are (whole or on a half), whether a cell is in mitosis, and on
which half there are more nuclei.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from lucida.world.questions import Asker, Exchange
from lucida.world.scenes import SPLITS, Box, Split, overlap, scene_rng

KINDS = ("gland", "muscle", "fat", "lymph")
STAINS = ("eosin", "silver", "azure")
HELD_OUT = frozenset(
    {("gland", "azure"), ("muscle", "silver"), ("fat", "eosin"), ("lymph", "silver")}
)
"""Kinds in stains that training never sees them in."""
NAMES = (*KINDS, *STAINS, "nuclei", "mitosis", "tissue", "stain")
"""The words of this domain; all others in its questions the first domain has, too."""
HALVES = ("left", "right", "top", "bottom")
CLEAR = 2
"""Pixels (at 64) from the middle within which no nucleus stands where halves are asked about."""

_PALETTE = {
    # Ground from light to dark, nucleus, chromatin, and what fibres and cells are tinted with.
    "eosin": ((242, 206, 220), (222, 160, 190), (112, 62, 146), (44, 16, 70), (214, 120, 160)),
    "silver": ((236, 222, 190), (206, 178, 130), (92, 58, 34), (20, 12, 8), (168, 128, 76)),
    "azure": ((210, 224, 240), (164, 190, 222), (40, 78, 150), (10, 20, 66), (112, 150, 206)),
}
_SPACE, _HALO = (250, 250, 248), (246, 240, 242)


@dataclass(frozen=True, slots=True)
class Cell:
    """A nucleus, or a cell in mitosis: two bars of chromatin in a clear halo. `box` is that of the
    nucleus, or of the halo; `upright`: bars, or a nucleus of unequal sides, stand."""

    box: Box
    dividing: bool = False
    upright: bool = False

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Tissue:
    """Everything that is true of one picture. `spaces` are empty: the lumen of a gland, the fat in
    fat cells. `grain` seeds the mottling of the ground, `upright` is the way of muscle's fibres."""

    id: str
    width: int
    height: int
    kind: str
    stain: str
    cells: tuple[Cell, ...]
    spaces: tuple[Box, ...]
    upright: bool
    grain: int

    @property
    def nuclei(self) -> tuple[Cell, ...]:
        """The cells that are not in mitosis."""
        return tuple(cell for cell in self.cells if not cell.dividing)


def make_tissue(seed: int, split: Split, index: int, size: int = 64) -> Tissue:
    """The tissue number `index` of a split: two to seven nuclei, and in half of all pictures one
    or two cells in mitosis. `size` is the side of the square picture in pixels (64 or 96)."""
    rng = scene_rng(seed, SPLITS.index(split), index, size, 4)
    # What is in it is drawn before where: no kind has more nuclei than another.
    kind, stain = rng.choice(_list_pairs(split == "novel"))
    nuclei = rng.randint(2, 7)
    dividing = rng.choice((0, 0, 1, 2))
    name = f"{split}-{seed}-{index}" + ("-96" if size == 96 else "") + "-tissue"
    wanted = "test" if split == "novel" else split
    while True:
        upright = rng.random() < 0.5
        spaces = _SPACES[kind](rng, size)
        cells = _place(rng, kind, spaces, [False] * nuclei + [True] * dividing, size, upright)
        if cells is None:
            continue
        tissue = Tissue(name, size, size, kind, stain, cells, spaces, upright, rng.getrandbits(32))
        if owner(tissue) == wanted:
            return tissue


def owner(tissue: Tissue) -> Split:
    """The split that owns tissues of this kind and stain with this first nucleus; `novel` ones
    follow test's rule."""
    first = f"{tissue.width} {tissue.kind} {tissue.stain} {tissue.cells[0].box}"
    # A hash that spreads: fat has few places for a nucleus, and every split needs some of them.
    return {0: "validation", 1: "test"}.get(zlib.crc32(first.encode()) % 10, "train")


def _list_pairs(novel: bool) -> list[tuple[str, str]]:
    pairs = [(kind, stain) for kind in KINDS for stain in STAINS]
    return [pair for pair in pairs if (pair in HELD_OUT) == novel]


def _make_lumen(rng: random.Random, size: int) -> tuple[Box, ...]:
    """The lumen of a gland, near the middle."""
    unit = size / 64
    x, y = (size / 2 + rng.uniform(-4, 4) * unit for _ in "xy")
    wide, tall = (rng.uniform(9, 12) * unit for _ in "xy")
    return ((round(x - wide), round(y - tall), round(x + wide), round(y + tall)),)


def _pack_fat(rng: random.Random, size: int) -> tuple[Box, ...]:
    """Fat cells, four by four."""
    pitch, found = size / 4, []
    for row in range(4):
        for column in range(4):
            x0, y0 = (round((n + 0.1) * pitch + rng.uniform(-1, 1)) for n in (column, row))
            side = round(0.8 * pitch)
            found.append((x0, y0, x0 + side, y0 + side))
    return tuple(found)


def _leave_none(rng: random.Random, size: int) -> tuple[Box, ...]:
    return ()


_SPACES: dict[str, Callable[[random.Random, int], tuple[Box, ...]]] = {
    "gland": _make_lumen,
    "muscle": _leave_none,
    "fat": _pack_fat,
    "lymph": _leave_none,
}


def _place(
    rng: random.Random,
    kind: str,
    spaces: Sequence[Box],
    dividing: Sequence[bool],
    size: int,
    upright: bool,
) -> tuple[Cell, ...] | None:
    """Cells where this kind has them, none over another; None where they find no room."""
    unit = size / 64
    places = _list_around(rng, spaces[0], unit) if kind == "gland" else None
    places = _list_between(rng, size) if kind == "fat" else places
    cells: list[Cell] = []
    for divides in dividing:
        cell = None
        for _ in range(60):
            if places is None:
                x, y = rng.uniform(6, 58) * unit, rng.uniform(6, 58) * unit
            else:  # outside, where nothing is placed, once all are taken
                x, y = places.pop() if places else (-size, -size)
            wide, tall = _draw_extent(rng, kind, divides, upright)
            x0, y0 = round(x - wide * unit / 2), round(y - tall * unit / 2)
            box = (x0, y0, x0 + round(wide * unit), y0 + round(tall * unit))
            inside = min(box) > 0 and max(box) < size
            # A pixel between cells: what touches could not be counted in the picture.
            room = (x0 - 1, y0 - 1, box[2] + 1, box[3] + 1)
            if inside and not any(overlap(room, other.box) for other in cells):
                cell = Cell(box, divides, rng.random() < 0.5 if divides else upright)
                break
        if cell is None:
            return None
        cells.append(cell)
    return tuple(cells)


def _draw_extent(rng: random.Random, kind: str, dividing: bool, upright: bool) -> tuple[int, int]:
    """Width and height of a cell in pixels (at 64)."""
    if dividing:
        return 8, 8
    if kind == "muscle":  # along the fibres
        return (4, 9) if upright else (9, 4)
    side = {"fat": 5, "gland": 6, "lymph": 7}[kind]
    return side + rng.randint(0, 1), side + rng.randint(0, 1)


def _list_around(rng: random.Random, lumen: Box, unit: float) -> list[tuple[float, float]]:
    """Places around a lumen in a random order."""
    x, y = (lumen[0] + lumen[2]) / 2, (lumen[1] + lumen[3]) / 2
    wide, tall = ((lumen[n + 2] - lumen[n]) / 2 + 7 * unit for n in (0, 1))
    start = rng.uniform(0, 2 * math.pi)
    angles = [start + 2 * math.pi * n / 11 for n in range(11)]
    rng.shuffle(angles)
    return [(x + wide * math.cos(a), y + tall * math.sin(a)) for a in angles]


def _list_between(rng: random.Random, size: int) -> list[tuple[float, float]]:
    """Places where four fat cells meet, in a random order."""
    middle = size / 2
    steps = [step * size / 4 for step in (-1, 0, 1)]
    places = [
        tuple(middle + step + rng.uniform(-1.5, 1.5) for step in pair)
        for pair in itertools.product(steps, steps)
    ]
    rng.shuffle(places)
    return places


# Drawing.


def draw_tissue(tissue: Tissue) -> Image.Image:
    """The picture of a tissue, RGB. Nuclei and chromatin have a colour of their own for each stain,
    with nothing of it elsewhere and no soft edges, so that pixels tell what is there."""
    light, dark, nucleus, chromatin, tint = _PALETTE[tissue.stain]
    size = tissue.width, tissue.height
    noise = random.Random(tissue.grain).randbytes(16 * 16)
    mottled = Image.frombytes("L", (16, 16), noise).resize(size, Image.Resampling.BICUBIC)
    picture = Image.composite(Image.new("RGB", size, dark), Image.new("RGB", size, light), mottled)
    pen = ImageDraw.Draw(picture)
    unit = tissue.width / 64
    if tissue.kind == "muscle":
        _draw_fibres(picture, tissue, tint)
    for x0, y0, x1, y1 in tissue.spaces:
        if tissue.kind == "gland":
            around = round(12 * unit)
            pen.ellipse((x0 - around, y0 - around, x1 + around, y1 + around), fill=tint)
        pen.ellipse((x0, y0, x1 - 1, y1 - 1), fill=_SPACE, outline=tint)
    for cell in tissue.cells:
        x0, y0, x1, y1 = cell.box
        if not cell.dividing:
            pen.ellipse((x0, y0, x1 - 1, y1 - 1), fill=nucleus)
            continue
        pen.ellipse((x0, y0, x1 - 1, y1 - 1), fill=_HALO)
        thick, side = round(2 * unit), x1 - x0
        low, high = round(unit), side - round(unit) - thick
        for place in (low, high):
            bar = (x0 + 1, y0 + place, x1 - 2, y0 + place + thick - 1)
            if cell.upright:
                bar = (x0 + place, y0 + 1, x0 + place + thick - 1, y1 - 2)
            pen.rectangle(bar, fill=chromatin)
    return picture


def _draw_fibres(picture: Image.Image, tissue: Tissue, tint: tuple[int, int, int]) -> None:
    """Stripes of fibres, wider than the gaps between them."""
    mask = Image.new("L", picture.size, 0)
    pen, step = ImageDraw.Draw(mask), round(6 * tissue.width / 64)
    for place in range(0, tissue.width, step):
        far = place + 2 * step // 3 - 1
        stripe = (0, place, tissue.width, far)
        pen.rectangle((place, 0, far, tissue.height) if tissue.upright else stripe, fill=150)
    picture.paste(tint, (0, 0), mask)


# Questions.


def ask_kind(tissue: Tissue, rng: random.Random) -> Exchange | None:
    """Of which kind the tissue is, or how it is stained."""
    if rng.random() < 0.5:
        return Exchange("tissue-kind", "kind", "which tissue is it?", tissue.kind, KINDS)
    return Exchange("tissue-kind", "stain", "which stain is it?", tissue.stain, STAINS)


def ask_counting(tissue: Tissue, rng: random.Random) -> Exchange | None:
    """How many nuclei there are, or how many on one half."""
    options = tuple(str(number) for number in range(8))
    if rng.random() < 0.5:
        question = "how many nuclei are there?"
        return Exchange("tissue-counting", "all", question, str(len(tissue.nuclei)), options)
    number = rng.randrange(4)
    there = count_on_half(tissue, number)
    if there is None:
        return None
    question = f"how many nuclei are {_name_half(number)}?"
    return Exchange("tissue-counting", "half", question, str(there), options)


def ask_mitosis(tissue: Tissue, rng: random.Random) -> Exchange | None:
    """Whether a cell is in mitosis."""
    answer = "yes" if len(tissue.nuclei) < len(tissue.cells) else "no"
    question = "is there a mitosis?"
    return Exchange("tissue-mitosis", "presence", question, answer, ("yes", "no"))


def ask_denser(tissue: Tissue, rng: random.Random) -> Exchange | None:
    """On which of two halves there are more nuclei."""
    first = rng.choice((0, 2))
    counts = [count_on_half(tissue, number) for number in (first, first + 1)]
    if None in counts or counts[0] == counts[1]:
        return None
    options = HALVES[first], HALVES[first + 1]
    question = f"has the {options[0]} or the {options[1]} more nuclei?"
    kind = "horizontal" if first == 0 else "vertical"
    answer = options[counts[1] > counts[0]]
    return Exchange("tissue-denser", kind, question, answer, options)


def count_on_half(tissue: Tissue, number: int) -> int | None:
    """Nuclei on the half that `HALVES` names so; None when one stands on the middle."""
    axis, far = number // 2, number % 2
    middle = (tissue.width, tissue.height)[axis] / 2
    gaps = [cell.centre[axis] - middle for cell in tissue.nuclei]
    if any(abs(gap) < CLEAR * tissue.width / 64 for gap in gaps):
        return None
    return sum((gap > 0) == bool(far) for gap in gaps)


def _name_half(number: int) -> str:
    return f"on the {HALVES[number]}" if number < 2 else f"at the {HALVES[number]}"


SHARING: dict[str, tuple[Asker, Callable[..., Tissue]]] = {
    "tissue-kind": (ask_kind, make_tissue),
    "tissue-counting": (ask_counting, make_tissue),
    "tissue-mitosis": (ask_mitosis, make_tissue),
    "tissue-denser": (ask_denser, make_tissue),
}
"""Task → how it is asked, and of which pictures."""
