"""From a stage of a recipe to its records: the one way in which everybody reads them.

    MixtureSpec ─▶ sources ─┬─ training part, capped ─ weights, budgets ─▶ Mixture ─▶ StageData
                            └─ held-out part ─────────────────────────▶ Mixture ─▶ StageData

    StageData:  numbers of draws ─▶ records ─Reader─▶ Encoded, and what could not be used

Training (`data.loader`), `lucida inspect`, `doctor` and `plan` draw, encode, refuse and replace
records by the same `StageData`. A mixture deals out samples: shares of images or of tokens become
shares of samples by what a record of each source holds on average, so that long records do not take
more than their share. A source with splits (the miniature world) is validated on its own validation
split; of any other, one record in 20, at most 64 in all, is kept out of training. A stage may name
another share, or a source that only validates (`validation`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from lucida.core.errors import DataError, RecipeError, suggestion
from lucida.core.places import check_there
from lucida.core.progress import say
from lucida.core.spec import (
    BatchSpec,
    MixtureSpec,
    Recipe,
    SourceBudgetSpec,
    SourceSpec,
    StageSpec,
    ValidationSpec,
)
from lucida.data.lengths import Lengths, Measuring
from lucida.data.mixture import Mixture, Part, Source, make_key, permute
from lucida.data.order import Order, capacity, check_rows, needs_lengths
from lucida.data.reader import Encode, Encoded, Look, Reader, Unusable, offer_skipping
from lucida.data.sample import IGNORED, Sample, Tokens
from lucida.data.sources import open_source

By = Literal["sample", "image", "token"]
PROBED = 256
"""Records of a source, evenly spread, that stand for all of it."""
HELD_OUT = 64
"""Samples behind one validation loss, up to the end of the last batch."""
APART = 20
"""A source without splits gives up at most one record in this many."""
VALIDATION = "(validation)"
"""What a source that only validates is called; no source of a mixture can be."""
SUBSTITUTES = 16
"""Neighbours that are tried in place of an unusable record before the source is called broken."""


class StageData:
    """The records of a stage, by the numbers of their draws.

    mixture, encode   what comes, and how a `Sample` becomes `Tokens`
    batch             how samples fill a step; which records are longer than a row
    skip              an unusable record is replaced by the next of its source (mixture.on_error);
                      else it is a DataError
    look              what else a record has to pass (`data.reader`)
    rest              a last step of fewer samples, where the mixture ends

    `lengths` is None where the order does not look at them; else a table that knows nothing yet:
    complete it at once, as training does, or it measures what is asked for.
    """

    def __init__(
        self,
        mixture: Mixture,
        encode: Encode,
        batch: BatchSpec,
        *,
        skip: bool = False,
        look: Look | None = None,
        rest: bool = False,
    ) -> None:
        self.mixture, self.batch, self.skip, self.rest = mixture, batch, skip, rest
        self.reader = Reader(encode, capacity(batch), look)
        self.lengths: Lengths | None = None
        if needs_lengths(batch):
            self.lengths = Lengths.unknown(Measuring(mixture, encode, capacity(batch), skip))

    @cached_property
    def order(self) -> Order:
        """Which draws come when."""
        return Order(self.mixture, self.batch, self.lengths, self.rest)

    def first(self, count: int) -> list[Encoded | Unusable]:
        """The records of the first draws, at most an epoch, whether they can be used or not."""
        ends = (count, len(self.mixture), self.mixture.end)
        numbers = range(min(end for end in ends if end is not None))
        return [
            self.reader.read(name, self.mixture.sources[name], index)
            for name, index in self._drawn(numbers)
        ]

    def step(self, number: int = 0) -> tuple[list[list[Encoded]], list[Unusable]]:
        """The rows of a step as training reads them, and what could not be used. Without a budget
        of tokens a pass is one row. RecipeError when the batch cannot be cut into its passes."""
        check_rows(self.batch, world=1)
        rows, lost = [], []
        for parts in itertools.islice(self.order.passes(number), self.batch.accumulate):
            for row in parts:
                samples, unusable = self.samples(row)
                rows.append(samples)
                lost += unusable
        return rows, lost

    def samples(self, numbers: Sequence[int]) -> tuple[list[Encoded], list[Unusable]]:
        """A usable record for each draw, and those that could not be used.

        DataError for an unusable one unless such are skipped, and where nothing fit can replace it.
        """
        found: list[Encoded] = []
        lost: list[Unusable] = []
        for name, index in self._drawn(numbers):
            source, before = self.mixture.sources[name], len(lost)
            tries = SUBSTITUTES if self.skip else 1
            for candidate in itertools.islice(self._candidates(name, index), tries):
                record = self.reader.read(name, source, candidate)
                if isinstance(record, Encoded):
                    found.append(record)
                    break
                if not self.skip:
                    raise offer_skipping(record.reason)
                lost.append(record)
            else:
                raise DataError(
                    f"{len(lost) - before} records in a row cannot be used",
                    origin=name,
                    remedy=f"the last: {lost[-1].reason}",
                )
        return found, lost

    def _drawn(self, numbers: Sequence[int]) -> Iterator[tuple[str, int]]:
        which, index, _ = self.mixture.draws(numbers)
        names = (self.mixture.names[place] for place in which.tolist())
        return zip(names, index.tolist(), strict=True)

    def _candidates(self, name: str, index: int) -> Iterator[int]:
        """The drawn record and its neighbours; where rows are planned, those that fit its place."""
        if self.lengths is not None:
            return self.lengths.candidates(name, index)
        size = len(self.mixture.sources[name])
        return ((index + step) % size for step in range(size))


def find_stage(recipe: Recipe, name: str | None) -> tuple[int, StageSpec]:
    """A stage, resolved, and its number by name; the first without one. RecipeError when there is
    none."""
    for index, stage in enumerate(recipe.stages):
        if name in (None, stage.name):
            return index, recipe.resolve(stage)
    raise RecipeError(
        f"recipe {recipe.name} has no stage `{name}`",
        remedy=suggestion(name, [stage.name for stage in recipe.stages]),
    )


def open_stage(
    recipe: Recipe, index: int, encode: Encode, look: Look | None = None
) -> tuple[StageData, Mixture | None]:
    """What stage number `index` trains on, and the mixture of what it holds out; `encode` is that
    of a processor with the stage's template."""
    stage = recipe.stages[index]
    encode = partial(encode, loss=stage.loss)
    if stage.objective.preference is not None:
        encode = partial(encode_pair, encode)
    seed = recipe.seed + index
    training, held_out = open_mixtures(stage.mixture, seed, encode, stage.validation)
    skip = stage.mixture.on_error == "skip"
    return StageData(training, encode, stage.batch, skip=skip, look=look), held_out


def encode_pair(encode: Encode, sample: Sample, **more: Any) -> Tokens:
    """A pair of answers as tokens; DataError for what is none, or does not fit."""
    if len(sample.branches) != 2:
        raise DataError(
            "a preference needs two answers to one question, a chosen and a rejected one",
            given=f"{len(sample.branches)} branches",
            origin=sample.origin,
            remedy="a stage with objective.preference reads sources of the kind `preferences`",
        )
    tokens = encode(sample, **more)
    if set(tokens.branch[tokens.target != IGNORED].tolist()) != {1, 2}:
        raise DataError(
            "not both answers of a pair fit",
            origin=sample.origin,
            remedy="raise model.language.max_length, or leave the record out",
        )
    return tokens


def open_mixtures(
    spec: MixtureSpec,
    seed: int,
    encode: Encode | None = None,
    validation: ValidationSpec | None = None,
) -> tuple[Mixture, Mixture | None]:
    """The training mixture and the held-out one, None when no source can spare a record.

    `encode` is needed where weights are not shares of samples, and for budgets of tokens. Under
    `validation` the held-out mixture ends when each of its records has come once.
    """
    training, held_out = open_parts(spec, seed, validation)
    weights = {name: source.weight for name, source in spec.sources.items()}
    weights = weigh_samples(weights, spec.by, training, encode)
    limits = limit_samples(spec.budgets, training, encode)
    stream = Mixture(training, weights, seed, limits)
    kept = {name: source for name, source in held_out.items() if len(source)}
    if not kept:
        return stream, None
    if validation is not None:
        return stream, take_once(kept, seed, validation.most)
    held_weights = {name: weights[name] for name in kept}
    return stream, Mixture(kept, held_weights, seed)


def take_once(sources: Mapping[str, Source], seed: int, most: int | None) -> Mixture:
    """A mixture in which each record comes once; of `most` records in all, some of each source."""
    sizes = {name: len(source) for name, source in sources.items()}
    share = 1.0 if most is None else min(1.0, most / sum(sizes.values()))
    limits = {name: max(1, math.floor(size * share)) for name, size in sizes.items()}
    return Mixture(sources, {name: float(many) for name, many in limits.items()}, seed, limits)


def open_parts(
    spec: MixtureSpec, seed: int, validation: ValidationSpec | None = None
) -> tuple[dict[str, Source], dict[str, Source]]:
    """The training and the held-out part of every source, capped; in place of the latter the source
    that only validates, where there is one."""
    skip = spec.on_error == "skip"
    share = None if validation is None else validation.share or 0.0
    opened = {name: parts(source, name, skip, share) for name, source in spec.sources.items()}
    training = cap_sources({name: pair[0] for name, pair in opened.items()}, spec.caps, seed)
    if validation is not None and validation.source is not None:
        check_there(validation.source, "validation.source")
        source = open_source(validation.source, skip)
        tell_left_out(source, VALIDATION)
        return training, {VALIDATION: source}
    return training, {name: pair[1] for name, pair in opened.items()}


def parts(
    spec: SourceSpec, name: str, skip: bool = False, share: float | None = None
) -> tuple[Source, Source]:
    """The training and the held-out part of a source, which may have records of its own to hold
    out. `skip` as in `open_source`; `share`: of the records that are held out, None for the usual
    ones."""
    check_there(spec, f"source {name}")
    source = open_source(spec, skip)
    if hasattr(source, "held_out"):
        return source, source.held_out(HELD_OUT)
    tell_left_out(source, name)
    if share == 0:
        # No record is the (n + 1)-th of n: a held-out part of none.
        return source, Spread(source, len(source) + 1, held_out=True)
    apart = max(APART, math.ceil(len(source) / HELD_OUT)) if share is None else round(1 / share)
    return Spread(source, apart, held_out=False), Spread(source, apart, held_out=True)


def tell_left_out(source: Source, name: str) -> None:
    """Say what a source leaves out by its filters, and what it does not read."""
    for reason, count in getattr(source, "dropped", {}).items():
        say(f"source {name}: {count:,} rows left out by its filters: {reason}")
    for what, count in getattr(source, "noted", {}).items():
        say(f"source {name}: {count:,} × {what}")


def weigh_samples(
    weights: Mapping[str, float],
    by: By,
    sources: Mapping[str, Source],
    encode: Encode | None,
) -> dict[str, float]:
    """Shares of samples that give the shares `weights` of samples, images or tokens.

    DataError for a source without images where weights are of images, and for one of which no
    probed record can be used.

    Worked example: by token, weights 1 and 1, records of 100 and of 400 tokens on average: samples
    are drawn 4 to 1.
    """
    if by == "sample":
        return dict(weights)
    if encode is None:
        raise ValueError(f"shares of {by}s need `encode` to count them")
    return {
        name: weights[name] / measure_mean_size(name, sources[name], by, encode) for name in weights
    }


def measure_mean_size(name: str, source: Source, by: By, encode: Encode) -> float:
    """Images or tokens of a record, on average over `PROBED` of them that can be used; the others
    the loader counts, or stops there, by the policy of the mixture."""
    probed = Reader(encode).spread(name, source, PROBED)
    usable = [record.tokens for record in probed if isinstance(record, Encoded)]
    sizes = [len(tokens.images) if by == "image" else len(tokens) for tokens in usable]
    if sum(sizes) == 0:
        raise DataError(
            f"the source has no {by}s in {len(probed)} records",
            expected=f"some, because weights or budgets are of {by}s",
            given=f"{len(sizes)} usable records with none",
            origin=name,
            remedy="set mixture.by=sample and mixture.budgets by samples, or leave the source out",
        )
    return sum(sizes) / len(sizes)


def limit_samples(
    budgets: Mapping[str, SourceBudgetSpec],
    sources: Mapping[str, Source],
    encode: Encode | None,
) -> dict[str, int]:
    """The most samples that each source with a budget gives; at least one.

    Worked example: 1.5 epochs of 10 records are 15 samples; 1,000 tokens of records that have 90
    on average are 11.
    """
    found = {}
    for name, budget in budgets.items():
        if budget.samples is not None:
            many = budget.samples
        elif budget.epochs is not None:
            # 0.29 epochs of 100 records are 29, and 0.29 * 100 is 28.999999999999996.
            many = math.floor(budget.epochs * len(sources[name]) + 1e-9)
        elif encode is None:
            raise ValueError("budgets of tokens need `encode` to count them")
        else:
            many = math.floor(
                budget.tokens / measure_mean_size(name, sources[name], "token", encode)
            )
        found[name] = max(1, many)
    return found


@dataclass(frozen=True, slots=True)
class Spread(Part):
    """A source without every `apart`-th record, or with those alone."""

    apart: int
    held_out: bool

    def __len__(self) -> int:
        held = len(self.source) // self.apart
        return held if self.held_out else len(self.source) - held

    def _place(self, index: int) -> int:
        if self.held_out:
            # Of every `apart` records the last one is held out. Apart 20: 19, 39, … here; in the
            # other part 18 is record 18, and 19 is record 20.
            return (index + 1) * self.apart - 1
        return index + index // (self.apart - 1)


@dataclass(frozen=True, slots=True)
class Capped(Part):
    """The same `most` records of a source in every epoch, drawn at random by the seed."""

    most: int
    seed: int

    def __len__(self) -> int:
        return min(self.most, len(self.source))

    def _place(self, index: int) -> int:
        if len(self) == len(self.source):
            return index
        key = np.array([make_key("cap", self.seed)], dtype=np.uint64)
        return int(permute(np.array([index]), len(self.source), key)[0])


def cap_sources(
    sources: Mapping[str, Source], caps: Mapping[str, int], seed: int
) -> dict[str, Source]:
    """The sources, those with a cap cut to so many records."""
    return {
        name: Capped(source, caps[name], seed) if name in caps else source
        for name, source in sources.items()
    }
