"""Loss and scores over a run, as SVGs that take their colours from the page they stand in."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lucida.core.files import make_writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib writes hex colours; each of these is replaced by a variable of the page's style sheet.
_INK, _LINE, _FAINT, _SECOND = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {
    _INK: "var(--muted)",
    _LINE: "var(--accent)",
    _FAINT: "var(--rule)",
    _SECOND: "var(--warm)",
}
_SETTINGS = {
    "svg.fonttype": "none",  # letters stay text in the page's own font
    "svg.hashsalt": "lucida",  # the same numbers give the same file
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


ACROSS = 4
"""Small charts beside each other."""
MOST = 12
"""Sources that get a chart: those with the most supervised tokens."""


def smooth(
    values: Sequence[float], keep: float = 0.9, counts: Sequence[float] | None = None
) -> list[float]:
    """An exponential moving average that starts unbiased; `counts` are how much each value counts.

    Worked example with keep 0.5: [4, 2] gives [4, (0.5 * 4 + 1 * 2) / 1.5] = [4, 2.667].
    """
    total = weight = 0.0
    averaged = []
    for value, count in zip(values, counts or [1.0] * len(values), strict=True):
        total = keep * total + count * value
        weight = keep * weight + count
        averaged.append(total / weight if weight else value)  # until something has counted
    return averaged


def loss_curve(rows: Sequence[dict]) -> str:
    """Training loss per step (thin), its average (thick) and validation (dots); "" without rows.

    Rows carry `step` and `stage`, and `loss` or `validation_loss`; stages follow each other on one
    axis, with a line between them.
    """
    timeline = _timeline(rows)
    return _svg(partial(_draw_loss, timeline), 9.2, 2.9) if timeline.losses else ""


def score_curves(rows: Sequence[dict]) -> str:
    """A small chart for each task that was asked while the model trained (`evaluate_every`): its
    score, with the 95% interval as a band; "" unless some task was asked twice."""
    timeline = _timeline(rows)
    known: dict[str, list[tuple[float, ...]]] = {}
    for place, tasks in timeline.scores:
        for name, task in tasks.items():
            point = (place, task["score"], *task["interval"])
            if None not in point:  # a score that was no number when it was taken
                known.setdefault(name, []).append(point)
    known = {name: points for name, points in known.items() if len(points) > 1}
    down = -(-len(known) // ACROSS)
    return _svg(partial(_draw_scores, timeline, known), 9.2, 1.7 * down + 0.3) if known else ""


def source_curves(rows: Sequence[dict]) -> str:
    """A small chart for each source of stages that mix several: its loss per step (thin) and the
    average over its supervised tokens (thick); "" where no stage does."""
    timeline = _timeline(rows)
    known: dict[str, list[tuple[int, float, int]]] = {}
    for place, losses, tokens in timeline.sources:
        for name, loss in losses.items():
            if loss is not None:
                known.setdefault(name, []).append((place, loss, tokens[name]))
    largest = sorted(known, key=lambda name: -sum(count for *_, count in known[name]))[:MOST]
    known = {name: points for name, points in known.items() if name in largest}
    down = -(-len(known) // ACROSS)
    return _svg(partial(_draw_sources, timeline, known), 9.2, 1.7 * down + 0.3) if known else ""


class _Timeline(NamedTuple):
    """What happened at which step, counted over all stages."""

    losses: list[tuple[int, float]]
    sources: list[tuple[int, dict[str, float], dict[str, int]]]
    validations: list[tuple[int, float]]
    scores: list[tuple[int, dict[str, dict]]]
    stages: list[tuple[int, str]]
    last: int = 0


def _timeline(rows: Sequence[dict]) -> _Timeline:
    timeline = _Timeline([], [], [], [], [])
    stage, start, last = None, 0, 0
    for row in rows:
        if row.get("step") is None:
            continue
        if row.get("stage") != stage:
            stage, start = row.get("stage"), last
            timeline.stages.append((start, str(stage)))
        # Steps count anew in every stage.
        place = start + row["step"]
        last = max(last, place)
        if row.get("loss") is not None:
            timeline.losses.append((place, row["loss"]))
        if row.get("source_loss"):
            timeline.sources.append((place, row["source_loss"], row["source_supervised"]))
        if row.get("validation_loss") is not None:
            timeline.validations.append((place, row["validation_loss"]))
        if row.get("evaluation") is not None:
            timeline.scores.append((place, row["evaluation"]["tasks"]))
    return timeline._replace(last=last)


def _draw_loss(timeline: _Timeline, figure: Figure) -> None:
    axes = figure.add_subplot()
    steps, values = zip(*timeline.losses, strict=True)
    averaged = smooth(values)
    axes.plot(steps, values, color=_LINE, linewidth=0.8, alpha=0.3)
    axes.plot(steps, averaged, color=_LINE, linewidth=2.0, label="training")
    if timeline.validations:
        places, points = zip(*timeline.validations, strict=True)
        axes.plot(places, points, "o-", color=_SECOND, markersize=4.5, label="validation")
        axes.legend(frameon=False, loc="upper right")
    _draw_stages(timeline, axes)
    for place, name in timeline.stages if len(timeline.stages) > 1 else ():
        axes.annotate(
            make_writable(name),
            (place, 1),
            (5, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            parse_math=False,
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per token")
    # The first fiftieth is left out: the loss of the first steps would press all else down.
    axes.set_ylim(bottom=0, top=1.08 * max(averaged[len(averaged) // 50 :]))
    axes.set_xlim(left=0, right=max(max(steps), 1))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)


def _draw_scores(
    timeline: _Timeline, known: dict[str, list[tuple[float, ...]]], figure: Figure
) -> None:
    down = -(-len(known) // ACROSS)
    charts = list(figure.subplots(down, ACROSS, sharex=True, squeeze=False).flat)
    for axes, (name, points) in zip(charts, known.items(), strict=False):
        places, scores, low, high = zip(*points, strict=True)
        axes.fill_between(places, low, high, color=_LINE, alpha=0.15, linewidth=0)
        axes.plot(places, scores, "o-", color=_LINE, markersize=3, linewidth=1.6)
        _draw_stages(timeline, axes)
        axes.set_title(_fit_name(name), loc="left", fontsize=11, parse_math=False)
        axes.set_ylim(bottom=0, top=1.05 * max(1.0, *high))
        axes.set_xlim(left=0)
        axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    for axes in charts[len(known) :]:
        axes.set_visible(False)


def _draw_sources(
    timeline: _Timeline, known: dict[str, list[tuple[int, float, int]]], figure: Figure
) -> None:
    down = -(-len(known) // ACROSS)
    charts = list(figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).flat)
    settled = 0.0
    for axes, (name, points) in zip(charts, known.items(), strict=False):
        places, losses, counts = zip(*points, strict=True)
        averaged = smooth(losses, counts=counts)
        settled = max(settled, *averaged[len(averaged) // 50 :])
        axes.plot(places, losses, color=_LINE, linewidth=0.6, alpha=0.3)
        axes.plot(places, averaged, color=_LINE, linewidth=1.6)
        _draw_stages(timeline, axes)
        axes.set_title(_fit_name(name), loc="left", fontsize=11, parse_math=False)
        axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    charts[0].set_ylim(bottom=0, top=1.08 * settled or 1)
    charts[0].set_xlim(left=0, right=max(timeline.last, 1))
    for axes in charts[len(known) :]:
        axes.set_visible(False)


def _fit_name(name: str, most: int = 24) -> str:
    """A name that is no wider than its chart."""
    return make_writable(name if len(name) <= most else f"{name[: most - 1]}…")


def _draw_stages(timeline: _Timeline, axes: Axes) -> None:
    """A line where a stage follows another."""
    for place, _ in timeline.stages[1:]:
        axes.axvline(place, color=_FAINT, linewidth=1)


def _svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    """A figure of so many inches as an <svg> element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _apply_theme(stream.getvalue())


def _apply_theme(svg: str) -> str:
    """The bare <svg> element, scaling with the page, colours replaced by variables."""
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # The first width and the first height in points are the figure's own.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"|height="[^"]*pt"', r"\1", svg, count=2)
