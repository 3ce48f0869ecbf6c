"""The loss over a run as an SVG that takes its colours from the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

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


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """An exponential moving average that starts unbiased.

    Worked example with keep 0.5: [4, 2] gives [4, (0.5 * 4 + 1 * 2) / 1.5] = [4, 2.667].
    """
    total = weight = 0.0
    averaged = []
    for value in values:
        total = keep * total + value
        weight = keep * weight + 1.0
        averaged.append(total / weight)
    return averaged


def loss_curve(rows: Sequence[dict]) -> str:
    """Training loss per step (thin), its average (thick) and validation (dots); "" without rows.

    Rows carry `step` and `stage`, and `loss` or `validation_loss`; stages follow each other on one
    axis, with a line between them.
    """
    losses, validations, borders = _timeline(rows)
    if not losses:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        steps, values = zip(*losses, strict=True)
        averaged = smooth(values)
        axes.plot(steps, values, color=_LINE, linewidth=0.8, alpha=0.3)
        axes.plot(steps, averaged, color=_LINE, linewidth=2.0, label="training")
        if validations:
            places, points = zip(*validations, strict=True)
            axes.plot(places, points, "o-", color=_SECOND, markersize=4.5, label="validation")
            axes.legend(frameon=False, loc="upper right")
        for place, name in borders:
            if place > 0:
                axes.axvline(place, color=_FAINT, linewidth=1)
            if len(borders) > 1:
                axes.annotate(
                    name,
                    (place, 1),
                    (5, -2),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    va="top",
                )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss per token")
        axes.set_ylim(bottom=0, top=1.08 * max(averaged[len(averaged) // 50 :]))
        axes.set_xlim(left=0, right=max(max(steps), 1))
        axes.grid(axis="y", color=_FAINT, linewidth=0.6)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _themed(stream.getvalue())


def _timeline(
    rows: Sequence[dict],
) -> tuple[list[tuple[int, float]], list[tuple[int, float]], list[tuple[int, str]]]:
    """(step, loss), (step, validation loss) and (first step, stage); steps run over all stages."""
    losses, validations, borders = [], [], []
    stage, start, last = None, 0, 0
    for row in rows:
        if "step" not in row:
            continue
        if row.get("stage") != stage:
            stage, start = row.get("stage"), last
            borders.append((start, str(stage)))
        place = start + row["step"]
        last = max(last, place)
        if row.get("loss") is not None:
            losses.append((place, row["loss"]))
        if row.get("validation_loss") is not None:
            validations.append((place, row["validation_loss"]))
    return losses, validations, borders


def _themed(svg: str) -> str:
    """The bare <svg> element, scaling with the page, colours replaced by variables."""
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"|height="[^"]*pt"', r"\1", svg, count=2)
