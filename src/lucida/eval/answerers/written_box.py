"""Boxes that foreign models write as words, each in its own coordinates.

Some forms tell their unit, whatever model wrote them:

    <|box_start|>(x0,y0),(x1,y1)<|box_end|>   thousandths       Qwen2-VL
    <box>(x0,y0),(x1,y1)</box>                thousandths       Qwen-VL
    (x0,y0),(x1,y1), whole numbers            thousandths       the same, special tokens left out
    <box>[[x0, y0, x1, y1]]</box>             thousandths       InternVL
    {<x0><y0><x1><y1>}                        hundredths        MiniGPT-v2
    <loc_x0><loc_y0><loc_x1><loc_y1>          middles of 1000   Florence-2
    <locY0><locX0><locY1><locX1>              1024ths, y first  PaliGemma
    <patch_index_A><patch_index_B>            cells of 32 x 32  Kosmos-2
    0.25, 0.1, 0.5, 1.0                       shares            Shikra, LLaVA

Four other numbers tell nothing: `[100, 100, 300, 300]` is pixels for one model and thousandths for
the next. Their unit is decided once, for all answers of a model: by an option (`UNITS`), else by
what is known of the model (`FAMILIES`), else pixels. It is never guessed from how large the numbers
of one answer are, which would read one model's small and large things in different frames. An
option and a known model also decide about the forms above that are plain numbers.
"""

from __future__ import annotations

import re
from typing import Literal

from lucida.core.errors import ModelError, suggestion
from lucida.eval.metrics.boxes import Box

Unit = Literal["form", "pixels", "shares", "hundredths", "thousandths", "thousandths-yx"]
UNITS = ("form", "pixels", "shares", "hundredths", "thousandths", "thousandths-yx")
"""What plain numbers are in: the picture's pixels, or parts of its width and height. `-yx`: y comes
first (Gemini). `form`: as above, which is pixels where the form tells nothing."""
PARTS = {"shares": 1, "hundredths": 100, "thousandths": 1000, "thousandths-yx": 1000}

FAMILIES: dict[str, Unit] = {
    "qwen2_vl": "thousandths",
    "qwen2_5_vl": "pixels",
    "qwen3_vl": "thousandths",
    "qwen3_vl_moe": "thousandths",
    "internvl": "thousandths",
    "glm4v": "thousandths",
    "llava": "shares",
    "llava_next": "shares",
}
"""What models of a transformers `model_type` were trained to write. Qwen2.5-VL's pixels are those
of the picture as its processor scales it, which is nearly the picture itself unless it is large."""

_N = r"\s*(-?\d+(?:\.\d+)?)\s*"
_PAIRS = rf"\({_N},{_N}\)\s*,?\s*\({_N},{_N}\)"
_FOUR = rf"{_N},{_N},{_N},{_N}"
_SURE: tuple[tuple[re.Pattern[str], Unit], ...] = (
    (re.compile(rf"<\|box_start\|>\s*{_PAIRS}"), "thousandths"),
    (re.compile(rf"<box>\s*{_PAIRS}"), "thousandths"),
    (re.compile(rf"<box>\s*\[?\[{_FOUR}\]"), "thousandths"),
    (re.compile(rf"\{{<{_N}><{_N}><{_N}><{_N}>\}}"), "hundredths"),
)
_BARE: tuple[tuple[re.Pattern[str], Unit], ...] = (
    (re.compile(_PAIRS), "thousandths"),
    (re.compile(rf"\[{_FOUR}\]"), "pixels"),
)
"""Forms of plain numbers with their usual unit; in the bare ones it may also be shares."""
_PALIGEMMA = re.compile(r"<loc(\d{4})>" * 4)
_FLORENCE = re.compile(r"<loc_(\d+)>" * 4)
_KOSMOS = re.compile(r"<patch_index_(\d{4})><patch_index_(\d{4})>")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")

MARKER = re.compile(r"</?\|?(?:box|loc|patch_index)")
"""How tokens begin that a box is written with, which are no part of the talk around it."""


def check_unit(unit: str) -> Unit:
    """The unit of that name; ModelError when there is none."""
    if unit not in UNITS:
        raise ModelError(f"unknown unit of boxes `{unit}`", remedy=suggestion(unit, UNITS))
    return unit


def read_written_box(text: str, width: int, height: int, unit: Unit = "form") -> Box | None:
    """The one box in an output, in pixels of a `width` x `height` picture.

    `unit` is what the model's plain numbers are in. None when there is no box or several, when it
    has no area, and when it begins outside the picture (as most do that are read in a wrong unit).

    Worked example, picture 200 x 100: "[0.5, 0, 1, 1]" is (100, 0, 200, 100); "20 10 60 90" is
    (20, 10, 60, 90), and (4, 1, 12, 9) in thousandths; "(500, 500), (1000, 1000)" is
    (100, 50, 200, 100).
    """
    box = _own_tokens(text)
    if box is None:
        box = _plain_numbers(text, unit, width, height)
    if box is None:
        return None
    x0, y0, x1, y1 = (share * side for share, side in zip(box, (width, height) * 2, strict=True))
    inside = 0 <= x0 < width and 0 <= y0 < height
    return (x0, y0, x1, y1) if inside and x0 < x1 and y0 < y1 else None


def _own_tokens(text: str) -> Box | None:
    """A box in a model's own tokens, as shares of the picture."""
    if len(found := _PALIGEMMA.findall(text)) == 1:
        y0, x0, y1, x1 = (int(each) / 1024 for each in found[0])
        return x0, y0, x1, y1
    if len(found := _FLORENCE.findall(text)) == 1:
        return tuple((int(each) + 0.5) / 1000 for each in found[0])
    if len(found := _KOSMOS.findall(text)) == 1:
        (y0, x0), (y1, x1) = (divmod(int(each), 32) for each in found[0])
        # Within one row or column of cells their outer edges count, else their middles.
        low, high = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
        return (x0 + low) / 32, (y0 + low) / 32, (x1 + high) / 32, (y1 + high) / 32
    return None


def _plain_numbers(text: str, unit: Unit, width: int, height: int) -> Box | None:
    """A box in plain numbers, as shares of the picture."""
    found = _four_numbers(text)
    if found is None:
        return None
    numbers, usual = found
    if unit == "form":
        unit = usual
    if unit == "thousandths-yx":
        numbers = [numbers[place] for place in (1, 0, 3, 2)]
    ends = (width, height) * 2 if unit == "pixels" else (PARTS[unit],) * 4
    return tuple(number / end for number, end in zip(numbers, ends, strict=True))


def _four_numbers(text: str) -> tuple[list[float], Unit] | None:
    """Four numbers and what their form says of their unit, where the text has one box of them."""
    for pattern, usual in _SURE:
        if found := pattern.findall(text):
            return ([float(word) for word in found[0]], usual) if len(found) == 1 else None
    words, usual = _NUMBER.findall(text), "pixels"
    for pattern, own in _BARE:
        if len(found := pattern.findall(text)) == 1:
            words, usual = found[0], own
            break
    if len(words) != 4:
        return None
    numbers = [float(word) for word in words]
    # "0, 0, 1, 1" without a point is a box of one pixel.
    fractions = any("." in word for word in words) and max(numbers) <= 1
    return numbers, "shares" if fractions else usual


def write_box(box: Box, width: int, height: int, unit: Unit) -> str:
    """A box in pixels of a picture as the words of a model with this unit, for demonstrations."""
    if unit in ("form", "pixels"):
        return "[" + ", ".join(f"{value:.0f}" for value in box) + "]"
    parts = [v / side * PARTS[unit] for v, side in zip(box, (width, height) * 2, strict=True)]
    if unit == "thousandths-yx":
        parts = [parts[place] for place in (1, 0, 3, 2)]
    digits = 3 if unit == "shares" else 0
    return "[" + ", ".join(f"{value:.{digits}f}" for value in parts) + "]"
