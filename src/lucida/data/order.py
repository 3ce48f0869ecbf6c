"""Which samples each pass of each step holds: the mixture's draws, put in the order of a stage.

    mixed     draw n stands at place n; a step is so many draws; nothing is looked up
    modality  every step has images in all of its samples or in none, as in LLaVA and Prismatic
    length    samples of like length share a step, so that padding them wastes little
    tokens    (batch.tokens) rows of like fullness; a step is so many rows

All but the first look at a window of consecutive draws, so they need the length of every record:
`Lengths`. What a window holds follows from its number, so the whole state is the number of the
step: a stream is resumed without reading a sample, and is the same for any number of ranks and
workers. A mixture that ends makes an order that ends, with its last whole step.

    window     0                   1                      2
    draws      0 ... 16383         16384 ... 32767        32768 ...
    rows       0 ... 4090          4091 ... 8179          8180 ...      as they are packed
    bookmarks  (0, 0)              (1, 4091)              (2, 8180)
    steps      of 256 rows: step 15 has the last 251 rows of window 0 and the first 5 of window 1

Rows run on over the ends of windows, so finding a step needs to know how many came before; a
`Bookmark` says so, and without one the windows before are planned again, a few microseconds for a
sample.

Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023, arXiv 2310.03744,
code (group by modality); Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865, code.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np

from lucida.core.errors import RecipeError
from lucida.core.spec import BatchSpec
from lucida.data.lengths import Lengths
from lucida.data.mixture import Mixture
from lucida.data.pack import pack

WINDOW = 1 << 14
"""Draws that are put in order together. Larger ones pack hardly better (benchmarks/packing.py)."""

Row = list[int]
"""Numbers of draws that stand side by side."""

Bookmark = tuple[int, int]
"""Number of a window, and rows of all windows before it."""


def needs_lengths(batch: BatchSpec) -> bool:
    """Does this order look at the lengths of records?"""
    return batch.tokens is not None or batch.order != "mixed"


def capacity(batch: BatchSpec) -> int | None:
    """Positions of a row, None where rows are not filled to a budget."""
    if batch.tokens is None:
        return None
    return batch.row or batch.tokens // batch.accumulate


def rows_of_step(batch: BatchSpec) -> int:
    """Rows that one step holds over all ranks; 1 where it is cut by samples."""
    if batch.tokens is None:
        return 1
    return batch.accumulate if batch.row is None else batch.tokens // batch.row


class Order:
    """The order of one stage. `lengths` may be left out where `needs_lengths` says so. `rest`: what
    is left at the end of a mixture is a last step of fewer samples (under `mixed`)."""

    def __init__(
        self,
        mixture: Mixture,
        batch: BatchSpec,
        lengths: Lengths | None = None,
        rest: bool = False,
    ) -> None:
        self.rest = rest
        if needs_lengths(batch) and lengths is None:
            raise ValueError("this order needs the lengths of all records")
        self.mixture, self.batch, self.lengths = mixture, batch, lengths
        self.capacity, self.rows = capacity(batch), rows_of_step(batch)
        self.window = window_size(batch, len(mixture))
        self._bookmarks: list[Bookmark] = [(0, 0)]

    def passes(self, from_step: int = 0, mark: Bookmark = (0, 0)) -> Iterator[list[Row]]:
        """The rows of every pass from a step on, over all ranks. A pass that is cut by samples is
        one row. `mark` is what `bookmark` gave for this step or an earlier one."""
        # Bookmarks of a run that goes on are those of the run before: the list stays in order.
        if mark > self._bookmarks[-1]:
            self._bookmarks.append(mark)
        for step in self._steps(from_step):
            for begin, end in part_bounds(len(step), self.batch.accumulate):
                part = step[begin:end]
                yield part if self.capacity is not None else [part]

    def steps(self, draws: float) -> int:
        """Steps that so many draws make, at most all there are; by tokens, as many as at the rate
        of the first windows."""
        if self.capacity is None:
            many = math.ceil(draws / self.batch.samples)
        else:
            windows = [
                # Sixteen windows are 262,144 draws: enough for a rate, and an unmeasured table
                # stays so behind them.
                self._lengths(window)[0]
                for window in range(math.ceil(draws / self.window))[:16]
            ]
            rows = sum(len(pack(lengths, self.capacity)) for lengths in windows)
            many = math.ceil(draws * rows / sum(map(len, windows)) / self.rows)
        return max(1, many if self.end is None else min(many, self.end))

    @cached_property
    def end(self) -> int | None:
        """Steps that there are, None without end; RecipeError when it is none at all."""
        if (draws := self.mixture.end) is None:
            return None
        if self.capacity is not None:
            windows = range(math.ceil(draws / self.window))
            rows = sum(len(pack(self._lengths(each)[0], self.capacity)) for each in windows)
            steps = rows // self.rows
        else:
            steps = draws // self.batch.samples
        if steps == 0:
            raise RecipeError(
                "the budgets of all sources together do not make one step",
                given=f"{draws} samples",
                remedy="raise mixture.budgets or make batches smaller",
            )
        return steps

    def bookmark(self, step: int) -> Bookmark:
        """Where `passes` may begin to look for a step that it has reached."""
        after = bisect_right(self._bookmarks, step * self.rows, key=lambda mark: mark[1])
        return self._bookmarks[max(0, after - 1)]

    def _steps(self, from_step: int) -> Iterator[list]:
        """Draws of every step, or its rows."""
        if self.capacity is not None:
            yield from self._by_rows(from_step)
            return
        samples, end = self.batch.samples, self.mixture.end
        if self.batch.order == "mixed":
            while end is None or (from_step + 1) * samples <= end:
                yield list(range(from_step * samples, (from_step + 1) * samples))
                from_step += 1
            if self.rest and end is not None and from_step * samples < end:
                yield list(range(from_step * samples, end))
            return
        # A window is whole steps here (`window_size`), so its number follows by division, without a
        # mark.
        window, skipped = divmod(from_step, self.window // samples)
        while steps := self._grouped(window):
            yield from steps[skipped:]
            window, skipped = window + 1, 0

    def _by_rows(self, from_step: int) -> Iterator[list[Row]]:
        skipped = from_step * self.rows
        window, before = self.bookmark(from_step)
        waiting: list[Row] = []  # rows of windows so far that do not make a whole step yet
        while rows := self._packed(window):
            # `skipped` rows of all windows come before this step, `before` of them in earlier
            # windows.
            waiting += rows[max(0, skipped - before) :]
            window, before = window + 1, before + len(rows)
            if (window, before) > self._bookmarks[-1]:
                self._bookmarks.append((window, before))
            while len(waiting) >= self.rows:
                yield waiting[: self.rows]
                del waiting[: self.rows]

    def _packed(self, window: int) -> list[Row]:
        """The rows of a window, shuffled: best-fit leaves the long samples in the first ones."""
        rows = pack(self._lengths(window)[0], self.capacity)
        begin = window * self.window
        return [[begin + i for i in rows[place]] for place in self._shuffled(window, len(rows))]

    def _grouped(self, window: int) -> list[Row]:
        """The steps of a window, cut by samples, in a shuffled order."""
        lengths, shows = self._lengths(window)
        samples, begin = self.batch.samples, window * self.window
        whole = len(lengths) - len(lengths) % samples  # less only where the mixture ends
        lengths, shows = lengths[:whole], shows[:whole]
        if self.batch.order == "modality":
            steps = group_by_modality(lengths, shows, samples, self.batch.accumulate)
        else:
            steps = group_by_length(lengths, samples)
        return [[begin + i for i in steps[place]] for place in self._shuffled(window, len(steps))]

    def _lengths(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each draw of a window, and whether it has images."""
        begin = window * self.window
        end = begin + self.window
        if self.mixture.end is not None:
            end = max(begin, min(end, self.mixture.end))
        if begin == end:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=bool)
        which, index, _ = self.mixture.draws(np.arange(begin, end))
        return self.lengths.planned(self.mixture.names, which, index)

    def _shuffled(self, window: int, many: int) -> list[int]:
        return np.argsort(self.mixture.lots(window, many), kind="stable").tolist()


def window_size(batch: BatchSpec, records: int) -> int:
    """Draws of a window: at most an epoch, so that a record comes once in it; whole steps."""
    most = min(WINDOW, records)
    if batch.tokens is not None:
        return most
    return max(1, most // batch.samples) * batch.samples


def group_by_modality(
    lengths: np.ndarray, shows: np.ndarray, samples: int, parts: int = 1
) -> list[list[int]]:
    """Steps of samples that all have images or all have none, cut in the order they come.

    What is left over of both kinds makes the last step. Within a step the longest come first and
    are dealt out over its parts in turn, so that passes and ranks get as much of each length.

    Worked example: shows [1, 0, 1, 0, 1, 0] and steps of 2 give {0, 2}, {1, 3} and {4, 5}.
    """
    kinds = [np.flatnonzero(shows).tolist(), np.flatnonzero(~shows).tolist()]
    steps, left = [], []
    for kind in kinds:
        whole = len(kind) - len(kind) % samples
        steps += [kind[at : at + samples] for at in range(0, whole, samples)]
        left += kind[whole:]
    steps += [left[at : at + samples] for at in range(0, len(left), samples)]
    return [deal(sorted(step, key=lambda i: (-lengths[i], i)), parts) for step in steps]


def part_bounds(count: int, parts: int) -> list[tuple[int, int]]:
    """Where the parts of `count` things begin and end; the last ones are the larger.

    Worked example: 5 things in 2 parts: (0, 2) and (2, 5).
    """
    edges = [count * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def deal(items: list[int], parts: int) -> list[int]:
    """Items so placed that each of the parts a step is cut into has every parts-th of them.

    Worked example: deal([5, 4, 3, 2, 1], 2), cut after 2 items, gives 4 2 and 5 3 1.
    """
    sizes = [end - begin for begin, end in part_bounds(len(items), parts)]
    hands: list[list[int]] = [[] for _ in range(parts)]
    turn = 0
    # The last parts are the larger ones, so they are served first.
    for item in items:
        while len(hands[-1 - turn % parts]) == sizes[-1 - turn % parts]:
            turn += 1
        hands[-1 - turn % parts].append(item)
        turn += 1
    return [item for hand in hands for item in hand]


def group_by_length(lengths: np.ndarray, samples: int) -> list[list[int]]:
    """Steps of samples of like length, longest first; equal ones in the order they come.

    Worked example: lengths [3, 9, 4, 9] in steps of 2 give [1, 3] and [2, 0].
    """
    # Stable, because the order is part of what a run is: ties must fall alike on every machine.
    sorted_draws = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [sorted_draws[at : at + samples] for at in range(0, len(sorted_draws), samples)]


def check_rows(batch: BatchSpec, world: int) -> None:
    """RecipeError unless every rank has a row, or a sample, in each pass of a step."""
    needed = world * batch.accumulate
    if batch.tokens is None:
        if batch.samples // batch.accumulate < world:
            raise RecipeError(
                "each rank needs a sample in each pass of a step",
                expected=f"batch.samples of at least {needed}",
                given=batch.samples,
                remedy=f"raise batch.samples or lower batch.accumulate ({batch.accumulate})",
            )
    elif rows_of_step(batch) // batch.accumulate < world:
        raise RecipeError(
            "each rank needs a row in each pass of a step",
            expected=f"batch.tokens of at least {needed} rows of {capacity(batch)} positions",
            given=batch.tokens,
            remedy=f"set batch.row to at most {batch.tokens // needed}",
        )
