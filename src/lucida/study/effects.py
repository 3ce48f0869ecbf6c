"""What a study tells beside its verdicts: effects of factors, and how soon an arm learns.

All of it is exploratory. Intervals are over seeds and speak about the pictures that were asked; the
noise of seeds is that of all arms together where there are three or more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lucida.study import statistics as s
from lucida.study.design import BASELINE, Design, factorial
from lucida.study.measure import Measured, how_soon

Runs = Mapping[str, Mapping[int, Measured]]


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference with its interval; `outcome` names what differs. Points, or percent where
    `percent`."""

    name: str
    outcome: str
    mean: float
    low: float
    high: float
    seeds: int
    percent: bool = False


def factor_effects(design: Design, runs: Runs) -> list[Effect]:
    """Main effects and interactions of two factors on the primary outcome; none without factors or
    while an arm has no run.

    Main effect: the mean of all arms with the factor minus that of all without it. Interaction: the
    mean of arms with both or neither minus that of arms with one alone (Box, Hunter and Hunter,
    chapter 5). In a fraction of the design interactions are mixed up with other effects, and are
    not given.
    """
    study = design.study
    rows = factorial(len(study.factors), study.fraction)
    names = list(study.factors)
    arms = [
        "+".join(n for n, level in zip(names, row, strict=True) if level > 0) or BASELINE
        for row in rows
    ]
    seeds = [seed for seed in study.seeds if all(seed in runs.get(arm, {}) for arm in arms)]
    if not rows or not seeds:
        return []
    table = np.array([
        [runs[arm][seed].outcome(study.primary.outcome, study.evaluation.tasks) for seed in seeds]
        for arm in arms
    ])  # fmt: skip
    levels = dict(zip(names, np.array(rows).T, strict=True))
    if not study.fraction:
        levels |= {f"{a} x {b}": levels[a] * levels[b] for a, b in itertools.combinations(names, 2)}
    # A contrast of N arms has the variance 4 σ² / N under one seed; `pooled_variance` is 2 σ².
    pooled, free = s.pooled_variance(table)
    found = []
    for name, signs in levels.items():
        # signs (arms), table (arms, seeds): half of the arms have +1, so the mean of the products
        # is half the difference.
        values = 2 * (signs[:, None] * table).mean(axis=0)
        mean, low, high = _interval(
            values, (2 * pooled / len(arms), free), study.primary.confidence
        )
        found.append(Effect(name, study.primary.outcome, mean, low, high, len(seeds)))
    return found


def sooner(design: Design, runs: Runs) -> list[Effect]:
    """Every arm against the baseline: area under the learning curve in points, and samples until
    half-way and until 90%, in percent (compared as logarithms)."""
    curves = {
        arm: {seed: how_soon(run.curve) for seed, run in of.items()} for arm, of in runs.items()
    }
    found = []
    for outcome in ("area", "half", "ninety"):
        # Samples are compared as ratios: twice as soon and half as soon are equally far from even.
        percent = outcome != "area"
        known = {
            arm: {
                seed: math.log(of[outcome]) if percent else of[outcome]
                for seed, of in by_seed.items()
                if outcome in of
            }
            for arm, by_seed in curves.items()
        }
        whole = [seed for seed in known[BASELINE] if all(seed in of for of in known.values())]
        pooled = None
        if len(known) > 2 and len(whole) > 1:
            pooled = s.pooled_variance(np.array([[of[k] for k in whole] for of in known.values()]))
        for arm, of in known.items():
            seeds = [seed for seed in of if seed in known[BASELINE]]
            if arm == BASELINE or not seeds:
                continue
            values = [of[seed] - known[BASELINE][seed] for seed in seeds]
            ends = _interval(values, pooled, design.study.primary.confidence)
            if percent:
                ends = tuple(100 * math.expm1(min(end, 50.0)) for end in ends)
            found.append(Effect(arm, outcome, *ends, len(seeds), percent))
    return found


def _interval(
    values: Sequence[float], pooled: tuple[float, int] | None, confidence: float
) -> tuple[float, float, float]:
    """Mean and ends, with the pooled variance of one seed's value or these values' own."""
    count, mean = len(values), float(np.mean(values))
    if pooled is None or not pooled[1]:
        pooled = (float(np.var(values, ddof=1)), count - 1) if count > 1 else (0.0, 0)
    part = pooled[0] / count
    parts = ((part, pooled[1]),) if pooled[1] else ()
    low, high = s.Estimate(mean, math.sqrt(part), parts, count, 0).interval(confidence)
    return mean, low, high
