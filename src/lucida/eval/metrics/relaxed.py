"""Relaxed accuracy: a number may be off by 5%, a text may not."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lucida.eval.metrics.outputs import as_text, read_references

TOLERANCE = 0.05
"""Largest difference as a share of the true number."""


def relaxed_match(output: object, answer: str, tolerance: float = TOLERANCE) -> float:
    """1.0 when the output is right by ChartQA's relaxed rule, else 0.0.

    Where both are numbers (a trailing % divides by a hundred) and the true one is not 0, they may
    differ by `tolerance` of the true one; everything else must be equal in lower case, to the
    letter. So "1,000" is no number, "12" is wrong for "12%", and years are as tolerant as sums.

    Worked example: "10.4" for "10" is right, "10.6" is not; "0.0" for "0" is wrong (texts that
    differ); "Red" for "red" is right; "red." is not.

    Reference: Masry et al., ChartQA, 2022, arXiv 2203.10244, section 5.1; the rule of
    google-research/pix2struct, metrics.py, which lmms-eval and Qwen-VL use.
    """
    text = as_text(output)
    found, wanted = read_number(text), read_number(answer)
    # A true 0 has no 5%: it is compared as text, "0.0" with "0" as well.
    if found is not None and wanted:
        return float(abs(found - wanted) / abs(wanted) <= tolerance)
    return float(text.lower() == answer.lower())


def relaxed_accuracy(output: object, answers: Iterable[str]) -> float:
    """The best `relaxed_match` to any answer."""
    references = read_references(answers, "relaxed accuracy")
    return max((relaxed_match(output, answer) for answer in references), default=0.0)


def read_number(text: str) -> float | None:
    """The number that the whole text is, as Python reads it; a trailing % divides by a hundred.

    Worked example: "45%" -> 0.45; " 7 " -> 7.0; "1,000", "seven", "" -> None.
    """
    percent = text.endswith("%")
    try:
        number = float(text.rstrip("%")) if percent else float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None  # "nan" and "infinity" are words here; nothing is within 5% of them
    return number / 100 if percent else number
