"""Counts of values as a few bars, with their mean and quantiles.

{length: how many} ─▶ Histogram(title, summary, bars)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

BARS = 10
NICE = (1, 2, 4, 5, 8)
"""Leading digits of the width of a bar."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Values from `begin` to `end` (included), or all from `begin` on where `end` is None."""

    begin: int
    end: int | None
    many: int

    @property
    def name(self) -> str:
        """Its values as people read them."""
        if self.end is None:
            return f"{self.begin:,} and more"
        return f"{self.begin:,}" if self.begin == self.end else f"{self.begin:,}–{self.end:,}"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of equal width, none where all values are one; where one percent of the values lies far
    out, it shares the last bar."""

    title: str
    total: int
    mean: float
    median: int
    most: int
    longest: int
    bars: list[Bar]

    @property
    def summary(self) -> str:
        """Mean, median, the value that 99% do not exceed, and the longest."""
        if not self.bars:
            return f"always {self.longest:,}"
        return (
            f"mean {self.mean:,.1f}, median {self.median:,}, "
            f"99% {self.most:,}, longest {self.longest:,}"
        )

    def share(self, bar: Bar) -> float:
        """Length of a bar, of the longest."""
        return bar.many / max(each.many for each in self.bars)


def histogram(title: str, counts: Counter[int]) -> Histogram:
    """The histogram of values that are counted; there has to be one.

    Worked example: values 1, 1, 2, 9 have the mean 3.2 and the median 1.
    """
    total = sum(counts.values())
    if len(counts) == 1:
        (only,) = counts
        return Histogram(title, total, only, only, only, only, [])
    low, high = min(counts), max(counts)
    far = quantile(counts, 0.99)
    # The largest lies farther behind the 99% quantile than that does behind the smallest: of equal
    # bars up to there most would be empty.
    top = far if high > 2 * far - low else high
    width = wide(top - low + 1)
    start = low if width == 1 else low // width * width
    places: Counter[int] = Counter()
    last = (top - start) // width
    for value, many in counts.items():
        places[min((value - start) // width, last + 1)] += many
    bars = [
        Bar(start + place * width, start + (place + 1) * width - 1, places[place])
        for place in range(last + 1)
    ]
    if places[last + 1]:
        bars.append(Bar(start + (last + 1) * width, None, places[last + 1]))
    mean = sum(value * many for value, many in counts.items()) / total
    return Histogram(title, total, mean, quantile(counts, 0.5), far, high, bars)


def wide(span: int) -> int:
    """The smallest round width of which `BARS` cover the span.

    Worked example: a span of 730 gives 80, one of 7 gives 1.
    """
    power = 1
    while True:
        for digit in NICE:
            if digit * power * BARS >= span:
                return digit * power
        power *= 10


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value that this share of all values does not exceed."""
    rest = share * sum(counts.values())
    for value in sorted(counts):
        rest -= counts[value]
        if rest <= 0:
            return value
    return max(counts)
