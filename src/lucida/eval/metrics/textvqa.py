"""TextVQA: soft accuracy by M4C's evaluator, and ANLS for reading in general."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.eval.metrics.answers import normalise_m4c
from lucida.eval.metrics.outputs import as_text
from lucida.eval.metrics.vqa import check_references, soft_accuracy


def m4c_score(prediction: object, answers: Sequence[str]) -> float:
    """TextVQA's accuracy of one answer against exactly ten, between 0 and 1; else DataError.

    Worked example: "STOP!" against 4 x "stop" and 6 x "go" is 1; against 1 x "stop", 0.3.

    Reference: Singh et al., Towards VQA Models That Can Read, 2019, arXiv 1904.08920.
    """
    check_references(answers, (10,), "TextVQA accuracy")
    return soft_accuracy(normalise_m4c(prediction), [normalise_m4c(answer) for answer in answers])


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of characters that turn one into the other.

    Worked example: "kitten" to "sitting" is 3.

    Reference: Levenshtein, Binary codes capable of correcting deletions, insertions, and
    reversals, 1966.
    """
    # One row of the usual table; `diagonal` is what stood above and to the left.
    row = list(range(len(second) + 1))
    for i, mark in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            changed = diagonal + (mark != other)
            diagonal = row[j]
            row[j] = min(changed, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def anls(prediction: object, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Best similarity 1 - distance / longer length to any answer; below the threshold 0.

    Compared in lower case without space at the ends. Two empty texts are equal: 1. Raises DataError
    without an answer.

    Worked example: "Stop" against ["shop"] is 1 - 1/4 = 0.75; "go" against ["stop"] is 0.25, so 0.

    Reference: Biten et al., Scene Text Visual Question Answering, 2019, arXiv 1905.13648.
    """
    check_references(answers, tuple(range(1, max(2, len(answers) + 1))), "ANLS")
    found = as_text(prediction).lower().strip()
    best = 0.0
    for answer in answers:
        wanted = answer.lower().strip()
        longer, shorter = max(len(found), len(wanted)), min(len(found), len(wanted))
        if longer == 0:
            return 1.0
        # The distance is at least the difference in length: a runaway output costs nothing.
        if shorter / longer >= threshold:
            best = max(best, 1 - edit_distance(found, wanted) / longer)
    return best if best >= threshold else 0.0
