"""Samples into rows of a fixed capacity: none is split, no row is over, little stays empty.

    lengths 5 4 3 3 2, capacity 8   ─pack─▶   [5 3] [4 3] [2]      (best-fit decreasing)

Longest first, each goes into the fullest row that still takes it. Lengths are whole numbers up to
the capacity, so rows are kept in one list per room left, and one integer has a bit for each list
that is not empty: the fullest row that fits is the lowest bit above the length. A million lengths
take seconds, where looking at every open row takes hours.

Reference: Johnson et al., Worst-Case Performance Bounds for Simple One-Dimensional Packing
Algorithms, SIAM Journal on Computing 3(4), 1974, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lucida.data.collate import FIELDS
from lucida.data.sample import IGNORED, Batch, Tokens


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of item numbers; every item stands in exactly one, and no row is longer than `capacity`.

    Items of a row and rows by their first item stand in the order of the items. ValueError for a
    length that is not in 1..capacity.

    Worked example: pack([5, 4, 3, 3, 2], 8) gives [[0, 2], [1, 3], [4]].
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"lengths {sizes.min()}..{sizes.max()} are not all in 1..{capacity}")
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
    for row in rows:
        row.sort()
    return sorted(rows)


def waste(lengths: Sequence[int] | np.ndarray, rows: Sequence[Sequence[int]], size: int) -> float:
    """Share of the positions of rows of `size` that hold nothing.

    Worked example: lengths [5, 4, 3, 3, 2] in 3 rows of 8 waste 7 of 24 positions: 0.29.
    """
    held = int(np.asarray(lengths)[[item for row in rows for item in row]].sum())
    return 1 - held / (len(rows) * size) if rows else 0.0


def collate_rows(rows: Sequence[Sequence[Tokens]], capacity: int, pad_id: int) -> Batch:
    """Rows of samples as one batch [rows, capacity]; each row's end is padding (segment 0).

    Samples and their images count row by row. ValueError for a row that is over the capacity.

    Worked example: rows of samples with 2 + 1 and 3 tokens, capacity 4: segment is
    [[1, 1, 2, 0], [1, 1, 1, 0]] and position [[0, 1, 0, 0], [0, 1, 2, 0]].
    """
    padding = {"input_ids": pad_id, "target": IGNORED}
    shape = (len(rows), capacity)
    fields = {name: np.full(shape, padding.get(name, 0), dtype=np.int64) for name in FIELDS}
    for number, row in enumerate(rows):
        lengths = [len(sample) for sample in row]
        end = sum(lengths)
        if end > capacity:
            raise ValueError(f"a row of {end} positions is over the capacity {capacity}")
        fields["segment"][number, :end] = np.repeat(np.arange(1, len(row) + 1), lengths)
        for name in FIELDS:
            if name != "segment" and row:
                values = [getattr(sample, name) for sample in row]
                fields[name][number, :end] = np.concatenate(values)
    tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
    return Batch(**tensors, origins=[sample.origin for row in rows for sample in row])
