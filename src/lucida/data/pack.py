"""Samples into rows of a fixed capacity: none is split, no row is over, little stays empty.

    lengths 5 4 3 3 2, capacity 8   ─best fit─▶   [5 3] [4 3] [2]

Best fit decreasing: longest first, each goes into the fullest row that still takes it. Lengths are
whole numbers up to the capacity, so rows are kept in one list per room left, and one integer has a
bit for each list that is not empty: the fullest row that fits is the lowest bit above the length. A
million lengths take seconds, where looking at every open row takes hours.

    capacity 4096, lengths from 606 on: five of 700 leave 596, which nothing fills

Where every sample is long against the capacity, best fit ends up with like beside like and gaps of
one size. Then rows are closed instead: begun with the longest item left, and ended by two that fill
them to the last position, found among items in the order they come, so that what is left stays a
fair sample of all. The rows that do not close are packed once more by best fit.

Reference: Johnson et al., Worst-Case Performance Bounds for Simple One-Dimensional Packing
Algorithms, SIAM Journal on Computing 3(4), 1974, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import numpy as np

ENOUGH = 0.01
"""Best fit that wastes no more is left as it is; so is a closed row."""
OFFERS = 24
"""Items that are looked at for the next place of a row."""


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of item numbers; every item stands in exactly one, and no row is longer than `capacity`.

    Items of a row and rows by their first item stand in the order of the items. ValueError for a
    length that is not in 1..capacity.

    Worked example: pack([5, 4, 3, 3, 2], 8) gives [[0, 2], [1, 3], [4]].
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"lengths {sizes.min()}..{sizes.max()} are not all in 1..{capacity}")
    rows = best_fit(sizes, capacity)
    fewest = -(-int(sizes.sum()) // capacity)
    if len(rows) > max(fewest, fewest / (1 - ENOUGH)):
        plain, closed, rest = sizes.tolist(), [], []
        for row in close_rows(sizes, capacity):
            full = sum(plain[item] for item in row) >= (1 - ENOUGH) * capacity
            closed.append(row) if full else rest.extend(row)
        closed += [[rest[place] for place in row] for row in best_fit(sizes[rest], capacity)]
        rows = min(rows, closed, key=len)
    for row in rows:
        row.sort()
    return sorted(rows)


def best_fit(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows by best fit decreasing, in the order in which they were begun."""
    plain = sizes.tolist()
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_rooms = 0  # bit r: some row has room for r more positions
    for item in np.argsort(-sizes, kind="stable").tolist():
        length = plain[item]
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                open_rooms ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        left = room - length
        if left:
            if not by_room[left]:
                open_rooms |= 1 << left
            by_room[left].append(row)
    return rows


class _Stock:
    """Items that have no place yet, by length; bit n of `there` is set when one has length n."""

    def __init__(self, sizes: np.ndarray, capacity: int) -> None:
        self.items: list[list[int]] = [[] for _ in range(capacity + 1)]
        plain = sizes.tolist()
        for item in range(len(plain) - 1, -1, -1):
            self.items[plain[item]].append(item)
        self.there = sum(1 << length for length, items in enumerate(self.items) if items)

    def take(self, length: int) -> int:
        item = self.items[length].pop()
        if not self.items[length]:
            self.there ^= 1 << length
        return item

    def longest(self, room: int) -> int:
        """The longest length of at most `room`, 0 when there is none."""
        return max(0, (self.there & ((2 << room) - 1)).bit_length() - 1) if room > 0 else 0

    @property
    def shortest(self) -> int:
        return (self.there & -self.there).bit_length() - 1


def close_rows(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows that begin with the longest item left and are ended by two that fill them."""
    stock, offers = _Stock(sizes, capacity), cycle(sizes.tolist())
    rows = []
    while stock.there:
        lengths = [stock.longest(capacity)]
        row, room = [stock.take(lengths[0])], capacity - lengths[0]
        while stock.there and room >= stock.shortest:
            lengths = choose_next(stock, room, offers)
            row += [stock.take(length) for length in lengths]
            room -= sum(lengths)
        rows.append(row)
    return rows


def choose_next(stock: _Stock, room: int, offers: Iterator[int]) -> tuple[int, ...]:
    """Lengths to place next in a row with this room: one or two that fill it, else one that leaves
    room for two, else what fills most of it."""
    one, shortest = stock.longest(room), stock.shortest
    # It fills the row, or no two items fit any more: the longest that does is best.
    if one == room or 2 * shortest > room:
        return (one,)
    best: tuple[int, ...] = (one,)
    # While the longest that fits takes less than half of the room, the row is not near its end.
    for first in islice(offers, OFFERS if 2 * one >= room else 0):
        if first >= room or not stock.items[first]:
            continue
        second = stock.longest(room - first)
        # Two of one length, of which only one is left.
        if second == first and len(stock.items[first]) == 1:
            second = stock.longest(first - 1)
        if second and first + second > sum(best):
            best = (first, second)
            if first + second == room:
                return best
    # No pair fills it. Take one that leaves room for two more, which may: in the order in which
    # items come and not the longest, or all long ones would be gone and only short ones left to
    # close with.
    most = room - 2 * shortest
    if most < shortest:
        return best
    for length in islice(offers, OFFERS):
        if length <= most and stock.items[length]:
            return (length,)
    return (stock.longest(most),)


def waste(lengths: Sequence[int] | np.ndarray, rows: Sequence[Sequence[int]], size: int) -> float:
    """Share of the positions of rows of `size` that hold nothing.

    Worked example: lengths [5, 4, 3, 3, 2] in 3 rows of 8 waste 7 of 24 positions: 0.29.
    """
    held = int(np.asarray(lengths)[[item for row in rows for item in row]].sum())
    return 1 - held / (len(rows) * size) if rows else 0.0


def fullness(sizes: Sequence[int], room: int) -> float:
    """Share of the positions of rows of `room` that hold something when these samples are packed.

    Lengths are repeated until they fill some sixteen rows, so that the last one hardly counts.

    Worked example: lengths of 5 in rows of 8 leave 3 of 8 positions empty: 0.625.
    """
    times = math.ceil(16 * room / max(1, sum(sizes)))
    every = np.tile(np.asarray(sizes, dtype=np.int64), max(1, times))
    return 1 - waste(every, pack(every, room), room)
