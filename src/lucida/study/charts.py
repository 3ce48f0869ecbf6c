"""Charts of a study as SVG elements that take their colours from the page they stand in.

Each is drawn twice, wide and narrow, and the page shows the one that fits: letters keep their size
on a phone, where a scaled chart could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

WIDE, NARROW = 640, 320
"""Widths in pixels of the two drawings."""
COLOURS = 6
"""Colours of arms (`--arm0` …) before they repeat."""


def draw_both(draw: Callable[..., Markup], *data: object) -> Markup:
    """The chart for wide pages and the one for narrow ones; empty where nothing can be drawn."""
    wide = draw(*data, width=WIDE)
    return wide + draw(*data, width=NARROW) if wide else wide


def differences(
    rows: Sequence[tuple[str, float, float, float, str]], margin: float, width: int = WIDE
) -> Markup:
    """A bar with interval for each (arm, mean, low, high, verdict); the margin is shaded."""
    shown = [end for _, mean, low, high, _ in rows for end in (mean, low, high)]
    shown = [end for end in shown if math.isfinite(end)]
    reach = 1.15 * max([2 * margin, *map(abs, shown)])
    left, height = (170, 34 * len(rows) + 40) if width == WIDE else (8, 46 * len(rows) + 40)
    pitch, middle = (34, 21) if width == WIDE else (46, 34)

    def x(value: float) -> float:
        clipped = min(max(value, -reach), reach)
        return left + (width - left - 12) * (clipped + reach) / (2 * reach)

    bottom = height - 26
    parts = [
        f'<rect class="margin" x="{x(-margin):.1f}" y="4" width="{x(margin) - x(-margin):.1f}" '
        f'height="{bottom - 4}"/>'
    ]
    for tick in _ticks(reach, 9 if width == WIDE else 5):
        parts.append(_line("grid", x(tick), 4, x(tick), bottom))
        parts.append(_text(x(tick), height - 8, f"{tick:+g}" if tick else "0", "middle"))
    parts.append(_line("axis", x(0), 4, x(0), bottom))
    for at, (arm, mean, low, high, verdict) in enumerate(rows):
        y = middle + pitch * at
        kind = verdict.replace(" ", "-")
        if width == WIDE:
            parts.append(_text(left - 10, y + 4, _cut(arm), "end", "name"))
        else:
            parts.append(_text(left + 2, y - 14, _cut(arm, 40), "start", "name"))
        start, end = sorted((x(0), x(mean)))
        parts.append(
            f'<rect class="bar {kind}" x="{start:.1f}" y="{y - 7}" '
            f'width="{max(1.5, end - start):.1f}" height="14" rx="2"/>'
        )
        parts.append(_line("whisker", x(low), y, x(high), y))
        inside = [edge for edge in (low, high) if abs(edge) <= reach]
        parts += [_line("whisker", x(edge), y - 5, x(edge), y + 5) for edge in inside]
    return _svg(width, height, parts, "Difference to the baseline in points, with intervals")


def radar(tasks: Sequence[str], arms: Mapping[str, Sequence[float]], width: int = WIDE) -> Markup:
    """Scores (0 to 100) of every arm on at least three tasks."""
    if len(tasks) < 3:
        return Markup("")
    size, radius = (360, 118) if width == WIDE else (290, 92)
    middle = (width / 2, size / 2)

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
        parts.append(_text(x + dx, y + dy, _cut(task, 22 if width == WIDE else 12), side))
    for number, (_, values) in enumerate(arms.items()):
        points = [at(place, value) for place, value in enumerate(values)]
        parts.append(_outline(points, f"curve arm{number % COLOURS}"))
    return _svg(width, size, parts, "Scores by task")


def curves(
    arms: Mapping[str, Sequence[Sequence[tuple[float, float]]]], width: int = WIDE
) -> Markup:
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
    frame = _Frame(0, max(xs), max(0, min(ys) - 5), min(100, max(ys) + 5), width)
    parts = frame.axes("samples seen", "mean score")
    for number, runs in enumerate(arms.values()):
        grid = sorted({x for run in runs for x, _ in run})
        # Runs of a seed may have been asked at other places; in between they are drawn straight.
        table = np.array([np.interp(grid, *zip(*run, strict=True)) for run in runs])
        low, high = table.min(axis=0), table.max(axis=0)
        band = [*zip(grid, low, strict=True), *reversed(list(zip(grid, high, strict=True)))]
        kind = f"arm{number % COLOURS}"
        parts.append(_outline([frame.at(*point) for point in band], f"band {kind}"))
        line = [frame.at(*point) for point in zip(grid, table.mean(axis=0), strict=True)]
        parts.append(_path(line, f"curve {kind}"))
    return _svg(width, frame.height, parts, "Learning curves")


def profile(arms: Mapping[str, Sequence[float]], width: int = WIDE) -> Markup:
    """Performance profile: the share of runs and tasks that reach a normalised score (Agarwal et
    al., 2021), a falling step line for each arm."""
    if not arms or not all(len(values) for values in arms.values()):
        return Markup("")
    low = min(0.0, *(min(values) for values in arms.values()))
    frame = _Frame(low, 100, 0, 100, width)
    parts = frame.axes("normalised score", "% of runs and tasks that reach it")
    for number, values in enumerate(arms.values()):
        points, ordered = [(low, 100.0)], sorted(values)
        for rank, value in enumerate(ordered):
            points.append((value, 100 * (1 - rank / len(ordered))))
            points.append((value, 100 * (1 - (rank + 1) / len(ordered))))
        points.append((100.0, points[-1][1]))
        line = [frame.at(*point) for point in points]
        parts.append(_path(line, f"curve arm{number % COLOURS}"))
    return _svg(width, frame.height, parts, "Performance profile")


def costs(arms: Mapping[str, tuple[float, float]], unit: str, width: int = WIDE) -> Markup:
    """Quality (mean score) against cost; a ring marks what nothing else beats in both."""
    xs, ys = zip(*arms.values(), strict=True)
    room = max(2.0, 0.2 * (max(ys) - min(ys)))
    frame = _Frame(0, 1.15 * max(xs) or 1, min(ys) - room, max(ys) + room, width)
    parts = frame.axes(unit, "mean score")
    taken: list[tuple[float, float]] = []
    for number, (arm, (cost, quality)) in enumerate(arms.items()):
        x, y = frame.at(cost, quality)
        kind = f"arm{number % COLOURS}"
        parts.append(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality)
                   for c, q in arms.values()):  # fmt: skip
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        side = "end" if x > 0.6 * width else "start"
        height = y + 4
        # Names that would cover another move towards the middle of the chart.
        while any(abs(height - other) < 13 and abs(x - at) < 150 for at, other in taken):
            height += 13 if y < frame.height / 2 else -13
        taken.append((x, height))
        parts.append(_text(x + (-13 if side == "end" else 13), height, _cut(arm), side, "name"))
    return _svg(width, frame.height, parts, f"Quality against {unit}")


STYLE = """<style>
svg { --ink: #1d2126; --muted: #646b74; --rule: #e3e0d8; --track: #efece4;
  --agrees: #1c7c45; --disagrees: #b8322c; --open: #8a8f97; }
@media (prefers-color-scheme: dark) { svg { --ink: #e9e7e1; --muted: #9aa2ac; --rule: #31373e;
  --track: #272c32; --agrees: #5fca8c; --disagrees: #f07f78; --open: #858c96; } }
text { fill: var(--muted); font: 12px system-ui, sans-serif; } text.name { fill: var(--ink); }
.grid { stroke: var(--rule); } .axis { stroke: var(--muted); } .margin { fill: var(--track); }
.whisker { stroke: var(--mark); stroke-width: 2; } .dot { fill: var(--mark); }
.agrees { --mark: var(--agrees); } .disagrees { --mark: var(--disagrees); }
.cannot-tell { --mark: var(--open); }
</style>"""


def draw_summary(rows: Sequence[tuple[str, float, float | None, float | None, str]]) -> str:
    """A file of its own: (name, mean, low, high, whether it agrees with the paper) as dots with
    intervals. It follows light and dark where it is shown as a picture."""
    width, left, pitch = 720, 260, 26
    bottom = pitch * len(rows) + 12
    ends = [abs(end) for _, *ends, _ in rows for end in ends if _is_finite(end)]
    reach = 1.08 * max(ends, default=1.0)

    def x(value: float) -> float:
        return left + (width - left - 14) * (min(max(value, -reach), reach) + reach) / (2 * reach)

    parts = []
    for tick in _ticks(reach, 9):
        parts.append(_line("grid", x(tick), 4, x(tick), bottom))
        parts.append(_text(x(tick), bottom + 16, f"{tick:+g}" if tick else "0", "middle"))
    parts.append(_line("axis", x(0), 4, x(0), bottom))
    for at, (name, mean, low, high, agrees) in enumerate(rows):
        y, kind = 4 + pitch * (at + 0.5), agrees.replace(" ", "-")
        parts.append(_text(left - 12, y + 4, _cut(name, 40), "end", "name"))
        if _is_finite(low) and _is_finite(high):
            parts.append(_line(f"whisker {kind}", x(low), y, x(high), y))
        parts.append(f'<circle class="dot {kind}" cx="{x(mean):.1f}" cy="{y:.1f}" r="4.5"/>')
    key, y = left, bottom + 40
    parts.append(_text(left - 12, y + 4, "the paper's finding:", "end"))
    for words in ("agrees", "disagrees", "cannot tell"):
        parts.append(f'<circle class="dot {words.replace(" ", "-")}" cx="{key}" cy="{y}" r="4.5"/>')
        parts.append(_text(key + 10, y + 4, words, "start"))
        key += 100
    parts.append(_text(width - 14, y + 4, "points against the baseline", "end"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 56}" role="img" '
        f'aria-label="Findings of the studies with intervals">{STYLE}{"".join(parts)}</svg>\n'
    )


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


class _Frame:
    """A chart with both axes."""

    left, right, top, bottom, height = 52, 14, 26, 40, 296

    def __init__(self, x0: float, x1: float, y0: float, y1: float, width: int) -> None:
        self.x0, self.x1, self.y0, self.y1, self.width = x0, x1, y0, y1, width

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies on the page."""
        wide, high = self.width - self.left - self.right, self.height - self.top - self.bottom
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
            parts.append(_line("grid", x, y, self.width - self.right, y))
            parts.append(_text(x - 6, y + 4, f"{value:.0f}", "end"))
            value = self.x0 + share * (self.x1 - self.x0) / 4
            x, y = self.at(value, self.y0)
            side = "end" if share == 4 else "middle"
            if self.width == WIDE or share % 2 == 0:
                parts.append(_text(x, y + 16, _short(value), side))
        parts.append(_text(self.width - self.right, self.height - 4, across, "end"))
        parts.append(_text(4, 14, up, "start"))
        return parts


def _svg(width: int, height: float, parts: Sequence[str], label: str) -> Markup:
    kind = "wide" if width == WIDE else "narrow"
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(label)}">'
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


def _ticks(reach: float, count: int) -> list[float]:
    """Round numbers from -reach to reach, at most `count` of them."""
    size = 10 ** math.floor(math.log10(reach))
    # At most 10 times the power of ten below `reach`: the first step whose ticks fit.
    steps = (size * each for each in (0.1, 0.2, 0.5, 1, 2, 5))
    step = next(each for each in steps if 2 * int(reach / each) + 1 <= count)
    most = int(reach / step)
    return [round(step * k, 10) for k in range(-most, most + 1)]


def _short(value: float) -> str:
    """A number on an axis: 12,000, and 1.2e+13 where it is larger than people read."""
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2g}"


def _cut(words: str, most: int = 22) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
