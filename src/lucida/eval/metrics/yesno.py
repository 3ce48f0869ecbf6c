"""True or false, yes or no: labels, and how well a probability separates them (ROC AUC, AP)."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

_TRUE = frozenset({"true", "yes"})
_FALSE = frozenset({"false", "no"})
_EDGES = ".,;:!?\"'()[]*"


def truth_value(text: object) -> bool | None:
    """What an output claims: its first word of true, yes, false, no; None when it has none.

    Worked example: "True." -> True; "The statement is false" -> False; "maybe" -> None.

    Reference: Liu et al., Visual Spatial Reasoning, 2022, arXiv 2205.00363 (the task).
    """
    for word in as_text(text).lower().split():
        bare = word.strip(_EDGES)
        if bare in _TRUE or bare in _FALSE:
            return bare in _TRUE
    return None


def _steps(scores: Sequence[float], truth: Sequence[bool]) -> list[tuple[int, int]]:
    """(true positives, false positives) at every distinct threshold, from the highest down."""
    if len(scores) != len(truth):
        raise DataError(
            "scores and truths differ in number", expected=len(truth), given=len(scores)
        )
    if any(score != score for score in scores):
        raise DataError("a score is not a number", given="NaN")
    steps, hits, alarms = [], 0, 0
    ranked = sorted(zip(scores, truth, strict=True), key=lambda pair: -pair[0])
    for place, (score, is_true) in enumerate(ranked):
        hits, alarms = hits + bool(is_true), alarms + (not is_true)
        # Equal scores are one step: no threshold parts them, whatever order they were sorted into.
        if place + 1 == len(ranked) or ranked[place + 1][0] != score:
            steps.append((hits, alarms))
    return steps


def roc_auc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Chance that a true example scores higher than a false one, ties counting half.

    0.5 when one of the classes is absent (nothing can be ranked). Raises DataError when the two
    differ in length or a score is NaN.

    Worked example: scores .9 .8 .8 .1, truth T F T F: of 4 pairs 3 are in order and one is tied,
    so 3.5 / 4 = 0.875.

    Reference: Hanley and McNeil, The meaning and use of the area under a ROC curve, 1982.
    """
    steps = _steps(scores, truth)
    if not steps or 0 in steps[-1]:
        return 0.5
    area, before = 0.0, (0, 0)
    for hits, alarms in steps:
        # A trapezoid: pairs that are tied at this threshold count half.
        area += (alarms - before[1]) * (hits + before[0]) / 2
        before = (hits, alarms)
    return area / (before[0] * before[1])


def average_precision(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Precision at every distinct threshold, weighted by the recall it adds; no interpolation.

    0 when nothing is true. Raises DataError when the two differ in length or a score is NaN.

    Worked example: scores .9 .8 .8 .1, truth T F T F: at .9 precision 1 and recall 1/2; at .8
    precision 2/3 and recall 1: 1 * 1/2 + 2/3 * 1/2 = 0.833.

    Reference: as scikit-learn's average_precision_score defines it.
    """
    steps = _steps(scores, truth)
    if not steps or not steps[-1][0]:
        return 0.0
    total, before = 0.0, 0
    for hits, alarms in steps:
        total += (hits - before) * hits / (hits + alarms)
        before = hits
    return total / steps[-1][0]
