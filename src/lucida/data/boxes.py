"""Boxes as words: four coordinates, each one of `bins` tokens of the processed square.

    (0.10, 0.17, 0.32, 0.40) with 32 bins  ⇄  <b03><b05><b10><b12>

The frame is the square that the encoder sees (`ImagePolicy.to_frame`), so that a place in the text
means the same patch whatever shape the picture had.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lucida.data.policies import Box


@lru_cache(maxsize=8)
def box_tokens(bins: int) -> tuple[str, ...]:
    """The tokens of all bins in order; a tokenizer must hold each as one token."""
    width = max(2, len(str(bins - 1)))
    return tuple(f"<b{number:0{width}d}>" for number in range(bins))


@lru_cache(maxsize=8)
def _pattern(bins: int) -> re.Pattern[str]:
    width = max(2, len(str(bins - 1)))
    return re.compile(rf"\s*<b([0-9]{{{width}}})>\s*" * 4)


def format_box(box: Box, bins: int) -> str:
    """Four tokens for a box in shares of the square; what lies outside is clamped to the border.

    Bin k covers [k / bins, (k + 1) / bins): the picture's right and bottom edge fall into the last.
    """
    tokens = box_tokens(bins)
    if any(value != value for value in box):  # not a number
        raise ValueError(f"a box needs four numbers, got {box}")
    inside = (min(max(value, 0.0), 1.0) for value in box)
    return "".join(tokens[min(int(value * bins), bins - 1)] for value in inside)


def parse_box(text: str, bins: int) -> Box | None:
    """The box that a text consists of, at the middle of its bins; None when the text is no box.

    Refused: anything but four tokens of the right width, numbers beyond the last bin, and a right
    or bottom edge before the left or top one. A box inside one bin is a box.
    """
    found = _pattern(bins).fullmatch(text)
    if found is None:
        return None
    x0, y0, x1, y1 = (int(number) for number in found.groups())
    if max(x0, y0, x1, y1) >= bins or x1 < x0 or y1 < y0:
        return None
    return ((x0 + 0.5) / bins, (y0 + 0.5) / bins, (x1 + 0.5) / bins, (y1 + 0.5) / bins)
