"""How sure a difference between two designs is, in numpy alone.

Differences are paired: under one seed two arms see the same data in the same order, and both are
asked the same pictures. Their mean varies with the training seeds and with the pictures, and both
have to be paid for: an interval over seeds alone speaks about these pictures only, one over
pictures alone about these trained weights only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lucida.study.distributions import (
    NORMAL,
    bisect,
    noncentral_tail,
    quantile,
    t_quantile,
    t_tail,
)


@dataclass(frozen=True, slots=True)
class Components:
    """Standard deviations of a paired difference, in its unit: between seeds (pictures apart),
    between pictures (seeds apart), and of one picture under one seed beyond both."""

    seed: float
    picture: float
    rest: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean difference, its standard error, and what they come from. `parts` are the variances
    that make up the error with their degrees of freedom; none where nothing is known about them."""

    mean: float
    error: float
    parts: tuple[tuple[float, float], ...]
    seeds: int
    pictures: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The t interval; minus to plus infinity where nothing is known about the spread, or where
        nothing may be wrong (confidence 1)."""
        if not self.parts or confidence >= 1:
            return -math.inf, math.inf
        reach = quantile(self.tail, 0.5 + confidence / 2) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def p(self) -> float:
        """Two-sided, of no difference; 1 where nothing is known about the spread."""
        if not self.parts:
            return 1.0
        if not self.error:
            return 0.0 if self.mean else 1.0
        return 2 * self.tail(abs(self.mean) / self.error)

    def p_equivalent(self, margin: float) -> float:
        """Of two one-sided tests that the difference reaches the margin (Schuirmann, 1987)."""
        if not self.parts:
            return 1.0
        if not self.error:
            return 0.0 if abs(self.mean) < margin else 1.0
        return self.tail((margin - abs(self.mean)) / self.error)

    def tail(self, t: float) -> float:
        """P(T > t): the tails of the parts, weighted by their variances (Cochran and Cox)."""
        total = sum(variance for variance, _ in self.parts)
        if not total:
            return t_tail(t, self.parts[0][1])
        # They weight critical values; weighting the tails makes one distribution, so that p < 0.05
        # and a 95% interval without 0 always say the same.
        return sum(variance * t_tail(t, free) for variance, free in self.parts) / total


def contrast(
    tasks: Sequence[np.ndarray], pooled: tuple[float, int] | None = None
) -> tuple[Estimate, list[Components]]:
    """The mean over tasks of paired differences, with both kinds of noise.

    tasks: for each an array (seeds, pictures) of differences, the same seeds in all. `pooled` is
    the variance of a seed's mean difference and its degrees of freedom, from all arms of a study.
    Seeds and pictures are crossed random effects: the variance of the mean is that of the seeds'
    means over their number, plus what pictures add beyond chance (mean squares; Searle, Casella and
    McCulloch, Variance Components, 1992, chapter 4). Satterthwaite's degrees of freedom would
    cover 92% with three seeds, the weighting of Cochran and Cox (1957) keeps what it says.
    """
    seeds, weight = tasks[0].shape[0], 1 / len(tasks)
    means = np.mean([each.mean(axis=1) for each in tasks], axis=0)
    mean, parts = float(means.mean()), [mean_squares(each) for each in tasks]
    if pooled is None:
        pooled = (float(means.var(ddof=1)), seeds - 1) if seeds > 1 else (0.0, 0)
    # The variance of a seed's mean holds seed² + rest² / pictures. A mean square of pictures is
    # rest² + seeds · picture² on average: what it has beyond rest is all that is still missing.
    # Tasks count as if they had pictures of their own; those of the world draw the same scenes.
    terms = [(pooled[0] / seeds, pooled[1])]
    count = sum(each.shape[1] for each in tasks)
    for each, (_, picture, rest) in zip(tasks, parts, strict=True):
        pictures = each.shape[1]
        extra = weight**2 * max(0.0, picture - rest) / (seeds * pictures)
        terms.append((extra, max(1, pictures - 1)))
    error = math.sqrt(sum(value for value, _ in terms))
    components = [
        Components(
            math.sqrt(max(0.0, seed - rest) / each.shape[1]),
            math.sqrt(max(0.0, picture - rest) / seeds),
            math.sqrt(rest),
        )
        for each, (seed, picture, rest) in zip(tasks, parts, strict=True)
    ]
    return Estimate(mean, error, tuple(terms) if pooled[1] else (), seeds, count), components


def mean_squares(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, pictures and rest of a table (seeds, pictures); with one seed all of
    the variance between pictures counts as rest, since the two cannot be told apart."""
    seeds, pictures = values.shape
    rows, columns, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    picture = seeds * float(((columns - mean) ** 2).sum()) / max(1, pictures - 1)
    if seeds == 1:
        return picture, picture, picture
    seed = pictures * float(((rows - mean) ** 2).sum()) / (seeds - 1)
    left = values - rows[:, None] - columns[None, :] + mean
    rest = float((left**2).sum()) / ((seeds - 1) * max(1, pictures - 1))
    return seed, picture, rest


def pooled_variance(scores: np.ndarray) -> tuple[float, int]:
    """The variance of a difference of two arms under one seed, from all arms (arms, seeds): twice
    the residual mean square of a two-way layout, so what all arms of a seed share drops out."""
    arms, seeds = scores.shape
    free = (arms - 1) * (seeds - 1)
    if not free:
        return 0.0, 0
    # A difference of two arms scatters twice as much as one; this takes all arms for alike in that.
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    return 2 * float((left**2).sum()) / free, free


def hierarchical_bootstrap(
    tasks: Sequence[np.ndarray], samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the same mean, seeds and pictures resampled each by themselves.

    With few seeds it is too narrow (three give about 80% coverage where seeds dominate), so
    verdicts do not come from it. Reference: Owen, The pigeonhole bootstrap, 2007.
    """
    generator = np.random.default_rng(seed)
    seeds = tasks[0].shape[0]
    # Weights of seeds (samples, seeds) and pictures (samples, pictures). One draw of seeds serves
    # all tasks: a seed is one trained model, good or bad at all of them.
    drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples) / seeds
    means = np.zeros(samples)
    for each in tasks:
        many = each.shape[1]
        weights = generator.multinomial(many, np.full(many, 1 / many), size=samples) / many
        means += np.einsum("sk,kp,sp->s", drawn, each, weights, optimize=True) / len(tasks)
    edge = (1 - confidence) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)


def stabilised(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """The t interval of second minus first (shares, paired by seed) taken on the arcsine scale and
    brought back at the first's mean: near 0 and 1 spreads in points are not comparable."""
    # A share of n answers has the variance p(1 - p) / n; its angle about 1 / 4n, whatever p is.
    angles = [np.arcsin(np.sqrt(np.clip(each, 0, 1))) for each in (first, second)]
    change = angles[1] - angles[0]
    if len(change) < 2:
        return -1.0, 1.0
    reach = t_quantile(0.5 + confidence / 2, len(change) - 1) * change.std(ddof=1)
    reach /= math.sqrt(len(change))
    start = float(angles[0].mean())
    ends = [start + change.mean() + sign * reach for sign in (-1, 1)]
    low, high = (math.sin(min(max(end, 0), math.pi / 2)) ** 2 for end in ends)
    return low - math.sin(start) ** 2, high - math.sin(start) ** 2


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted by Holm (1979): any of them below α is wrong with probability at most α.

    Worked example: [0.01, 0.04, 0.03] gives [0.03, 0.06, 0.06].
    """
    # Smallest first, times how many are left; never below what a smaller one became.
    order = np.argsort(values, kind="stable")
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def verdict(estimate: Estimate, margin: float, alpha: float, p: float, p_equivalent: float) -> str:
    """better, worse, equivalent or cannot tell; both p values are adjusted for all comparisons. A
    difference that is sure and surely smaller than the margin is `equivalent`."""
    if not alpha:  # before the first look
        return "cannot tell"
    # Two one-sided tests at 5% are the 90% interval within the margin, so the 95% interval beside
    # the verdict may reach beyond it: -1.6 (-3.3 to 0.0) is `equivalent` at a margin of 3.
    if p_equivalent <= alpha:
        return "equivalent"
    if p <= alpha:
        return "better" if estimate.mean > 0 else "worse"
    return "cannot tell"


def spend_alpha(shares: Sequence[float], alpha: float = 0.05) -> list[float]:
    """Two-sided levels for looks at a growing study, such that all together are wrong with
    probability alpha: Lan and DeMets' (1983) spending function of O'Brien and Fleming's kind,
    4 (1 - Φ(z / √share)) with z of alpha / 4, and the joint distribution of the looks integrated
    (Armitage, McPherson and Rowe, 1969). `shares` of the whole study rise to 1.

    Worked example: five equal looks at 0.05 have the bounds 4.877, 3.357, 2.680, 2.290 and 2.031.
    """
    z = NORMAL.inv_cdf(1 - alpha / 4)
    spent = [4 * NORMAL.cdf(-z / math.sqrt(share)) for share in shares]
    levels: list[float] = []
    # S(t) = Z √t has independent steps of variance t - t', so the density of S among studies that
    # are still open is carried from look to look and cut at each bound.
    grid, density, before = np.zeros(1), np.ones(1), 0.0  # sums of differences, all start at 0
    for number, (share, total) in enumerate(zip(shares, spent, strict=True)):
        wanted = total - (spent[number - 1] if number else 0.0)
        width, weights = math.sqrt(share - before), _simpson(grid)

        def beyond(bound: float, at=grid, mass=density * weights, scale=width) -> float:
            out = [NORMAL.cdf((x - bound) / scale) + NORMAL.cdf((-x - bound) / scale) for x in at]
            return float(mass @ np.array(out))

        bound = bisect(lambda b, tail=beyond, goal=wanted: goal - tail(b), 0.0, 9.0)
        levels.append(2 * NORMAL.cdf(-bound / math.sqrt(share)))
        inside = np.linspace(-bound, bound, 401)
        kernel = np.exp(-(((inside[:, None] - grid[None, :]) / width) ** 2) / 2)
        density = kernel @ (density * weights) / (width * math.sqrt(2 * math.pi))
        grid, before = inside, share
    return levels


def _simpson(grid: np.ndarray) -> np.ndarray:
    """Weights of Simpson's rule on an odd number of even steps; 1 for a single point."""
    if len(grid) == 1:
        return np.ones(1)
    weights = np.where(np.arange(len(grid)) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1.0
    return weights * (grid[1] - grid[0]) / 3


def power(
    effect: float,
    noise: Components,
    seeds: int,
    pictures: int,
    alpha: float = 0.05,
    arms: int = 2,
) -> float:
    """Probability that a true difference of `effect` is found at level alpha, by the non-central t
    distribution (exact where seeds dominate) with the degrees of freedom of seed noise that is
    pooled over `arms`, the baseline among them: (arms - 1)(seeds - 1)."""
    if seeds < 2:
        return 0.0
    error = planned_error(noise, seeds, pictures)
    if not error:
        return 1.0
    # The wrong sign counts as found too: with next to no effect it is half of what is found.
    free, shift = (arms - 1) * (seeds - 1), abs(effect) / error
    critical = t_quantile(1 - alpha / 2, free)
    return noncentral_tail(critical, free, shift) + noncentral_tail(critical, free, -shift)


def planned_error(noise: Components, seeds: int, pictures: int) -> float:
    """Standard error of a mean difference."""
    between = noise.seed**2 / seeds + noise.picture**2 / pictures
    return math.sqrt(between + noise.rest**2 / (seeds * pictures))


def smallest_effect(
    noise: Components,
    seeds: int,
    pictures: int,
    wanted: float = 0.8,
    alpha: float = 0.05,
    arms: int = 2,
) -> float:
    """The smallest true difference that is found with probability `wanted`."""
    if seeds < 2:
        return math.inf
    error = planned_error(noise, seeds, pictures)
    if not error:
        return 0.0
    return bisect(lambda e: power(e, noise, seeds, pictures, alpha, arms) - wanted, 0, 400 * error)


def cheapest(
    effect: float,
    noise: Components,
    train: float,
    ask: float,
    most_pictures: int,
    wanted: float = 0.8,
    most_seeds: int = 30,
    alpha: float = 0.05,
    arms: int = 2,
) -> tuple[int, int, float] | None:
    """(seeds, pictures, seconds of an arm) that find `effect` with probability `wanted` at the
    least cost, where a run takes `train` seconds and a picture `ask`; None when none does."""
    found = None
    for seeds in range(2, most_seeds + 1):
        low, high = 1, most_pictures
        # No number of pictures takes the noise of so few seeds away.
        if power(effect, noise, seeds, high, alpha, arms) < wanted:
            continue
        while low < high:
            middle = (low + high) // 2
            if power(effect, noise, seeds, middle, alpha, arms) >= wanted:
                high = middle
            else:
                low = middle + 1
        cost = seeds * (train + ask * low)
        if found is None or cost < found[2]:
            found = seeds, low, cost
    return found


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half, ends weighted by their part (Agarwal et al., 2021).

    Worked example: of 1, 2, 3, 4, 100 the middle half is 0.75 of 2, all of 3 and 0.75 of 4: 3.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    # Each value fills 1/n of the line from 0 to 1; what lies in its middle half counts.
    edges = np.arange(len(ordered) + 1) / len(ordered)
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float((weights * ordered).sum() / weights.sum())


def probability_of_improvement(first: Sequence[float], second: Sequence[float]) -> float:
    """How often a run of the second beats one of the first, ties half (Mann and Whitney)."""
    a, b = np.asarray(first)[:, None], np.asarray(second)[None, :]
    return float(((b > a) + 0.5 * (b == a)).mean())
