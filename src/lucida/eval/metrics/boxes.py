"""Boxes: how much two overlap, and whether a predicted box hits the object.

Coordinates are continuous x0, y0, x1, y1 (torchvision, Qwen-VL, vlm-evaluation). Two other
definitions are in use, and change about one hit in 300 (VILA) and in 60 (MDETR):

    iou        shared area / covered area, hit at >= threshold. The default.
    inclusive  corners are pixels that belong to the box: every side is one longer (MAttNet, VILA)
    giou       generalised IoU, which also subtracts the gap between the boxes (MDETR); stricter

RefCOCO, RefCOCO+ and RefCOCOg take the threshold 0.5, OCID-Ref 0.25.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from lucida.core.errors import DataError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the original image; continuous coordinates, no "+1 pixel"."""

BoxVariant = Literal["iou", "inclusive", "giou"]
OCID_THRESHOLD = 0.25
"""OCID-Ref's threshold, as vlm-evaluation takes it."""


def area(box: Box) -> float:
    """Width times height; an inverted box has no area."""
    x0, y0, x1, y1 = box
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def _intersect(first: Box, second: Box) -> Box:
    return (
        max(first[0], second[0]),
        max(first[1], second[1]),
        min(first[2], second[2]),
        min(first[3], second[3]),
    )


def iou(first: Box, second: Box) -> float:
    """Shared area divided by covered area, in [0, 1]; 0 when neither box has an area.

    Worked example: (0, 0, 4, 4) and (2, 0, 6, 4) share 2 x 4 = 8 of 16 + 16 - 8 = 24, so 1/3.

    Reference: Yu et al., Modeling Context in Referring Expressions, 2016, arXiv 1608.00272.
    """
    shared = area(_intersect(first, second))
    covered = area(first) + area(second) - shared
    return shared / covered if covered > 0 else 0.0


def inclusive_iou(first: Box, second: Box) -> float:
    """IoU of boxes whose right and bottom edges are pixels inside the box: sides one longer.

    Worked example: (0, 0, 3, 3) and (2, 0, 5, 3) are 4 x 4 pixels each and share 2 x 4, so 1/3.

    Reference: Yu et al., MAttNet, 2018, arXiv 1801.08186, evaluation code.
    """
    return iou(
        (*first[:2], first[2] + 1, first[3] + 1), (*second[:2], second[2] + 1, second[3] + 1)
    )


def generalised_iou(first: Box, second: Box) -> float:
    """IoU less the share of the smallest enclosing box that neither covers, in [-1, 1].

    Worked example: (0, 0, 1, 1) and (2, 0, 3, 1): IoU 0, the enclosing 3 x 1 is one third empty,
    so -1/3.

    Reference: Rezatofighi et al., Generalized Intersection over Union, 2019, arXiv 1902.09630.
    """
    hull = area(
        (
            min(first[0], second[0]),
            min(first[1], second[1]),
            max(first[2], second[2]),
            max(first[3], second[3]),
        )
    )
    covered = area(first) + area(second) - area(_intersect(first, second))
    return iou(first, second) - ((hull - covered) / hull if hull > 0 else 0.0)


OVERLAPS: dict[str, Callable[[Box, Box], float]] = {
    "iou": iou,
    "inclusive": inclusive_iou,
    "giou": generalised_iou,
}


def as_box(value: object) -> Box | None:
    """The value as a box, or None when it is none: not four finite numbers, or no area.

    Worked example: [0, 0, 2, 3] -> (0.0, 0.0, 2.0, 3.0); (4, 0, 0, 4), [0, 0, nan, 1], "0 0 1 1"
    and None -> None.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 4:
        return None
    # True and False are integers in Python; `ast.literal_eval` gives them to vlm-evaluation as 1
    # and 0.
    if any(isinstance(side, bool) or not isinstance(side, int | float) for side in value):
        return None
    try:
        x0, y0, x1, y1 = (float(side) for side in value)
    except OverflowError:  # an integer beyond the range of floats
        return None
    finite = all(math.isfinite(side) for side in (x0, y0, x1, y1))
    return (x0, y0, x1, y1) if finite and x0 < x1 and y0 < y1 else None


def box_hit(
    predicted: object, truth: Box, threshold: float = 0.5, variant: BoxVariant = "iou"
) -> float:
    """1.0 when the predicted box overlaps the truth by at least `threshold`, else 0.0.

    Whatever is no box (`as_box`: None, inverted, not four finite numbers) is a miss, which the
    benchmark counts as malformed. Raises DataError when the truth is no box.

    Worked example: against (0, 0, 4, 4) the box (1, 0, 5, 4) has IoU 12/20 = 0.6, a hit at 0.5;
    (2, 0, 6, 4) has 1/3, a miss.

    Reference: Yu et al., Modeling Context in Referring Expressions, 2016, arXiv 1608.00272.
    """
    if variant not in OVERLAPS:
        raise DataError(
            "no such variant of box overlap", expected=" or ".join(OVERLAPS), given=variant
        )
    wanted = as_box(truth)
    if wanted is None:
        raise DataError("the true box is no box", expected="x0 < x1, y0 < y1", given=truth)
    found = as_box(predicted)
    return float(found is not None and OVERLAPS[variant](found, wanted) >= threshold)
