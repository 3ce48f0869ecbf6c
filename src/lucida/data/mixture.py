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
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lucida.core.errors import DataError
from lucida.data.phases import phases
from lucida.data.sample import Sample
from lucida.data.source import Source

# Four rounds of random functions make a permutation that cannot be told from a random one (Luby and
# Rackoff, SIAM Journal on Computing 17(2), 1988); two more, as splitmix64 is well mixed and no more
# than that.
_ROUNDS = 6


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


def fetch(source: Source, index: int) -> tuple[Sample, Mapping[str, int]]:
    """A record, and how much the source left out of it by reason, where it tells."""
    # A part may be one of a part (held out, then capped); only the source under all knows what it
    # lost.
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
        self.weights = dict(weights)
        self._key = make_key("mixture", seed)
        self._source_keys = tuple(make_key("source", seed, name) for name in self.names)

    def __len__(self) -> int:
        """Records of all sources together: what is called one epoch of the mixture."""
        return sum(self.sizes)

    def draw(self, n: int) -> Draw:
        """The n-th sample of the stream, from 0. IndexError at the end of it."""
        which, index, epoch = (int(values[0]) for values in self.draws([n]))
        return Draw(self.names[which], index, epoch)

    def draws(
        self, numbers: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws of any numbers at once: for each its source's place in `names`, record and epoch.

        int64 [numbers] each. A thousand cost little more than one, so ask for all that are needed.
        IndexError for one behind the end.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        if self.end is not None and len(numbers) and numbers.max() >= self.end:
            raise IndexError(f"draw {numbers.max()} of {self.end}")
        which, earlier = np.zeros_like(numbers), numbers
        if len(self.names) > 1:
            which, earlier = self._slots_of(numbers)
        index, epochs = np.empty_like(numbers), np.empty_like(numbers)
        for source, size in enumerate(self.sizes):
            here = which == source
            if not here.any():
                continue
            # `earlier` counts this source's draws from the stream's beginning: whole epochs, and a
            # place.
            epochs[here], place = np.divmod(earlier[here], size)
            keys = _mix_bits(np.uint64(self._source_keys[source]) ^ epochs[here].astype(np.uint64))
            index[here] = permute(place, size, keys)
        return which, index, epochs

    def _slots_of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose these draws are, and how many of the same source come before each."""
        which, earlier = np.empty_like(numbers), np.empty_like(numbers)
        # `_begins` of phases 0, 128, 232: draw 127 is of phase 0, draw 128 of phase 1.
        phase_of = np.searchsorted(self._begins, numbers, side="right") - 1
        for number in np.unique(phase_of):
            phase, here = self.phases[number], phase_of == number
            block, slot = np.divmod(numbers[here] - phase.begin, phase.size)
            blocks, row = np.unique(block, return_inverse=True)
            keys = _mix_bits(np.uint64(self._key) ^ (phase.block + blocks).astype(np.uint64))
            arranged = [_arrange_block(int(key), phase.slots) for key in keys]
            # One row of these tables for each block that is asked for.
            whose, before = (np.stack(table) for table in zip(*arranged, strict=True))
            mine = whose[row, slot]
            # Before a draw of source s came: what earlier phases gave, s's slots of each whole
            # block of this phase, and its slots in front of this one in the block.
            given, slots = np.array(phase.given), np.array(phase.slots)
            which[here] = mine
            earlier[here] = given[mine] + block * slots[mine] + before[row, slot]
        return which, earlier

    def lots(self, window: int, count: int) -> np.ndarray:
        """Numbers to shuffle `count` things by, uint64: the same ones whenever `window` is."""
        key = _mix_bits(np.uint64(self._key) ^ _mix_bits(np.array([window + 1])))
        return _mix_bits(np.arange(count, dtype=np.uint64) + key)


def permute(places: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Where keyed permutations of range(size) send `places`, each by its key (uint64); no table is
    stored.

    A Feistel network permutes the next larger power of four, and its steps are repeated until they
    land inside the range ("cycle walking", less than four times on average).

    Reference: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002, section 4.
    """
    if size == 1:
        return np.zeros(len(places), dtype=np.int64)
    # Both halves have `half` bits, so 4**half numbers are permuted, of which more than a quarter is
    # in the range. 1000 records: 10 bits, halves of 5, 1024 numbers.
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    # Following a place until it is inside again keeps this one to one: it walks along a cycle of
    # the larger permutation, and stops at the first place of the range behind its own.
    while len(outside):
        key = keys[outside]
        left, right = found[outside] >> half, found[outside] & low
        for turn in range(_ROUNDS):
            # The round's number stands in the low 8 bits of what is mixed, the half above them.
            mixed = _mix_bits(key + np.uint64(turn) + (right << np.uint64(8)))
            left, right = right, left ^ (mixed & low)
        found[outside] = left << half | right
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


@lru_cache(maxsize=16)
def _arrange_block(key: int, slots: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For each slot of a block: whose it is, and how many slots of the same source are before it.

    Counting in the order of the stream is what makes an epoch end before the next one begins.
    """
    # A shuffle is the order of hashed numbers: no generator, so no state and no numpy version in
    # it.
    lots = np.arange(sum(slots), dtype=np.uint64) + np.uint64(key)
    whose = np.repeat(np.arange(len(slots)), slots)[np.argsort(_mix_bits(lots), kind="stable")]
    earlier = np.empty(len(whose), dtype=np.int64)
    for which, count in enumerate(slots):
        earlier[whose == which] = np.arange(count)
    return whose, earlier


def _mix_bits(values: np.ndarray) -> np.ndarray:
    """64 well-mixed bits of each value (splitmix64's finaliser); uint64 wraps around by itself."""
    values = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def make_key(*parts: object) -> int:
    """64 bits that belong to these parts, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
