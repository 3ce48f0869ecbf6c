"""A mixture whose sources run out: which of them share the draws from where to where.

    weights 2 1 1, the second gives 40 samples at most

    draws     0 ... 127        128 ... 231      232 ...
    slots     64 32 32         64 8 32          64 0 32
              whole blocks     what is left     the others, by their weights

A phase is some blocks of equal slots. It ends where a source could not fill its slots of another
block; one block of what is left follows, so that the source gives exactly what it may. The phases
follow from weights and limits, so a draw still depends on its number alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_SHARE = 32
"""Slots that the rarest source has in a block: its proportion is met within 1/32."""
LARGEST_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Phase:
    """Blocks of the same slots. begin: number of its first draw; block: of its first block, over
    all phases; given: samples that every source gave before; blocks: None is without end."""

    begin: int
    block: int
    slots: tuple[int, ...]
    given: tuple[int, ...]
    blocks: int | None

    @property
    def size(self) -> int:
        """Slots of a block."""
        return sum(self.slots)

    @property
    def end(self) -> int | None:
        """Number of the draw after its last one."""
        return None if self.blocks is None else self.begin + self.blocks * self.size


def phases(weights: Sequence[float], limits: Sequence[int | None]) -> list[Phase]:
    """The phases of sources with these weights, of which some give at most `limits` samples.

    Without limits this is one phase without end.
    """
    found: list[Phase] = []
    begin, block, given = 0, 0, [0] * len(weights)
    while True:
        left = [
            math.inf if limit is None else limit - done
            for limit, done in zip(limits, given, strict=True)
        ]
        slots = slots_of(weights, left)
        if not any(slots):
            return found
        if all(room == math.inf for room in left if room):
            return [*found, Phase(begin, block, slots, tuple(given), None)]
        # Whole blocks until the first source cannot fill its slots; then one block of what each has
        # left of them. 40 left with 32 slots a block: one whole block, and one in which it has 8.
        finite = [(room, slot) for room, slot in zip(left, slots, strict=True) if room != math.inf]
        blocks = min(room // slot for room, slot in finite if slot)
        if blocks == 0:
            slots = tuple(min(slot, room) for slot, room in zip(slots, left, strict=True))
            blocks = 1
        found.append(Phase(begin, block, slots, tuple(given), blocks))
        begin, block = found[-1].end, block + found[-1].blocks
        given = [done + found[-1].blocks * slot for done, slot in zip(given, slots, strict=True)]


def slots_of(weights: Sequence[float], left: Sequence[float]) -> tuple[int, ...]:
    """Slots of each source in a block, by the largest remainder: none for one that has nothing
    left, at least one for any other."""
    weights = [weight if room else 0.0 for weight, room in zip(weights, left, strict=True)]
    total = sum(weights)
    if total == 0:
        return (0,) * len(weights)
    # The rarest source has 32 slots: weights 3 and 1 make a block of 32 / 0.25 = 128. Above 65,536
    # slots the block is cut, and the rarest keep at least one slot, which is then more than their
    # share.
    shares = [weight / total for weight in weights]
    rarest = min(share for share in shares if share)
    block = min(LARGEST_BLOCK, math.ceil(SMALLEST_SHARE / rarest - 1e-9))
    # 1e-9 here and above: 0.1 / 0.3 of a block must not fall short of a whole slot by a rounding
    # error.
    exact = [share * block for share in shares]
    slots = [max(1, math.floor(value + 1e-9)) if value else 0 for value in exact]
    some = [i for i, value in enumerate(exact) if value]
    by_remainder = sorted(some, key=lambda i: slots[i] - exact[i])
    for i in by_remainder[: max(0, block - sum(slots))]:
        slots[i] += 1
    return tuple(slots)
