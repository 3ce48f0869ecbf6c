"""MathVista's own rules: what of an output needs no language model to be read, and what is equal.

    output ─extracted─▶ the answer in it, where a rule finds one ─normalised─▶ compared as text

The publisher has a language model (GPT-4) extract whatever these rules leave.

Reference: Lu et al., MathVista, 2023, arXiv 2310.02255; evaluation/extract_answer.py (with
`--quick_extract`) and calculate_score.py of its repository.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lucida.eval.metrics.documents import edit_distance
from lucida.eval.metrics.outputs import as_text

_QUOTED = re.compile(r'The answer is "(.*)"\.')
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")


def extract(text: object, answer_type: str, choices: Sequence[str]) -> str | None:
    """The answer in an output, or None where the publisher asks a language model; an empty output
    has none.

    An output that is a choice, word for word; that is a whole number where one is asked for, or any
    number where a decimal one is; or what stands in `The answer is "…".`

    Worked example: of integers "12" gives "12", and "It is 12" None; of floats "12" gives "12.0".
    """
    output = as_text(text)
    if not output:
        return None
    if output in choices:
        return output
    number = {"integer": int, "float": float}.get(answer_type) if not choices else None
    if number is not None:
        try:
            return str(number(output))
        except ValueError:
            pass
    quoted = _QUOTED.search(output)
    return quoted[1] if quoted else None


def normalise(
    extraction: str, answer_type: str, choices: Sequence[str], precision: int | None
) -> str | None:
    """What an extracted answer is compared as; None where it is not of its kind.

    Of choices the one whose letter it is or has in brackets ("(B) red", "B"), else the one that is
    spelled most alike, the first of several; numbers as whole ones (cut, not rounded) or with
    `precision` decimals; lists as they are written.

    Worked example: "2.9" is the integer "2", and with one decimal "2.9"; "(b)" of red and blue is
    "blue", and "bleu" too.
    """
    if choices:
        answer = extraction.strip()
        bracketed = _BRACKETED.findall(answer)
        letter = bracketed[0].upper() if bracketed else answer
        place = ord(letter) - ord("A") if len(letter) == 1 else -1
        if 0 <= place < len(choices):
            return choices[place]
        # Also of an output that names no choice at all: the published script guesses so too.
        return min(choices, key=lambda choice: edit_distance(letter, choice))
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), precision or 0))
    except (ValueError, OverflowError):
        return None
    return extraction
