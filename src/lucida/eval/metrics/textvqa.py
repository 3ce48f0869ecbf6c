"""TextVQA: soft accuracy by M4C's evaluator."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.eval.metrics.answers import normalise_m4c
from lucida.eval.metrics.outputs import read_references
from lucida.eval.metrics.vqa import soft_accuracy


def m4c_score(prediction: object, answers: Sequence[str]) -> float:
    """TextVQA's accuracy of one answer against exactly ten, between 0 and 1; else DataError.

    Worked example: "STOP!" against 4 x "stop" and 6 x "go" is 1; against 1 x "stop", 0.3.

    Reference: Singh et al., Towards VQA Models That Can Read, 2019, arXiv 1904.08920.
    """
    answers = read_references(answers, "TextVQA accuracy", (10,))
    return soft_accuracy(normalise_m4c(prediction), [normalise_m4c(answer) for answer in answers])
