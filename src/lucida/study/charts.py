"""Charts of a study as SVG elements that take their colours from the page they stand in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

WIDTH = 640
COLOURS = 6
"""Colours of arms (`--arm0` …) before they repeat."""


def differences(rows: Sequence[tuple[str, float, float, float, str]], margin: float) -> Markup:
    """A bar with interval for each (arm, mean, low, high, verdict); the margin is shaded."""
    shown = [end for _, mean, low, high, _ in rows for end in (mean, low, high)]
    shown = [end for end in shown if math.isfinite(end)]
    reach = 1.15 * max([2 * margin, *map(abs, shown)])
    left, height = 170, 34 * len(rows) + 40

    def x(value: float) -> float:
        clipped = min(max(value, -reach), reach)
        return left + (WIDTH - left - 12) * (clipped + reach) / (2 * reach)

    bottom = height - 26
    parts = [
        f'<rect class="margin" x="{x(-margin):.1f}" y="4" width="{x(margin) - x(-margin):.1f}" '
        f'height="{bottom - 4}"/>'
    ]
    for tick in _ticks(reach):
        parts.append(_line("grid", x(tick), 4, x(tick), bottom))
        parts.append(_text(x(tick), height - 8, f"{tick:+g}" if tick else "0", "middle"))
    parts.append(_line("axis", x(0), 4, x(0), bottom))
    for at, (arm, mean, low, high, verdict) in enumerate(rows):
        y = 21 + 34 * at
        kind = verdict.replace(" ", "-")
        parts.append(_text(left - 10, y + 4, _cut(arm), "end", "name"))
        start, end = sorted((x(0), x(mean)))
        parts.append(
            f'<rect class="bar {kind}" x="{start:.1f}" y="{y - 7}" '
            f'width="{max(1.5, end - start):.1f}" height="14" rx="2"/>'
        )
        parts.append(_line("whisker", x(low), y, x(high), y))
        inside = [edge for edge in (low, high) if abs(edge) <= reach]
        parts += [_line("whisker", x(edge), y - 5, x(edge), y + 5) for edge in inside]
    return _svg(height, parts, "Difference to the baseline in points, with intervals")


def radar(tasks: Sequence[str], arms: Mapping[str, Sequence[float]]) -> Markup:
    """Scores (0 to 100) of every arm on at least three tasks."""
    if len(tasks) < 3:
        return Markup("")
    size, radius, middle = 360, 118, (WIDTH / 2, 180)

    def at(place: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * place / len(tasks) - math.pi / 2
        reach = radius * min(max(value, 0), 100) / 100
        return middle[0] + reach * math.cos(angle), middle[1] + reach * math.sin(angle)

    parts = [
        _outline([at(place, ring) for place in range(len(tasks))], "grid")
        for ring in (25, 50, 75, 100)
    ]
    for place, task in enumerate(tasks):
        x, y = at(place, 100)
        parts.append(_line("grid", *middle, x, y))
        side = "middle" if abs(x - middle[0]) < 10 else "start" if x > middle[0] else "end"
        dx, dy = 0.12 * (x - middle[0]), 0.14 * (y - middle[1]) + 4
        parts.append(_text(x + dx, y + dy, _cut(task), side))
    for number, (_, values) in enumerate(arms.items()):
        points = [at(place, value) for place, value in enumerate(values)]
        parts.append(_outline(points, f"curve arm{number % COLOURS}"))
    return _svg(size, parts, "Scores by task")


def curves(arms: Mapping[str, Sequence[Sequence[tuple[float, float]]]]) -> Markup:
    """Mean score against samples seen: a line over seeds for each arm, min to max as its band."""
    arms = {
        arm: [run for run in runs if len(run) > 1]
        for arm, runs in arms.items()
    }  # fmt: skip
    arms = {arm: runs for arm, runs in arms.items() if runs}
    if not arms:
        return Markup("")
    xs = [x for runs in arms.values() for run in runs for x, _ in run]
    ys = [y for runs in arms.values() for run in runs for _, y in run]
    frame = _Frame(0, max(xs), max(0, min(ys) - 5), min(100, max(ys) + 5))
    parts = frame.axes("samples seen", "mean score")
    for number, runs in enumerate(arms.values()):
        grid = sorted({x for run in runs for x, _ in run})
        table = np.array([np.interp(grid, *zip(*run, strict=True)) for run in runs])
        low, high = table.min(axis=0), table.max(axis=0)
        band = [*zip(grid, low, strict=True), *reversed(list(zip(grid, high, strict=True)))]
        kind = f"arm{number % COLOURS}"
        parts.append(_outline([frame.at(*point) for point in band], f"band {kind}"))
        line = [frame.at(*point) for point in zip(grid, table.mean(axis=0), strict=True)]
        parts.append(_path(line, f"curve {kind}"))
    return _svg(frame.height, parts, "Learning curves")


def costs(arms: Mapping[str, tuple[float, float]], unit: str) -> Markup:
    """Quality (mean score) against cost; a ring marks what nothing else beats in both."""
    xs, ys = zip(*arms.values(), strict=True)
    room = max(2.0, 0.2 * (max(ys) - min(ys)))
    frame = _Frame(0, 1.15 * max(xs) or 1, min(ys) - room, max(ys) + room)
    parts = frame.axes(unit, "mean score")
    for number, (arm, (cost, quality)) in enumerate(arms.items()):
        x, y = frame.at(cost, quality)
        kind = f"arm{number % COLOURS}"
        parts.append(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality)
                   for c, q in arms.values()):  # fmt: skip
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        side = "end" if x > 0.75 * WIDTH else "start"
        parts.append(_text(x + (-13 if side == "end" else 13), y + 4, _cut(arm), side, "name"))
    return _svg(frame.height, parts, f"Quality against {unit}")


class _Frame:
    """A chart with both axes."""

    left, right, top, bottom, height = 52, 14, 10, 40, 280

    def __init__(self, x0: float, x1: float, y0: float, y1: float) -> None:
        self.x0, self.x1, self.y0, self.y1 = x0, x1, y0, y1

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies on the page."""
        wide, high = WIDTH - self.left - self.right, self.height - self.top - self.bottom
        return (
            self.left + wide * (x - self.x0) / (self.x1 - self.x0 or 1),
            self.top + high * (self.y1 - y) / (self.y1 - self.y0 or 1),
        )

    def axes(self, across: str, up: str) -> list[str]:
        """Grid, numbers and names."""
        parts = []
        for share in range(5):
            value = self.y0 + share * (self.y1 - self.y0) / 4
            x, y = self.at(self.x0, value)
            parts.append(_line("grid", x, y, WIDTH - self.right, y))
            parts.append(_text(x - 6, y + 4, f"{value:.0f}", "end"))
            value = self.x0 + share * (self.x1 - self.x0) / 4
            x, y = self.at(value, self.y0)
            side = "end" if share == 4 else "middle"
            parts.append(_text(x, y + 16, f"{value:,.0f}", side))
        parts.append(_text(WIDTH - self.right, self.height - 4, across, "end"))
        parts.append(_text(self.left + 4, self.top + 8, up, "start"))
        return parts


def _svg(height: float, parts: Sequence[str], label: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _line(kind: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _text(x: float, y: float, words: str, side: str, kind: str = "") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{side}">{escape(words)}</text>'
    )


def _path(points: Sequence[tuple[float, float]], kind: str, end: str = "") -> str:
    words = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{words}{end}"/>'


def _outline(points: Sequence[tuple[float, float]], kind: str) -> str:
    return _path(points, kind, "Z")


def _ticks(reach: float) -> list[float]:
    step = 10 ** math.floor(math.log10(reach))
    step = step if reach / step > 2 else step / 2 if reach / step > 1.2 else step / 5
    most = int(reach / step)
    return [round(step * k, 10) for k in range(-most, most + 1)]


def _cut(words: str, most: int = 22) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
