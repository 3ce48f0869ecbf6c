"""How sure a score is: bootstrap intervals over images, and paired differences.

Several questions about one image rise and fall together, so images are resampled, not questions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_CELLS = 4_000_000
"""Largest block of (resamples x clusters) drawn at once: 32 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% interval, and from how many scores and clusters it comes."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def bootstrap(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean score and its 95% percentile interval, clusters resampled with replacement.

    `clusters[i]` names the image of score i; None makes every score its own cluster. Every resample
    draws as many clusters as there are and takes the mean over all scores in them. A single cluster
    says nothing about the spread: its interval is the mean itself. Raises ValueError for no scores,
    lengths that differ or a score that is no finite number.

    Worked example: scores [1, 1, 0, 0] with clusters [a, a, b, b] are two coins, not four: a
    quarter of the resamples are (a, a) with mean 1 and a quarter (b, b) with mean 0, so the
    interval is [0, 1]. As four clusters, the means 0 and 1 come once in sixteen each.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Field and
    Welsh, Bootstrapping clustered data, 2007, section 2.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("no scores to take an interval of")
    if not np.isfinite(values).all():
        raise ValueError("a score is not a finite number")
    if clusters is None:
        members = np.arange(len(values))
    elif len(clusters) != len(values):
        raise ValueError(f"{len(values)} scores but {len(clusters)} cluster names")
    else:
        members = _number_names(clusters)
    sums = np.bincount(members, weights=values)
    sizes = np.bincount(members).astype(np.float64)
    mean = float(values.mean())
    if len(sums) == 1:
        return Interval(mean, mean, mean, len(values), 1)
    means = np.concatenate(list(_resampled_means(sums, sizes, samples, seed)))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high), len(values), len(sums))


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much `first` is better than `second` on the same examples, with its 95% interval.

    Both lists are in the same order of examples. The differences are resampled, so what is hard
    for both cancels: the interval is much narrower than two separate ones suggest. Raises
    ValueError when the lists differ in length.

    Worked example: [1, 1, 0] against [0, 1, 0] differ by [1, 0, 0], mean 1/3.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8.
    """
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap(difference, clusters, samples, seed)


POWER = 1.959964 + 0.841621
"""Normal quantiles of a two-sided test at 5% that is to find a difference four times in five."""


def resolve_difference(scores: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """The smallest true difference between two models that these examples show four times in five,
    at 5%, when their mistakes have nothing in common; shared mistakes make it smaller.

    It is 2.8 times the standard error of a difference of two such means, √2 times that of one. The
    error is that of clusters (sandwich form, with n / (n - 1)); for shares between 0 and 1 it is no
    less than that of a share with two more right and two more wrong answers, since a few examples
    that are all right do not show that nothing is ever wrong. None for a single cluster.

    Worked example: of 25 pictures with a question each 15 are right: the share of 17 in 29 has the
    error 0.0915, that of the sample is 0.1; so √2 · 2.8 · 0.1 = 0.396, about 40 points.

    Reference: Miller, Adding Error Bars to Evals, 2024, arXiv 2411.00640, section 5; Agresti and
    Coull, Approximate is Better than Exact, 1998.
    """
    values = np.asarray(scores, dtype=np.float64)
    members = _number_names(clusters)
    count = int(members.max()) + 1
    if count < 2:
        return None
    # Deviations are summed within a cluster before they are squared: what rises together counts
    # once.
    sums = np.bincount(members, weights=values - values.mean())
    error = float(np.sqrt((sums**2).sum() * count / (count - 1))) / len(values)
    if values.min() >= 0 and values.max() <= 1:
        # A share of clusters, not of questions: they are what was drawn.
        share = (values.mean() * count + 2) / (count + 4)
        error = max(error, float(np.sqrt(share * (1 - share) / (count + 4))))
    return POWER * np.sqrt(2.0).item() * error


def _number_names(names: Sequence[Hashable]) -> np.ndarray:
    """Names as integers, in order of first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def _resampled_means(
    sums: np.ndarray, sizes: np.ndarray, samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Means of resamples, block by block: how often each cluster is drawn is one multinomial."""
    generator = np.random.default_rng(seed)
    count = len(sums)
    even = np.full(count, 1.0 / count)
    block = max(1, _CELLS // count)
    for start in range(0, samples, block):
        drawn = generator.multinomial(count, even, size=min(block, samples - start))
        yield (drawn @ sums) / (drawn @ sizes)
