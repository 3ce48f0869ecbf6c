"""The stream of batches: which samples a step sees, made ahead of time, on any rank.

    step ─arithmetic─▶ numbers ─Mixture.draw─▶ records ─encode─▶ Tokens ─collate─▶ Batch
                                                  └─ unusable: counted, written down, replaced

A step's samples follow from its number alone, so a resumed run reads nothing of the past, and what
thread, worker process or rank prepares them changes nothing.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import DataLoader, Dataset

from lucida.core.errors import DataError, LucidaError, RecipeError, RunError
from lucida.core.files import disk_errors
from lucida.core.spec import BatchSpec, BudgetSpec
from lucida.data.collate import Images, Pixels, collate, images_of, joined
from lucida.data.mixture import Draw, Mixture
from lucida.data.sample import Batch, ImageSource, Tokens

SUBSTITUTES = 16
"""Neighbours that are tried in place of an unusable record before the source is called broken."""
AHEAD = 2
"""Passes that are prepared while the model works on one."""

Encode = Callable[..., Tokens]
"""encode(sample, counts=Counter) → Tokens; `LucidaProcessor.encode` is one."""


@dataclass(slots=True)
class _Pass:
    """A prepared batch with what is to be reported once it is used."""

    batch: Batch
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
    rank: int
    world: int
    _whole: set[str] = field(default_factory=set)

    def numbers(self, step: int, part: int) -> range:
        """Numbers of this rank's samples in one pass of a step."""
        samples, parts = self.batch.samples, self.batch.accumulate
        begin, end = samples * part // parts, samples * (part + 1) // parts
        return range(step * samples + begin + self.rank, step * samples + end, self.world)

    def prepare(self, unit: int) -> _Pass:
        """Pass number `unit` of the stage."""
        step, part = divmod(unit, self.batch.accumulate)
        counts: Counter[str] = Counter()
        dropped: list[dict[str, str | int]] = []
        found = [self._sample(n, counts, dropped) for n in self.numbers(step, part)]
        tokens = [sample for sample, _ in found]
        batch = collate(tokens, self.batch.pack, self.pad_id)
        pixels = [values for _, values in found if values is not None]
        if pixels:
            batch.pixel_values = joined(pixels)
        images = [] if pixels else images_of(tokens)
        return _Pass(batch, images, counts, dropped)

    def _sample(
        self, n: int, counts: Counter[str], dropped: list[dict[str, str | int]]
    ) -> tuple[Tokens, Pixels | None]:
        draw = self.mixture.draw(n)
        source = self.mixture.sources[draw.source]
        for attempt in range(SUBSTITUTES if self.skip else 1):
            index = (draw.index + attempt) % len(source)
            noted: Counter[str] = Counter()
            try:
                tokens = self.encode(source[index], counts=noted)
                pixels = self._pixels(tokens)
            except DataError as error:
                if not self.skip:
                    raise
                counts[f"{draw.source}/dropped"] += 1
                dropped.append({"source": draw.source, "record": index, "reason": str(error)})
                continue
            noted["samples"] += 1
            counts.update({f"{draw.source}/{what}": many for what, many in noted.items()})
            return tokens, pixels
        raise _broken(draw, dropped)

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
    batch             samples and passes of a step, packing, worker processes
    pixels, features  one of them, for images: pixels are made where samples are prepared, features
                      (a `FeatureCache` and the encoder behind it) in the process that trains
    rank, world       this rank prepares every `world`-th sample of each pass
    on_error          `error` raises at the first unusable record; `skip` puts the next record of
                      its source in its place, writes it to the file `dropped`, and stops once more
                      than the share `max_dropped` of all records is lost

    `counts` grows as batches are handed out: "SOURCE/samples", "SOURCE/dropped" and what `encode`
    cut away. Records in `dropped` from before a resumption still count.
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
    ) -> None:
        if batch.samples // batch.accumulate < world:
            raise RecipeError(
                "each rank needs a sample in each pass of a step",
                expected=f"batch.samples of at least {world * batch.accumulate}",
                given=batch.samples,
                remedy=f"raise batch.samples or lower batch.accumulate ({batch.accumulate})",
            )
        if pixels is not None and features is not None:
            raise ValueError("give pixels or features, not both")
        skip = on_error == "skip"
        self._preparation = _Preparation(
            mixture, encode, batch, pad_id, pixels, skip and features is not None, skip, rank, world
        )
        self.mixture = mixture
        self.batch = batch
        self.features = features
        self.counts: Counter[str] = Counter()
        self._file = dropped
        self._lost = _earlier(dropped)
        self._most = max_dropped * len(mixture) / world

    def steps(self, budget: BudgetSpec) -> int:
        """Optimizer steps of a budget; an epoch is as many samples as the mixture has records."""
        if budget.steps is not None:
            return budget.steps
        return max(1, math.ceil(budget.epochs * len(self.mixture) / self.batch.samples))

    def batches(self, from_step: int = 0) -> Iterator[list[Batch]]:
        """For each step from `from_step` on, without end: the batches of its passes."""
        units = itertools.count(from_step * self.batch.accumulate)
        source = self._from_workers if self.batch.workers else self._from_thread
        passes = source(units)
        try:
            while True:
                ready = itertools.islice(passes, self.batch.accumulate)
                yield [self._finished(one) for one in ready]
        finally:
            passes.close()

    def _finished(self, one: _Pass) -> Batch:
        self.counts.update(one.counts)
        self._report(one.dropped)
        if one.images and self.features is not None:
            one.batch.features = torch.as_tensor(self.features(one.images))
        return one.batch

    def _from_thread(self, units: Iterator[int]) -> Iterator[_Pass]:
        executor = ThreadPoolExecutor(1, thread_name_prefix="lucida-data")
        waiting: deque[Future[_Pass]] = deque()
        try:
            while True:
                while len(waiting) <= AHEAD:
                    waiting.append(executor.submit(self._preparation.prepare, next(units)))
                yield waiting.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _from_workers(self, units: Iterator[int]) -> Iterator[_Pass]:
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
            while True:
                one = next(passes)
                if isinstance(one, LucidaError):
                    raise one
                yield one
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):  # raised by our code inside one
                raise
            raise RunError(
                f"a data worker died: {error}",
                remedy="it was killed, most often for lack of memory: lower batch.workers, or set "
                "it to 0; the same command goes on from the last checkpoint",
            ) from error
        finally:
            passes = None  # ends the workers now, not when a traceback is forgotten

    def _report(self, dropped: list[dict[str, str | int]]) -> None:
        """Writes lost records down, each once, and stops when they are too many."""
        fresh = [record for record in dropped if _identity(record) not in self._lost]
        if not fresh:
            return
        self._lost.update(_identity(record) for record in fresh)
        if self._file is not None:
            lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in fresh)
            with disk_errors(self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(lines)
        if len(self._lost) > self._most:
            raise DataError(
                "too many records cannot be used",
                expected=f"at most {self._most:g} of {len(self.mixture)} (mixture.max_dropped)",
                given=len(self._lost),
                origin=self._file,
                remedy=f"correct them or raise mixture.max_dropped; last: {fresh[-1]['reason']}",
            )


class _Passes(Dataset):
    """Passes by number, for torch's worker processes."""

    def __init__(self, preparation: _Preparation) -> None:
        self.preparation = preparation

    def __getitem__(self, unit: int) -> _Pass | LucidaError:
        # As a value: torch would rebuild a raised one from its text and lose the class.
        try:
            return self.preparation.prepare(unit)
        except LucidaError as error:
            return error


def _unchanged(value: object) -> object:
    return value


def _identity(record: dict[str, str | int]) -> tuple[str | int, str | int]:
    return record["source"], record["record"]


def _earlier(file: Path | None) -> set[tuple[str | int, str | int]]:
    """Records lost before this process began; a line cut short by a crash is left out."""
    if file is None or not file.exists():
        return set()
    lost = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            lost.add(_identity(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return lost


def _broken(draw: Draw, dropped: list[dict[str, str | int]]) -> DataError:
    return DataError(
        f"{SUBSTITUTES} records in a row cannot be used",
        origin=draw.source,
        remedy=f"the last: {dropped[-1]['reason']}",
    )
