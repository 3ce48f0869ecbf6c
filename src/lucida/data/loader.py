"""The stream of batches: which samples a step sees, made ahead of time, on any rank.

    step ─Order─▶ numbers ─Mixture.draw─▶ records ─encode─▶ Tokens ─collate─▶ Batch
                                             └─ unusable: counted, written down, replaced

A step's samples follow from its number alone, so a resumed run reads nothing of the past, and what
thread, worker process or rank prepares them changes nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import DataLoader, Dataset

from lucida.core.dropped import Dropped
from lucida.core.errors import DataError, LucidaError, RunError
from lucida.core.spec import BatchSpec, BudgetSpec
from lucida.data.answers import Weighting, answer_weights
from lucida.data.collate import Images, Pixels, collate, collate_rows, images_of, joined
from lucida.data.lengths import Encode, Lengths, measured
from lucida.data.mixture import Draw, Mixture, fetched, own_number
from lucida.data.order import Bookmark, Order, Row, capacity, check_room, check_rows, needs_lengths
from lucida.data.sample import Batch, ImageSource, Tokens
from lucida.data.transport import Parcel, keep_addresses_short

SUBSTITUTES = 16
"""Neighbours that are tried in place of an unusable record before the source is called broken."""
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

    mixture: Mixture
    encode: Encode
    batch: BatchSpec
    pad_id: int
    pixels: Images | None
    verify: bool
    skip: bool
    weighting: Weighting = "token"
    lengths: Lengths | None = None
    _whole: set[str] = field(default_factory=set)

    def prepare(self, rows: list[Row]) -> _Pass:
        """The pass that holds these rows."""
        counts: Counter[str] = Counter()
        dropped: list[dict[str, str | int]] = []
        filled = [[self._sample(n, counts, dropped) for n in row] for row in rows]
        found = [one for row in filled for one in row]
        tokens = [sample for _, sample, _ in found]
        if self.batch.row is None:
            batch = collate(tokens, self.batch.pack, self.pad_id)
        else:
            row_tokens = [[sample for _, sample, _ in row] for row in filled]
            batch = collate_rows(row_tokens, self.batch.row, self.pad_id)
        batch.sources = [source for source, _, _ in found]
        batch.weight = answer_weights(batch, self.weighting)
        pixels = [values for _, _, values in found if values is not None]
        if pixels:
            batch.pixel_values = joined(pixels)
        images = [] if pixels else images_of(tokens)
        return _Pass(batch, images, counts, dropped)

    def _sample(
        self, n: int, counts: Counter[str], dropped: list[dict[str, str | int]]
    ) -> tuple[str, Tokens, Pixels | None]:
        draw = self.mixture.draw(n)
        source = self.mixture.sources[draw.source]
        for index in itertools.islice(self._candidates(draw), SUBSTITUTES if self.skip else 1):
            noted: Counter[str] = Counter()
            try:
                sample, left_out = fetched(source, index)
                tokens = self.encode(sample, counts=noted)
                check_room(tokens, capacity(self.batch))
                pixels = self._pixels(tokens)
            except DataError as error:
                if not self.skip:
                    raise
                counts[f"{draw.source}/dropped"] += 1
                record = own_number(source, index)  # as the data verbs count them
                dropped.append({"source": draw.source, "record": record, "reason": str(error)})
                continue
            noted.update(left_out)
            noted["samples"] += 1
            counts.update({f"{draw.source}/{what}": many for what, many in noted.items()})
            return draw.source, tokens, pixels
        raise _broken(draw, dropped)

    def _candidates(self, draw: Draw) -> Iterator[int]:
        """The drawn record and its neighbours; where rows are planned, those that fit its place."""
        if self.lengths is not None:
            return self.lengths.candidates(draw.source, draw.index)
        size = len(self.mixture.sources[draw.source])
        return ((draw.index + step) % size for step in range(size))

    def _pixels(self, tokens: Tokens) -> Pixels | None:
        if not tokens.images:
            return None
        if self.pixels is not None:
            return self.pixels(list(tokens.images))
        if self.verify:
            # Features are taken later; a picture that cannot be opened has to show itself here,
            # where its record can still be replaced.
            for image in tokens.images:
                if image.key not in self._whole:
                    image.load()
                    self._whole.add(image.key)
        return None


class Loader:
    """Batches of one stage for one rank.

    mixture, encode   what comes, and how a `Sample` becomes `Tokens`
    batch             samples or tokens of a step and its passes, order, packing, worker processes
    pixels, features  one of them, for images: pixels are made where samples are prepared, features
                      (a `FeatureCache` and the encoder behind it) in the process that trains
    rank, world       this rank prepares every `world`-th sample of each pass
    on_error          `error` raises at the first unusable record; `skip` puts the next record of
                      its source in its place, writes it to the file `dropped`, and stops once more
                      than the share `max_dropped` of all records is lost
    stage             name of the stage: what others lost, in other data, does not count here
    records           what `max_dropped` is a share of; None: the records of the mixture
    lengths           file that keeps the lengths of all records, where the order needs them
    weighting         how much each supervised token counts (`ObjectiveSpec`)

    `counts` grows as batches are handed out: "SOURCE/samples", "SOURCE/dropped", what `encode` cut
    away and what the source left out of its records. Records in `dropped` from before a resumption
    still count.
    """

    def __init__(
        self,
        mixture: Mixture,
        encode: Encode,
        batch: BatchSpec,
        *,
        pad_id: int,
        pixels: Images | None = None,
        features: Images | None = None,
        rank: int = 0,
        world: int = 1,
        on_error: Literal["error", "skip"] = "error",
        max_dropped: float = 0.01,
        dropped: Path | None = None,
        stage: str | None = None,
        records: int | None = None,
        lengths: Path | None = None,
        weighting: Weighting = "token",
    ) -> None:
        check_rows(batch, world)
        if pixels is not None and features is not None:
            raise ValueError("give pixels or features, not both")
        skip = on_error == "skip"
        self._preparation = _Preparation(
            mixture, encode, batch, pad_id, pixels, skip and features is not None, skip, weighting
        )
        self.rank, self.world = rank, world
        self._lengths_file = lengths
        self.mixture = mixture
        self.batch = batch
        self.features = features
        self.counts: Counter[str] = Counter()
        self._file = None if dropped is None else Dropped(dropped)
        self._stage = stage
        self._lost = _earlier(self._file, stage)
        self._before = len(self._lost)
        self._records = len(mixture) if records is None else records
        self._most = max_dropped * self._records

    def steps(self, budget: BudgetSpec) -> int:
        """Optimizer steps of a budget; an epoch is as many samples as the mixture has records. No
        more than the mixture gives, if it ends."""
        if budget.epochs is not None:
            return self.order.steps(budget.epochs * len(self.mixture))
        return budget.steps if self.mixture.end is None else min(budget.steps, self.order.end)

    @cached_property
    def order(self) -> Order:
        """Which samples come when; records are measured at the first look, if it needs that."""
        known = self._preparation
        if needs_lengths(self.batch):
            found = measured(self.mixture.sources, known.encode, known.skip, self._lengths_file)
            found = found.limited(capacity(self.batch), known.skip)
            self._preparation = known = replace(known, lengths=found)
        return Order(self.mixture, self.batch, known.lengths)

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
        self._report(one.dropped)
        if one.images and self.features is not None:
            one.batch.features = joined([self.features(one.images)])
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
            collate_fn=_unchanged,
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

    def _report(self, dropped: list[dict[str, str | int]]) -> None:
        """Writes lost records down, each once, and stops when they are too many."""
        fresh = []
        for record in dropped:  # a small source may give the same one twice in a pass
            if _identity(record) not in self._lost:
                self._lost.add(_identity(record))
                fresh.append(record)
        if not fresh:
            return
        if self._file is not None:
            place = {} if self._stage is None else {"stage": self._stage}
            self._file.add(place | record for record in fresh)
        # The file has what all ranks lost before; since then each knows its own, which is its part.
        lost = self._before + (len(self._lost) - self._before) * self.world
        if lost > self._most:
            raise DataError(
                "too many records cannot be used",
                expected=f"at most {self._most:g} of {self._records} (mixture.max_dropped)",
                given=lost,
                origin=None if self._file is None else self._file.path,
                remedy=f"correct them or raise mixture.max_dropped; last: {fresh[-1]['reason']}",
            )


class _Passes(Dataset):
    """Passes by their rows, for torch's worker processes."""

    def __init__(self, preparation: _Preparation) -> None:
        self.preparation = preparation

    def __getitem__(self, rows: list[Row]) -> _Pass | LucidaError:
        # As a value: torch would rebuild a raised one from its text and lose the class.
        try:
            ready = self.preparation.prepare(rows)
            ready.batch = Parcel.of(ready.batch)
            return ready
        except LucidaError as error:
            return error


def _unchanged(value: object) -> object:
    return value


def _identity(record: dict[str, str | int]) -> tuple[str | int, str | int]:
    return record["source"], record["record"]


def _earlier(file: Dropped | None, stage: str | None) -> set[tuple[str | int, str | int]]:
    """Records of this stage that were lost before this process began."""
    lines = [] if file is None else file.read()
    mine = [line for line in lines if line.get("stage", stage) == stage]
    return {_identity(line) for line in mine if "record" in line}


def _broken(draw: Draw, dropped: list[dict[str, str | int]]) -> DataError:
    return DataError(
        f"{SUBSTITUTES} records in a row cannot be used",
        origin=draw.source,
        remedy=f"the last: {dropped[-1]['reason']}",
    )
