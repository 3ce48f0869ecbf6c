"""Which record comes n-th: a mixture of sources whose whole state is the integer n.

Nothing is drawn and remembered; everything is computed from n. So a resumed run continues at its
sample without reading the ones before, any number of ranks and workers shares one stream, and two
machines agree without talking.

    n ─▶ block and slot ─▶ source, and how often it came before ─▶ epoch and place ─▶ index

Within a block each source has its exact share of slots (largest remainder), in an order shuffled by
block; within an epoch of a source every record comes exactly once, in an order shuffled by epoch.
A source with a limit gives exactly so many samples; then the others go on (`lucida.data.phases`).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from lucida.core.errors import DataError
from lucida.data.phases import Phase, phases
from lucida.data.sample import Sample

_ROUNDS = 6
_MASK = (1 << 64) - 1


class Source(Protocol):
    """Records by number; a record that cannot be used raises `DataError`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True, slots=True)
class Part(ABC):
    """Some records of another source, under their own numbers."""

    source: Source

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.place(index)]

    def place(self, index: int) -> int:
        """Which record of `source` number `index` is."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._place(index)

    @abstractmethod
    def _place(self, index: int) -> int:
        """The same, for a number that there is."""


def fetched(source: Source, index: int) -> tuple[Sample, Mapping[str, int]]:
    """A record, and how much the source left out of it by reason, where it tells."""
    while isinstance(source, Part):
        source, index = source.source, source.place(index)
    explained = getattr(source, "explained", None)
    return (source[index], {}) if explained is None else explained(index)


def own_number(source: Source, index: int) -> int:
    """The number of a record in the source that a `Part` was taken from."""
    while isinstance(source, Part):
        source, index = source.source, source.place(index)
    return index


class Draw(NamedTuple):
    """Record `index` of `source`, in its `epoch`-th pass (from 0) over that source."""

    source: str
    index: int
    epoch: int


class Mixture:
    """Sources with weights. A weight is a share of the samples, whatever the size of its source.

    Worked example: with weights 3 and 1 a block has 128 slots, so draws 0 to 127 hold exactly 96
    samples of the first source and 32 of the second, and so do draws 128 to 255.
    """

    def __init__(
        self,
        sources: Mapping[str, Sized],
        weights: Mapping[str, float],
        seed: int,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        if set(sources) != set(weights) or not sources:
            raise ValueError(f"sources {sorted(sources)} and weights {sorted(weights)} differ")
        for name, source in sources.items():
            if len(source) == 0:
                remedy = "remove it from the mixture, or check its file"
                raise DataError("the source has no records", origin=name, remedy=remedy)
            if not 0 < weights[name] < math.inf:
                expected = "a positive number"
                raise DataError("bad weight", expected=expected, given=weights[name], origin=name)
        self.sources = dict(sources)
        self.names = tuple(sources)
        self.sizes = tuple(len(sources[name]) for name in self.names)
        most = [(limits or {}).get(name) for name in self.names]
        self.phases = phases([weights[name] for name in self.names], most)
        self.slots = self.phases[0].slots
        self.end = self.phases[-1].end
        """Draws that there are; None is without end."""
        self._begins = [phase.begin for phase in self.phases]
        self._key = keyed("mixture", seed)
        self._source_keys = tuple(keyed("source", seed, name) for name in self.names)

    def __len__(self) -> int:
        """Records of all sources together: what is called one epoch of the mixture."""
        return sum(self.sizes)

    def draw(self, n: int) -> Draw:
        """The n-th sample of the stream, from 0. IndexError at the end of it."""
        self._check(n + 1)
        if len(self.names) == 1:
            return self._record(0, n)
        phase = self.phases[bisect_right(self._begins, n) - 1]
        block, slot = divmod(n - phase.begin, phase.size)
        whose, earlier = _arranged(_mixed(self._key ^ (phase.block + block)), phase.slots)
        which = int(whose[slot])
        before = phase.given[which] + block * phase.slots[which]
        return self._record(which, before + int(earlier[slot]))

    def draws(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws `begin` to `end` at once: numbers of their sources in `names`, and their records.

        int64 each; the same as `draw`, some fifty times as fast.
        """
        self._check(end)
        if len(self.names) == 1:
            whose, earlier = np.zeros(end - begin, dtype=np.int64), np.arange(begin, end)
        else:
            parts = []
            for phase in self.phases:
                upto = end if phase.end is None else min(end, phase.end)
                if max(begin, phase.begin) < upto:
                    parts.append(self._of_phase(phase, max(begin, phase.begin), upto))
            whose = np.concatenate([part[0] for part in parts])
            earlier = np.concatenate([part[1] for part in parts])
        index = np.empty(len(whose), dtype=np.int64)
        for which, size in enumerate(self.sizes):
            epoch, place = np.divmod(earlier[whose == which], size)
            source_key = np.uint64(self._source_keys[which])
            keys = _mixed_all(source_key ^ epoch.astype(np.uint64))
            index[whose == which] = permuted_all(place, size, keys)
        return whose, index

    def _of_phase(self, phase: Phase, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Whose the draws of one phase are, and how many of the same source came before."""
        first, last = begin - phase.begin, end - phase.begin
        blocks = range(first // phase.size, (last - 1) // phase.size + 1)
        keys = [_mixed(self._key ^ (phase.block + block)) for block in blocks]
        parts = [_arranged(key, phase.slots) for key in keys]
        slots, given = np.array(phase.slots), np.array(phase.given)
        cut = slice(first - blocks[0] * phase.size, last - blocks[0] * phase.size)
        before = [
            part[1] + given[part[0]] + block * slots[part[0]]
            for part, block in zip(parts, blocks, strict=True)
        ]
        return np.concatenate([part[0] for part in parts])[cut], np.concatenate(before)[cut]

    def _check(self, end: int) -> None:
        if self.end is not None and end > self.end:
            raise IndexError(f"draw {end - 1} of {self.end}")

    def lots(self, window: int, many: int) -> np.ndarray:
        """Numbers to shuffle `many` things by, uint64, the same for every window of that number."""
        key = np.uint64(_mixed(self._key ^ _mixed(window + 1)))
        return _mixed_all(np.arange(many, dtype=np.uint64) + key)

    def _record(self, which: int, earlier: int) -> Draw:
        """The record of a source of which `earlier` samples came before."""
        size = self.sizes[which]
        epoch, place = divmod(earlier, size)
        index = permuted(place, size, _mixed(self._source_keys[which] ^ epoch))
        return Draw(self.names[which], index, epoch)


def permuted(place: int, size: int, key: int) -> int:
    """Where a keyed permutation of range(size) sends `place`; no table is stored.

    A Feistel network permutes the next larger power of four, and its steps are repeated until they
    land inside the range ("cycle walking", less than four times on average).

    Reference: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002, section 4.
    """
    if size == 1:
        return 0
    half = ((size - 1).bit_length() + 1) // 2
    low = (1 << half) - 1
    while True:
        left, right = place >> half, place & low
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(key + turn + (right << 8)) & low)
        place = left << half | right
        if place < size:
            return place


def permuted_all(places: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """`permuted` of every place, each with its own key (uint64)."""
    if size == 1:
        return np.zeros(len(places), dtype=np.int64)
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        key = keys[outside]
        left, right = found[outside] >> half, found[outside] & low
        for turn in range(_ROUNDS):
            mixed = _mixed_all(key + np.uint64(turn) + (right << np.uint64(8)))
            left, right = right, left ^ (mixed & low)
        found[outside] = left << half | right
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


@lru_cache(maxsize=16)
def _arranged(key: int, slots: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each slot of a block: whose it is, and how many slots of the same source are before it.

    Counting in the order of the stream is what makes an epoch end before the next one begins.
    """
    lots = np.arange(sum(slots), dtype=np.uint64) + np.uint64(key)
    whose = np.repeat(np.arange(len(slots)), slots)[np.argsort(_mixed_all(lots), kind="stable")]
    earlier = np.empty(len(whose), dtype=np.int64)
    for which, count in enumerate(slots):
        earlier[whose == which] = np.arange(count)
    return whose, earlier


def _mixed_all(values: np.ndarray) -> np.ndarray:
    """`_mixed` of an array of uint64, whose arithmetic wraps around by itself."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def _mixed(value: int) -> int:
    """64 well-mixed bits (splitmix64's finaliser)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def keyed(*parts: object) -> int:
    """64 bits that belong to these parts, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
