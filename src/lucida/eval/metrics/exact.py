"""Exact match after normalisation, as visual question answering compares short answers.

Both sides are normalised, always. (The published VQAv2 script normalises only when the ten
references differ, so that "Yes." scores 0 against ten times "yes".)
"""

from __future__ import annotations

from collections.abc import Iterable

from lucida.eval.metrics.answers import ARTICLES, NUMBERS, without_punctuation
from lucida.eval.metrics.outputs import as_text, read_references


def normalise(text: object) -> str:
    """The text as it is compared: lower case, no articles, no punctuation, digits for numbers.

    The steps are VQAv2's: a punctuation character that stands next to a space anywhere in the text
    is deleted, otherwise it separates two words; periods go unless a digit follows; zero..ten (and
    "none") become digits; a, an, the go, unless nothing would be left (the answer may be the letter
    A). VQAv2's table of contractions ("dont" is "don't") is left out: an answer carries its own
    apostrophe.

    Worked example:

        "The Red Star."   -> "red star"
        "two"             -> "2"
        "light-blue"      -> "light blue"
        "1,000"           -> "1000"
        "0.5 m."          -> "0.5 m"
        "A."              -> "a"

    Reference: Goyal et al., Making the V in VQA Matter, 2017, arXiv 1612.00837, and its
    evaluation code.
    """
    cleaned = without_punctuation(" ".join(as_text(text).lower().split()))
    words = [NUMBERS.get(word, word) for word in cleaned.split()]
    return " ".join([word for word in words if word not in ARTICLES] or words)


def exact_match(output: object, answers: Iterable[str]) -> float:
    """1.0 when the output equals one of the answers after `normalise`, else 0.0.

    Worked example: `exact_match("Two.", ["2"])` is 1.0; `exact_match("a red", ["blue"])` is 0.0.
    An output without words matches nothing, not even another one.

    Reference: Goyal et al., Making the V in VQA Matter, 2017, arXiv 1612.00837.
    """
    found, answers = normalise(output), read_references(answers, "exact match")
    return float(bool(found) and any(found == normalise(answer) for answer in answers))


def contains_answer(output: object, answers: Iterable[str]) -> float:
    """1.0 when the words of one of the answers stand in the output, side by side, both after
    `normalise`; else 0.0.

    Worked example: "It is a red star." contains ["red star"]; "it is scarred" does not contain
    ["red"]. An answer without words is contained in nothing. "not red" contains "red": the metric
    is for answers that nobody says in passing.
    """
    found = f" {normalise(output)} "
    wanted = (normalise(answer) for answer in read_references(answers, "a search for answers"))
    return float(any(answer and f" {answer} " in found for answer in wanted))
