"""Which pictures and texts are nearly the same.

    picture ─▶ Fingerprint ─64 bits, compared with all─▶ candidates ─small, overlaid─▶ pairs
    text    ─▶ runs of three words ─those that both have rarest─▶ candidates ─Jaccard─▶ pairs

A picture that was resized, encoded again, made brighter or darker or cut a little at its sides is
found; one that was turned, mirrored or cut by a quarter is another picture. What was measured with
planted copies stands in LOG.md. Every picture is compared with every other, and no pair of texts
that reaches the limit is passed over: nothing here is drawn at random.

Reference: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section
3.2.1 (64 signs of low frequencies); Bayardo, Ma and Srikant, Scaling Up All Pairs Similarity
Search, WWW 2007, section 3 (rare items first).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from PIL import Image, ImageFilter

SIDE, BITS = 16, 8
"""Pixels of a side of the small picture that is kept; frequencies of a side that make the hash."""
TRIM = 0.04
"""Share of each side that the second hash leaves out."""
FAR = 18
"""Bits of 64 that may differ between candidates. Pictures of different things differ in 31 on
average, and in at most 18 in one pair of a hundred."""
WORTH, ALIKE = 0.4, 0.9
"""Smallest correlation of two small pictures from where on cuts are tried, and of those that are
nearly the same, laid over each other as well as it goes."""
SAME, STEADY = 0.75, 0.1
"""Smallest structural similarity of such a pair, and the constant that steadies its flat parts."""
FLAT = 3.0
"""Standard deviation of a small picture's values, of 255, below which it has no shapes: blank
sheets are alike when their colour is."""
CUTS = tuple(
    (one, other) for one in (0.0, 0.04, 0.08) for other in (0.0, 0.04, 0.08) if one + other < 0.13
)
"""Shares of a picture's width (and of its height) that are cut away on trial at either side."""
BLOCK = 1 << 22
TOGETHER = 1024
"""Pairs that are compared at a time: hashes, and candidates."""
LIKE = 0.6
"""Share of the runs of words of two texts that both have, from where on they are nearly the same:
in a text of 16 words one may differ."""
RUN = 3
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a picture: 64 bits of the whole, 64 of what lies within its sides, and
    `SIDE` x `SIDE` blurred pixels in colour (uint8)."""

    whole: int
    within: int
    small: np.ndarray

    @property
    def key(self) -> tuple[int, bytes]:
        """Equal for pictures that count as one and the same."""
        return self.whole, self.small.tobytes()


def make_fingerprint(image: Image.Image) -> Fingerprint:
    """The fingerprint of an RGB picture of any size."""
    twice = image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
    small = twice.filter(ImageFilter.GaussianBlur(1.5)).resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = image.convert("L")
    width, height = image.size
    within = TRIM * width, TRIM * height, (1 - TRIM) * width, (1 - TRIM) * height
    hashes = (_hash(grey, box) for box in ((0, 0, width, height), within))
    return Fingerprint(*hashes, np.asarray(small, dtype=np.uint8))


def _hash(grey: Image.Image, box: tuple[float, ...]) -> int:
    """The signs of the lowest frequencies about their median; the brightness left out."""
    size = 4 * BITS
    small = grey.resize((size, size), Image.Resampling.BOX, box=box)
    waves = _cosines(size)
    low = (waves @ np.asarray(small, dtype=np.float64) @ waves.T).ravel()
    # The first frequency is the brightness. Set to the median of the others it is the threshold,
    # and its own bit is always 0.
    low[0] = np.median(low[1:])
    signs = np.packbits(low > low[0], bitorder="little")
    return int(signs.view("<u8")[0])


def _cosines(size: int) -> np.ndarray:
    """The lowest `BITS` rows of the discrete cosine transform of so many values (DCT-II)."""
    waves, places = np.arange(BITS)[:, None], np.arange(size)[None]
    return np.cos(math.pi * waves * (places + 0.5) / size)


_HASHES = (attrgetter("whole"), attrgetter("within"))


def near_pictures(
    first: Sequence[Fingerprint], second: Sequence[Fingerprint] | None = None
) -> Iterator[tuple[int, int]]:
    """Pairs of nearly the same pictures: one of `first` and one of `second`; without `second` two
    of `first`, the earlier one first."""
    own = second is None
    others = first if second is None else second
    if not first or not others:
        return
    rows = max(1, BLOCK // len(others))
    whole, within = (np.array([h(f) for f in others], np.uint64)[None] for h in _HASHES)
    for start in range(0, len(first), rows):
        block = first[start : start + rows]
        mine, inner = (np.array([h(f) for f in block], np.uint64)[:, None] for h in _HASHES)
        near = np.bitwise_count(mine ^ whole) <= FAR
        # Where one was cut at its sides, it is like the inner part of the other.
        near |= np.bitwise_count(mine ^ within) <= FAR
        near |= np.bitwise_count(inner ^ whole) <= FAR
        found, there = np.nonzero(near)
        found += start
        if own:
            found, there = found[found < there], there[found < there]
        for at in range(0, len(found), TOGETHER):
            some, other = found[at : at + TOGETHER], there[at : at + TOGETHER]
            alike = overlay([first[n].small for n in some], [others[n].small for n in other])
            yield from zip(some[alike].tolist(), other[alike].tolist(), strict=True)


def overlay(some: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """Which pairs of small pictures are alike, one of the two cut at its sides on trial."""
    one, two = (np.stack(each).astype(np.float32) for each in (some, other))
    flat = _deviation(one) < FLAT
    alike = np.zeros(len(one), dtype=bool)
    blank = flat & (_deviation(two) < FLAT)
    # Blank sheets have nothing but noise to correlate: their colour decides.
    alike[blank] = np.abs(one[blank] - two[blank]).mean(axis=(1, 2, 3)) < FLAT
    worth = ~flat & (_correlate(one, two) >= WORTH)
    # Either of the two may be the one from which something was cut.
    for near, far in ((one, two), (two, one)):
        if len(rest := np.flatnonzero(worth & ~alike)):
            cut, correlation = _best_cut(near[rest], far[rest])
            alike[rest] = (correlation >= ALIKE) & (_structure(cut, far[rest]) >= SAME)
    return alike


def _best_cut(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`one` cut at its sides so that it correlates best with `two`, and how well: first the
    width's best cut, then the height's, then the width's once more."""
    every = np.arange(len(one))
    # [cuts, pairs, height, width, 3]; then of each pair the cut that fits best.
    narrow = _cuts_of(one, 1)
    narrow = narrow[_correlate(narrow, two).argmax(axis=0), every]
    low = _correlate(_cuts_of(narrow, 0), two).argmax(axis=0)
    both = _cuts_of(_cuts_of(one, 0)[low, every], 1)
    scores = _correlate(both, two)
    return both[scores.argmax(axis=0), every], scores.max(axis=0)


def _structure(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair, of brightness and contrast freed, over windows of 5 x 5.
    It tells two round things on white ground apart, which the whole pictures' correlation does not.

    Reference: Wang et al., Image Quality Assessment, IEEE TIP 2004, equation 13.
    """
    one, two = (each - each.mean(axis=(1, 2, 3), keepdims=True) for each in (one, two))
    one, two = (
        each / np.maximum(each.std(axis=(1, 2, 3), keepdims=True), 1) for each in (one, two)
    )
    first, second = _windows(one), _windows(two)
    power = _windows(one * one) - first**2 + _windows(two * two) - second**2
    shared = _windows(one * two) - first * second
    levels = (2 * first * second + STEADY) / (first**2 + second**2 + STEADY)
    return (levels * (2 * shared + STEADY) / (power + STEADY)).mean(axis=(1, 2, 3))


def _windows(values: np.ndarray, side: int = 5) -> np.ndarray:
    """Means over all windows of each picture [pictures, height, width, 3]."""
    # A summed-area table with a row and a column of zeros in front: the sum of a window is that of
    # four of its entries.
    padded = np.pad(values, ((0, 0), (1, 0), (1, 0), (0, 0)))
    sums = padded.cumsum(axis=1).cumsum(axis=2)
    low, high = sums[:, :-side], sums[:, side:]
    return (high[:, :, side:] - high[:, :, :-side] - low[:, :, side:] + low[:, :, :-side]) / side**2


def _cuts_of(pictures: np.ndarray, axis: int) -> np.ndarray:
    """Every cut of each picture [pictures, height, width, 3] at the two ends of an axis, stretched
    to the old size: [cuts, pictures, height, width, 3]."""
    # The cut axis to the front, all else flat behind it: one product makes every cut of every
    # picture.
    lines = np.moveaxis(pictures, 1 + axis, 0)
    cut = _STRETCHES.reshape(-1, SIDE) @ lines.reshape(SIDE, -1)
    return np.moveaxis(cut.reshape(len(CUTS), *lines.shape), 1, 2 + axis)


def _stretch(left: float, right: float) -> np.ndarray:
    """Weights [to, from] that spread what lies between two cuts over the whole side, by area."""
    edges = SIDE * (left + (1 - left - right) * np.arange(SIDE + 1) / SIDE)
    begins, ends = edges[:-1, None], edges[1:, None]
    places = np.arange(SIDE)[None]
    over = np.minimum(ends, places + 1) - np.maximum(begins, places)
    over = np.maximum(over, 0.0)
    return (over / over.sum(axis=1, keepdims=True)).astype(np.float32)


_STRETCHES = np.stack([_stretch(*cut) for cut in CUTS])


def _correlate(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the values of each pair of pictures [..., height, width, 3], all
    colours together: neither brightness nor contrast changes it. 0 where one of them is flat."""
    one, two = (each.reshape(*each.shape[:-3], -1) for each in (one, two))
    one, two = (each - each.mean(axis=-1, keepdims=True) for each in (one, two))
    norm = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    return np.einsum("...v,...v->...", one, two) / np.maximum(norm, 1e-6)


def _deviation(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1).std(axis=1)


def near_texts(
    first: Sequence[str], second: Sequence[str] | None = None, limit: float = LIKE
) -> Iterator[tuple[int, int]]:
    """Pairs of texts that have at least this share of their runs of three words in common: one of
    `first` and one of `second`; without `second` two of `first`, the earlier one first.

    Of texts with the same words only the first of `second` (or of `first`) stands for all.
    Capitals and punctuation do not count; a text without words is near none.

    Worked example: "What flies over the old trees?" and "what flies over the old trees" have
    everything in common, and 5 of 11 runs with "What sits over the old trees?".
    """
    own = second is None
    others = first if second is None else second
    mine = [list_runs(text) for text in first]
    theirs = mine if own else [list_runs(text) for text in others]
    # Only texts that share one of their few rarest runs can be near (`_rarest`), so not every pair
    # is compared.
    common = Counter(run for runs in theirs for run in runs)
    known: dict[frozenset, int] = {}
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def add(number: int) -> None:
        runs = theirs[number]
        if runs and known.setdefault(runs, number) == number:
            for run in _rarest(runs, common, limit):
                index[run].append(number)

    if not own:
        for number in range(len(theirs)):
            add(number)
    for number, runs in enumerate(mine):
        near = {known[runs]} if runs in known else set()
        for other in {each for run in _rarest(runs, common, limit) for each in index[run]} - near:
            shared = len(runs & theirs[other])
            if shared >= limit * (len(runs) + len(theirs[other]) - shared):
                near.add(other)
        yield from ((other, number) if own else (number, other) for other in sorted(near))
        if own:
            add(number)


def _rarest(runs: frozenset, common: Counter, limit: float) -> list[tuple[str, ...]]:
    """So many of the rarest runs of a text that any text near it has one of them among its own."""
    # Prefix filter: a text near it shares at least limit * n of its n runs. If none of these were
    # among the first n - ceil(limit * n) + 1 of one common order, too few would be left behind
    # them. 1e-9: a product that is whole must not be rounded up by its last bit.
    order = sorted(runs, key=lambda run: (common[run], run))
    return order[: len(order) - math.ceil(limit * len(order) - 1e-9) + 1]


def list_runs(text: str) -> frozenset[tuple[str, ...]]:
    """Every run of three words, the begin and the end of the text among the words."""
    words = _WORD.findall(text.casefold())
    if not words:
        return frozenset()
    padded = ["", "", *words, "", ""]
    return frozenset(tuple(padded[n : n + RUN]) for n in range(len(padded) - RUN + 1))
