"""The stream of batches: which samples a step sees, made ahead of time, on any rank.

    step ─Order─▶ numbers of draws ─StageData─▶ Encoded ─collate─▶ Batch
                                        └─ unusable: counted, written down, replaced

A step's samples follow from its number alone, so a resumed run reads nothing of the past, and what
thread, worker process or rank prepares them changes nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from lucida.core.dropped import Dropped
from lucida.core.errors import DataError, LucidaError, RunError
from lucida.core.spec import BudgetSpec
from lucida.data.answers import Weighting, answer_weights
from lucida.data.collate import Images, collate, collate_rows, images_of
from lucida.data.order import Bookmark, Order, Row, check_rows
from lucida.data.sample import Batch, ImageSource
from lucida.data.stage import StageData
from lucida.data.transport import Parcel, keep_addresses_short
from lucida.data.views import normalise

AHEAD = 2
"""Passes that are prepared while the model works on one."""


@dataclass(slots=True)
class _Pass:
    """A prepared batch with what is to be reported once it is used."""

    batch: Batch | Parcel
    images: list[ImageSource]
    counts: Counter[str]
    dropped: list[dict[str, str | int]]


@dataclass(frozen=True)
class _Preparation:
    """All that a thread or worker process needs to prepare a pass."""

    data: StageData
    pad_id: int
    weighting: Weighting

    def prepare(self, rows: list[Row]) -> _Pass:
        """The pass that holds these rows."""
        samples, lost = self.data.samples([number for row in rows for number in row])
        tokens, spec = [sample.tokens for sample in samples], self.data.batch
        if spec.row is None:
            batch = collate(tokens, spec.pack, self.pad_id)
        else:
            # As many come back as were asked for, in their order: what is unusable was replaced.
            rest = iter(tokens)
            filled = [list(itertools.islice(rest, len(row))) for row in rows]
            batch = collate_rows(filled, spec.row, self.pad_id)
        batch.sources = [sample.source for sample in samples]
        batch.weight = answer_weights(batch, self.weighting)
        pixels = [sample.seen for sample in samples if sample.seen is not None]
        if pixels:
            batch.pixel_values = normalise(pixels)
        counts: Counter[str] = Counter()
        for sample in samples:
            counts[f"{sample.source}/samples"] += 1
            for what, count in sample.noted.items():
                counts[f"{sample.source}/{what}"] += count
        dropped = []
        for each in lost:
            counts[f"{each.source}/dropped"] += 1
            dropped.append(
                {"source": each.source, "record": each.record, "reason": str(each.reason)}
            )
        return _Pass(batch, [] if pixels else images_of(tokens), counts, dropped)


class DropLimit:
    """Writes down which records could not be used, each once, and stops when they are too many.

    share     of `records` that may be lost (mixture.max_dropped)
    file      where they are written; those from before a resumption still count
    stage     its name: what others lost, in other data, does not count here
    """

    def __init__(
        self, share: float, records: int, file: Path | None = None, stage: str | None = None
    ) -> None:
        self.share, self.records, self.stage = share, records, stage
        self.file = None if file is None else Dropped(file)
        lines = [] if self.file is None else self.file.read()
        mine = [line for line in lines if line.get("stage", stage) == stage]
        self.lost = {(line["source"], line["record"]) for line in mine if "record" in line}
        self.before = len(self.lost)

    def add(self, dropped: list[dict[str, str | int]], world: int) -> None:
        """Takes in what a pass lost. DataError when it is too much, over all ranks."""
        fresh = []
        for record in dropped:  # a small source may give the same one twice in a pass
            identity = record["source"], record["record"]
            if identity not in self.lost:
                self.lost.add(identity)
                fresh.append(record)
        if not fresh:
            return
        if self.file is not None:
            place = {} if self.stage is None else {"stage": self.stage}
            self.file.add(place | record for record in fresh)
        # The file has what all ranks lost before; since then each knows its own, which is its part.
        lost, most = self.before + (len(self.lost) - self.before) * world, self.share * self.records
        if lost > most:
            raise DataError(
                "too many records cannot be used",
                expected=f"at most {most:g} of {self.records} (mixture.max_dropped)",
                given=lost,
                origin=None if self.file is None else self.file.path,
                remedy=f"correct them or raise mixture.max_dropped; last: {fresh[-1]['reason']}",
            )


class Loader:
    """Batches of one stage for one rank.

    data              the records, drawn, encoded and replaced; its `look` gives the pixels, if any
    features          instead of pixels, features of images (a `FeatureCache` and the encoder behind
                      it), taken in the process that trains
    rank, world       this rank prepares every `world`-th sample of each pass
    limit             how many records may be lost; None: one in a hundred
    lengths           file that keeps the lengths of all records, where the order needs them
    weighting         how much each supervised token counts (`ObjectiveSpec`)

    `counts` grows as batches are handed out: "SOURCE/samples", "SOURCE/dropped", what `encode` cut
    away and what the source left out of its records.
    """

    def __init__(
        self,
        data: StageData,
        *,
        pad_id: int,
        features: Images | None = None,
        rank: int = 0,
        world: int = 1,
        limit: DropLimit | None = None,
        lengths: Path | None = None,
        weighting: Weighting = "token",
    ) -> None:
        check_rows(data.batch, world)
        self._preparation = _Preparation(data, pad_id, weighting)
        self._lengths_file = lengths
        self.data, self.mixture, self.batch = data, data.mixture, data.batch
        self.rank, self.world = rank, world
        self.features = features
        self.counts: Counter[str] = Counter()
        self._limit = limit or DropLimit(0.01, len(self.mixture))

    def steps(self, budget: BudgetSpec) -> int:
        """Optimizer steps of a budget; an epoch is as many samples as the mixture has records. No
        more than the mixture gives, if it ends."""
        if budget.epochs is not None:
            return self.order.steps(budget.epochs * len(self.mixture))
        return budget.steps if self.mixture.end is None else min(budget.steps, self.order.end)

    @cached_property
    def order(self) -> Order:
        """Which samples come when; all records are measured at the first look, if it needs that."""
        if self.data.lengths is not None:
            self.data.lengths.complete(self._lengths_file)
        return self.data.order

    def bookmark(self, step: int) -> Bookmark:
        """What finds this step again at once, given to `batches`; it must have been reached."""
        return self.order.bookmark(step)

    def batches(self, from_step: int = 0, mark: Bookmark = (0, 0)) -> Iterator[list[Batch]]:
        """For each step from `from_step` on, to the end of the mixture if it has one: the batches
        of its passes."""
        cut_by_samples = self.batch.tokens is None
        units = (
            [rows[0][self.rank :: self.world]] if cut_by_samples else rows[self.rank :: self.world]
            for rows in self.order.passes(from_step, mark)
        )
        source = self._from_workers if self.batch.workers else self._from_thread
        passes = source(units)
        try:
            while ready := list(itertools.islice(passes, self.batch.accumulate)):
                yield [self._finished(one) for one in ready]
        finally:
            passes.close()

    def _finished(self, one: _Pass) -> Batch:
        self.counts.update(one.counts)
        self._limit.add(one.dropped, self.world)
        if one.images and self.features is not None:
            one.batch.features = self.features(one.images)
        return one.batch

    def _from_thread(self, units: Iterator[list[Row]]) -> Iterator[_Pass]:
        executor = ThreadPoolExecutor(1, thread_name_prefix="lucida-data")
        waiting: deque[Future[_Pass]] = deque()
        try:
            while True:
                for rows in itertools.islice(units, AHEAD + 1 - len(waiting)):
                    waiting.append(executor.submit(self._preparation.prepare, rows))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _from_workers(self, units: Iterator[list[Row]]) -> Iterator[_Pass]:
        keep_addresses_short()
        loader = DataLoader(
            _Passes(self._preparation),
            batch_size=None,
            sampler=units,
            num_workers=self.batch.workers,
            prefetch_factor=AHEAD,
            collate_fn=_return_unchanged,
            # Its own generator: the default would draw from the one that dropout draws from.
            generator=torch.Generator(),
        )
        passes = iter(loader)
        try:
            for one in passes:
                if isinstance(one, LucidaError):
                    raise one
                one.batch = one.batch.open()
                yield one
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):  # raised by our code inside one
                raise
            raise RunError(
                f"a data worker died: {error}",
                remedy="it was killed, most often for lack of memory or of /dev/shm, which "
                "containers keep small: lower batch.workers, or set it to 0; the same command goes "
                "on from the last checkpoint",
            ) from error
        finally:
            passes = None  # ends the workers now, not when a traceback is forgotten


class _Passes(Dataset):
    """Passes by their rows, for torch's worker processes."""

    def __init__(self, preparation: _Preparation) -> None:
        self.preparation = preparation

    def __getitem__(self, rows: list[Row]) -> _Pass | LucidaError:
        # As a value: torch would rebuild a raised one from its text and lose the class.
        try:
            # Tensors are packed here and not by torch's queue, which would open a file for each of
            # them.
            ready = self.preparation.prepare(rows)
            ready.batch = Parcel.of(ready.batch)
            return ready
        except LucidaError as error:
            return error


def _return_unchanged(value: object) -> object:
    return value
