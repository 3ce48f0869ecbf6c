"""Whatever came back as an answer, as text: the first step of every scorer."""

from __future__ import annotations

import math


def as_text(output: object) -> str:
    """An output as the text that is scored; never raises.

    Text stays as it is, bytes are read as UTF-8, a number is written out. None, NaN (a hole in a
    table) and whatever else is no answer in words are the empty answer.

    Worked example: "Two." -> "Two."; b"Two." -> "Two."; 2 -> "2"; None, nan, ["2"] -> "".
    """
    if isinstance(output, str):
        return output
    if isinstance(output, bytes | bytearray):
        return bytes(output).decode("utf-8", "replace")
    if not isinstance(output, int | float) or (isinstance(output, float) and math.isnan(output)):
        return ""
    try:
        return str(output)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return ""
