"""Boxes: intersection over union, and whether a written box hits the object."""

from __future__ import annotations

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the original image; continuous coordinates, no "+1 pixel"."""


def area(box: Box) -> float:
    """Width times height; an inverted box has no area."""
    x0, y0, x1, y1 = box
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def intersection_over_union(first: Box, second: Box) -> float:
    """Shared area divided by covered area, in [0, 1]; 0 when neither box has an area.

    Worked example: (0, 0, 4, 4) and (2, 0, 6, 4) share 2 x 4 = 8 of 16 + 16 - 8 = 24, so 1/3.

    Reference: Yu et al., Modeling Context in Referring Expressions, 2016, arXiv 1608.00272.
    """
    shared = area(
        (
            max(first[0], second[0]),
            max(first[1], second[1]),
            min(first[2], second[2]),
            min(first[3], second[3]),
        )
    )
    covered = area(first) + area(second) - shared
    return shared / covered if covered > 0 else 0.0


def box_hit(predicted: Box | None, truth: Box, threshold: float = 0.5) -> float:
    """1.0 when the predicted box overlaps the truth by at least `threshold`, else 0.0.

    None stands for an output that is no box (nothing parsed, or x0 >= x1, or y0 >= y1): a miss,
    which the benchmark counts as malformed.

    Worked example: against (0, 0, 4, 4) the box (1, 0, 5, 4) has IoU 12/20 = 0.6, a hit at 0.5;
    (2, 0, 6, 4) has 1/3, a miss.

    Reference: Yu et al., Modeling Context in Referring Expressions, 2016, arXiv 1608.00272.
    """
    if predicted is None or area(predicted) == 0.0:
        return 0.0
    return float(intersection_over_union(predicted, truth) >= threshold)
