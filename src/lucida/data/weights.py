"""Weights as a user means them, sources cut to a number of records, and budgets of sources.

A mixture deals out samples. Shares of images or of tokens become shares of samples by what a record
of each source holds on average, so that long records do not take more than their share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lucida.core.errors import DataError
from lucida.core.spec import SourceBudgetSpec
from lucida.data.lengths import Encode
from lucida.data.mixture import Part, Source, keyed, permuted

By = Literal["sample", "image", "token"]
PROBED = 256
"""Records of a source, evenly spread, that stand for all of it."""


def sample_weights(
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
    return {name: weights[name] / mean_size(name, sources[name], by, encode) for name in weights}


def mean_size(name: str, source: Source, by: By, encode: Encode) -> float:
    """Images or tokens of a record, on average over `PROBED` of them that can be used."""
    many = min(PROBED, len(source))
    sizes = []
    for place in range(many):
        try:
            tokens = encode(source[place * len(source) // many], counts=Counter())
        except DataError:
            continue  # the loader counts it, or stops there, by the policy of the mixture
        sizes.append(len(tokens.images) if by == "image" else len(tokens))
    if sum(sizes) == 0:
        raise DataError(
            f"the source has no {by}s in {many} records",
            expected=f"some, because weights or budgets are of {by}s",
            given=f"{len(sizes)} usable records with none",
            origin=name,
            remedy="set mixture.by=sample and mixture.budgets by samples, or leave the source out",
        )
    return sum(sizes) / len(sizes)


def sample_limits(
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
            many = math.floor(budget.epochs * len(sources[name]) + 1e-9)
        elif encode is None:
            raise ValueError("budgets of tokens need `encode` to count them")
        else:
            many = math.floor(budget.tokens / mean_size(name, sources[name], "token", encode))
        found[name] = max(1, many)
    return found


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
        return permuted(index, len(self.source), keyed("cap", self.seed))


def capped(sources: Mapping[str, Source], caps: Mapping[str, int], seed: int) -> dict[str, Source]:
    """The sources, those with a cap cut to so many records."""
    return {
        name: Capped(source, caps[name], seed) if name in caps else source
        for name, source in sources.items()
    }
