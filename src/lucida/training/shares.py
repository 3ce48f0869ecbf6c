"""What each source had in a step: samples, supervised tokens and the loss on them.

    positions   · a a · b b b ·      the loader says which source a sample is from, so the losses
    losses        2 4   1 1 1        that the step has anyway are only added up by source:
                                     a: 6 / 2 tokens = 3, b: 3 / 3 tokens = 1

Nothing is computed a second time and the gradient does not know of it. Sums over passes and ranks
are of losses and of tokens, so the mean of a source is exact whatever it had where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lucida.data.sample import IGNORED, Batch


@dataclass(frozen=True, slots=True)
class Share:
    """One source in one step, over all ranks. loss: mean over its supervised tokens, None when it
    has none."""

    samples: int
    supervised: int
    loss: float | None


def number_samples(batch: Batch) -> torch.Tensor:
    """The number of each position's sample in `origins` and `sources`, int64 [rows, length]; of
    padding one that means nothing.

    Worked example: segments [[1, 1, 2, 0], [1, 2, 2, 2]] give [[0, 0, 1, -1], [2, 3, 3, 3]].
    """
    in_row = batch.segment.amax(dim=1)
    return (in_row.cumsum(0) - in_row)[:, None] + batch.segment - 1


def owners(batch: Batch, names: Sequence[str]) -> torch.Tensor:
    """For every supervised position, row by row: the number in `names` of its source, one beyond
    them when it is not named or not known; int64 [n].

    Worked example: segment [[1, 1, 2, 2]], sources ["b", "a"], the middle two supervised, names
    ["a", "b"]: [1, 0].
    """
    if not names:
        return torch.zeros(batch.supervised, dtype=torch.int64)
    number = {name: place for place, name in enumerate(names)}
    whose = torch.tensor([number.get(source, len(names)) for source in batch.sources])
    return whose[number_samples(batch)[batch.target != IGNORED]]


def tally(
    passes: Sequence[Batch], whose: Sequence[torch.Tensor], names: Sequence[str]
) -> list[int]:
    """Samples of every source in these passes, then supervised tokens of every source."""
    samples = [sum(batch.sources.count(name) for batch in passes) for name in names]
    tokens = sum(torch.bincount(each, minlength=len(names) + 1) for each in whose)
    return [*samples, *tokens.tolist()[:-1]]


def shares(
    names: Sequence[str], counted: Sequence[float], summed: Sequence[float]
) -> dict[str, Share]:
    """From what `tally` counted and the losses summed by source, both over all ranks."""
    found = {}
    for place, name in enumerate(names):
        samples, tokens = int(counted[place]), int(counted[len(names) + place])
        found[name] = Share(samples, tokens, summed[place] / tokens if tokens else None)
    return found
