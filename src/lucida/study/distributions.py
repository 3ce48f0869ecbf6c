"""Student's t, central and not, and the incomplete beta function behind it; no scipy."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()


def t_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's distribution."""
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return tail if t >= 0 else 1 - tail


def t_quantile(share: float, freedom: float) -> float:
    """The value below which T lies with probability `share`, at least 0.5."""
    return quantile(lambda t: t_tail(t, freedom), share)


def quantile(tail: Callable[[float], float], share: float) -> float:
    """Where 1 - share lies above, of a symmetric distribution with that upper tail."""
    high = 2.0
    # With one degree of freedom a quantile may be in the hundreds.
    while tail(high) > 1 - share:
        high *= 2
    return bisect(lambda t: 1 - share - tail(t), 0.0, high)


def noncentral_tail(t: float, freedom: float, shift: float) -> float:
    """P(T > t), T = (Z + shift) / sqrt(chi² / freedom), by the trapezoid rule over chi."""
    # Of chi next to nothing lies 10 above √freedom: its standard deviation is below 0.71.
    chi = np.linspace(1e-6, math.sqrt(freedom) + 10, 4001)
    density = (freedom - 1) * np.log(chi) - chi**2 / 2
    density = np.exp(density - (freedom / 2 - 1) * math.log(2) - math.lgamma(freedom / 2))
    above = [NORMAL.cdf(shift - t * each / math.sqrt(freedom)) for each in chi]
    return float(min(1.0, np.trapezoid(density * np.array(above), chi)))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction (Abramowitz and
    Stegun 26.5.8; Press et al., Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # Beyond the bulk the fraction converges slowly; there the other tail is taken.
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = a * math.log(x) + b * math.log1p(-x)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny, c, d = 1e-300, 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d or tiny)
    value = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / ((1 + term * d) or tiny), (1 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(front) * value / a


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from below zero crosses it."""
    # 80 halvings are beyond the last bit of a float.
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2
