"""Boxes that foreign models write as words."""

from __future__ import annotations

import re

from lucida.eval.metrics.boxes import Box

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")


def read_written_box(text: str, width: int, height: int) -> Box | None:
    """The box in an output with exactly four numbers, in pixels of a `width` x `height` picture.

    Numbers that are all at most 1 are shares of the picture; others are pixels where they fit into
    it, and thousandths (as many models write them) where they do not but are at most 1000. Anything
    else, and a box without area, is None.

    Worked example, picture 200 x 100: "[0.5, 0, 1, 1]" is (100, 0, 200, 100), "20 10 60 90" is
    (20, 10, 60, 90), "(500, 500), (1000, 1000)" is (100, 50, 200, 100).
    """
    numbers = [float(found) for found in _NUMBER.findall(text)]
    if len(numbers) != 4 or min(numbers) < 0:
        return None
    x0, y0, x1, y1 = numbers
    if x1 <= x0 or y1 <= y0:
        return None
    if max(numbers) <= 1:
        return x0 * width, y0 * height, x1 * width, y1 * height
    if x1 <= width and y1 <= height:
        return x0, y0, x1, y1
    if max(numbers) <= 1000:
        return tuple(v * side / 1000 for v, side in zip(numbers, (width, height) * 2, strict=True))
    return None
