"""Timing several ways of doing one thing: in turn, in one process, as ratios.

A machine is never equally fast twice, so a time alone says little. Every repetition runs all the
sides, in an order that is drawn anew, and a ratio is taken within a repetition.
"""

from __future__ import annotations

import random
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Timing:
    """Seconds of each repetition: of the processor and by the clock."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def __add__(self, other: Timing) -> Timing:
        """Both pieces of work, repetition by repetition."""
        if not self.cpu:
            return other
        return Timing(
            [a + b for a, b in zip(self.cpu, other.cpu, strict=True)],
            [a + b for a, b in zip(self.wall, other.wall, strict=True)],
        )


def alternate(
    sides: Mapping[str, Callable[[], object]],
    repetitions: int,
    warm_up: int = 1,
    wait: Callable[[], object] = lambda: None,
    tell: Callable[[str, float], object] = lambda side, seconds: None,
) -> dict[str, Timing]:
    """The times of every side; `wait` ends what a side has begun elsewhere (on a GPU), `tell` hears
    each time of the processor as soon as it is known."""
    order, times = list(sides), {name: Timing() for name in sides}
    draws = random.Random(0)
    for repetition in range(-warm_up, repetitions):
        draws.shuffle(order)
        for name in order:
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            wait()
            if repetition >= 0:
                times[name].cpu.append(time.process_time() - cpu)
                times[name].wall.append(time.perf_counter() - wall)
                tell(name, times[name].cpu[-1])
    return times


def held_at_most() -> float:
    """Most GB that this process ever held (Linux counts kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def ratio(slower: Sequence[float], faster: Sequence[float]) -> str:
    """How many times faster, taken within each repetition: the median and the range."""
    each = [a / b for a, b in zip(slower, faster, strict=True)]
    return f"{statistics.median(each):.2f} [{min(each):.2f}-{max(each):.2f}]"
