"""Counting (TallyQA): the number in an answer, accuracy and root mean square error."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
}
_DIGITS = re.compile(r"[0-9]+")
_ANY_DIGITS = re.compile(r"\d+")  # as VILA's scorer: digits of every script
_EDGES = ".,;:!?\"'()[]*"
_MOST_DIGITS = 18  # a longer run of digits is no count, and int() refuses some


def number(text: object) -> int | None:
    """The count that an output states, or None when it states none.

    The first run of digits, otherwise the first word that is a number word (zero to twenty, or
    "none"), without punctuation around it. Unlike VILA's parser it reads "two." and "02".

    Worked example: "There are 3 dogs and 2 cats" -> 3; "Two." -> 2; "None" -> 0; "many" -> None.

    Reference: Acharya et al., TallyQA, 2019, arXiv 1810.12440 (the task; it defines no parser).
    """
    output = as_text(text)
    digits = _DIGITS.search(output)
    if digits:
        return int(digits.group()) if len(digits.group()) <= _MOST_DIGITS else None
    for word in output.lower().split():
        bare = word.strip(_EDGES)
        if bare == "none":
            return 0
        if bare in NUMBER_WORDS:
            return NUMBER_WORDS[bare]
    return None


def vila_number(text: object) -> str:
    """The count as VILA's scorer reads it: a text, compared as such with the true count.

    The whole output when it is a number word (as digits) or digits; else the first run of digits;
    else the first word that is a number word. So "two." is not read and "02" is not "2". What
    states no count comes back as it is.

    Worked example: "Two" -> "2"; "3 dogs" -> "3"; "two dogs" -> "2"; "two." -> "two.".

    Reference: VILA's evaluation of TallyQA, Lin et al., VILA, 2023, arXiv 2312.07533.
    """
    output = as_text(text).strip()
    lower = output.lower()
    if lower in NUMBER_WORDS:
        return str(NUMBER_WORDS[lower])
    digits = _ANY_DIGITS.search(output)
    if digits:
        return digits.group()
    for word in lower.split():
        if word in NUMBER_WORDS:
            return str(NUMBER_WORDS[word])
    return output


def count_match(prediction: object, answer: int | str) -> float:
    """1.0 when the output states exactly the right count, else 0.0.

    Worked example: "two dogs" against 2 is 1; "no idea" against 0 is 0.

    Reference: Acharya et al., TallyQA, 2019, arXiv 1810.12440.
    """
    found = number(prediction)
    wanted = answer if isinstance(answer, int) else number(answer)
    return float(found is not None and found == wanted)


def root_mean_square_error(predicted: Sequence[int | None], truth: Sequence[int]) -> float:
    """Root of the mean squared difference; an output without a number counts as 0.

    Raises DataError when there are none, ValueError when the two differ in length.

    Worked example: 2, 5 and nothing against 2, 3, 1: squares 0, 4, 1, so sqrt(5/3) = 1.29.

    Reference: Acharya et al., TallyQA, 2019, arXiv 1810.12440.
    """
    squares = [
        ((0 if found is None else found) - wanted) ** 2
        for found, wanted in zip(predicted, truth, strict=True)
    ]
    if not squares:
        raise DataError("there are no counts to compare", expected="one or more", given=0)
    return math.sqrt(sum(squares) / len(squares))
