"""GQA: one answer, right or wrong, under one of three notions of equality.

official   the published script: the very same text
llava      LLaVA's conversion before the script: trailing periods go, lower case
lmms       lmms-eval: lower case and no ASCII punctuation, on both sides
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Literal

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

GqaVariant = Literal["official", "llava", "lmms"]
VARIANTS: tuple[str, ...] = ("official", "llava", "lmms")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def gqa_match(prediction: object, answer: str, variant: GqaVariant = "official") -> float:
    """1.0 when the prediction equals the answer under the variant, else 0.0.

    Worked example, answer "t-shirt": "t-shirt" is right everywhere, "T-shirt." with llava and lmms,
    "tshirt" with lmms only.

    Reference: Hudson and Manning, GQA, 2019, arXiv 1902.09506; variants: LLaVA's
    convert_gqa_for_eval, lmms-eval's exact_match.
    """
    found = as_text(prediction)
    if variant == "official":
        return float(found == answer)
    if variant == "llava":
        return float(found.rstrip(".").lower() == answer)
    if variant == "lmms":
        return float(_bare(found) == _bare(answer))
    raise DataError(
        "no such variant of GQA accuracy", expected=" or ".join(VARIANTS), given=variant
    )


def gqa_consistency(
    right: Mapping[str, float], entailed: Mapping[str, Sequence[str]]
) -> tuple[float, int]:
    """How often a model that answers a question rightly also answers what follows from the answer:
    the mean share over the questions answered rightly that entail others, and how many those are.

    `right` has the score (0 or 1) of every question, `entailed` the questions that each one entails
    (itself among them does not count). 0 of 0 where there is none. DataError: an entailed question
    without a score.

    Worked example: q1 is right and entails a (right) and b (wrong): 1/2. q2 is wrong and entails c:
    it does not count. q3 is right and entails c (right): 1. Consistency is 0.75, of 2 questions.

    Reference: Hudson and Manning, GQA, 2019, arXiv 1902.09506, section 4.4; the published eval.py.
    """
    shares = []
    for question, follow in entailed.items():
        others = [each for each in follow if each != question]
        missing = [each for each in (question, *others) if each not in right]
        if missing:
            raise DataError(
                "consistency needs the answers to all entailed questions",
                expected=f"an answer to {missing[0]}",
                given="none",
                origin=f"question {question}",
            )
        if right[question] and others:
            shares.append(sum(right[each] for each in others) / len(others))
    return (sum(shares) / len(shares) if shares else 0.0), len(shares)


def _bare(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION)
