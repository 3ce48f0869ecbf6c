"""DROP: exact match and F1 of answers that are numbers, dates or several spans."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_SEPARATOR = re.compile("[ -]")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Spans = str | Sequence[str]
"""One span, or all the spans of an answer."""


def _as_number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def normalise(text: object) -> str:
    """A span as DROP compares it: lower case, no punctuation, no articles, numbers as floats.

    Split at spaces and hyphens first; a word that reads as a number keeps its period and sign.

    Worked example: "The 3-yard run" -> "3.0 yard run"; "1,000" -> "1000.0"; "two" -> "two".

    Reference: Dua et al., DROP, 2019, arXiv 1903.00161, evaluation code.
    """
    words = []
    for word in _SEPARATOR.split(as_text(text)):
        plain = word.lower()
        if _as_number(plain) is None:
            plain = plain.translate(_NO_PUNCTUATION)
        value = _as_number(plain)
        plain = plain if value is None else str(value)
        words += _ARTICLE.sub(" ", plain).split()
    return " ".join(words)


def drop_score(prediction: object, answers: Sequence[Spans]) -> tuple[float, float]:
    """(exact match, F1) of a prediction: each the best over the alternative answers.

    Every answer is one span or a list of spans (all of them together are the answer); so is the
    prediction. Alternatives whose first span is blank are passed over, as in the official script.
    Raises DataError when there is no answer.

    F1: spans are bags of words, paired one to one for the largest sum; a pair scores 0 when the
    truth has numbers and none of them is in the prediction. The mean is over the longer side, and
    rounded to two decimals.

    Worked example: "3 yards" against ["3"] is (0, 0.67): precision 1/2, recall 1. "4 yards" against
    "3 yards" is (0, 0). "red, blue" as one span against ["red", "blue"]: only one span can be
    paired, precision 1/2 and recall 1 (0.67), and the mean over two spans is 0.33.

    Reference: Dua et al., DROP, 2019, arXiv 1903.00161, evaluation code.
    """
    if isinstance(answers, str) or not answers:
        raise DataError(
            "DROP needs a list of alternative answers", expected="one or more", given=answers
        )
    spans, bags = _bags(prediction)
    best_match, best_f1 = 0.0, 0.0
    for answer in answers:
        truths = [answer] if isinstance(answer, str) else list(answer)
        if not truths or not truths[0].strip():
            continue
        wanted_spans, wanted_bags = _bags(truths)
        same = set(spans) == set(wanted_spans) and len(spans) == len(wanted_spans)
        best_match = max(best_match, float(same))
        best_f1 = max(best_f1, _aligned_f1(bags, wanted_bags))
    return best_match, best_f1


def _bags(answer: object) -> tuple[list[str], list[frozenset[str]]]:
    several = isinstance(answer, Sequence) and not isinstance(answer, str | bytes | bytearray)
    spans = [normalise(span) for span in (answer if several else [answer])]
    return spans, [frozenset(span.split()) for span in spans]


def _aligned_f1(predicted: list[frozenset[str]], wanted: list[frozenset[str]]) -> float:
    gains = [[_pair_f1(bag, truth) for bag in predicted] for truth in wanted]
    total = best_assignment(gains)
    return round(total / max(len(predicted), len(wanted)), 2)


def _pair_f1(predicted: frozenset[str], wanted: frozenset[str]) -> float:
    numbers = {word for word in wanted if _as_number(word) is not None}
    if numbers and not numbers & predicted:
        return 0.0
    shared = len(predicted & wanted)
    precision = shared / len(predicted) if predicted else 1.0
    recall = shared / len(wanted) if wanted else 1.0
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def best_assignment(gains: Sequence[Sequence[float]]) -> float:
    """Largest sum of gains when rows and columns are paired one to one.

    The Hungarian method with potentials, O(rows squared x columns); no numpy, no scipy.

    Worked example: [[0.5, 1], [0.25, 0.75]] is 1.25 either way; [[1, 0], [1, 0]] is 1.

    Reference: Kuhn, The Hungarian method for the assignment problem, 1955.
    """
    if not gains or not gains[0]:
        return 0.0
    if len(gains) > len(gains[0]):
        gains = list(zip(*gains, strict=True))
    # Costs are gains turned round. Throughout, cost - of_row - of_column is nowhere negative, and 0
    # where a row has its column; each row is let in by the cheapest chain of exchanges.
    rows, columns = len(gains), len(gains[0])
    of_row, of_column = [0.0] * (rows + 1), [0.0] * (columns + 1)
    owner = [0] * (columns + 1)  # row (from 1) that holds the column; column 0 is the way in
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        slack, before = [float("inf")] * (columns + 1), [0] * (columns + 1)
        visited = [False] * (columns + 1)
        while owner[column]:
            visited[column] = True
            current, delta, following = owner[column], float("inf"), 0
            for j in range(1, columns + 1):
                if visited[j]:
                    continue
                cost = -gains[current - 1][j - 1] - of_row[current] - of_column[j]
                if cost < slack[j]:
                    slack[j], before[j] = cost, column
                if slack[j] < delta:
                    delta, following = slack[j], j
            # Shift the potentials until one more edge out of the tree costs nothing.
            for j in range(columns + 1):
                if visited[j]:
                    of_row[owner[j]] += delta
                    of_column[j] -= delta
                else:
                    slack[j] -= delta
            column = following
        # Hand every column on the chain to the row before it, back to the way in.
        while column:
            owner[column] = owner[before[column]]
            column = before[column]
    return sum(gains[owner[j] - 1][j - 1] for j in range(1, columns + 1) if owner[j])
