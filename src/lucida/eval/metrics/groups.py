"""Questions that are scored together: NaturalBench's groups of four, AMBER's rates of "no"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

WORDS = {"yes_no": ("yes", "no"), "multiple_choice": ("A", "B")}
"""The two answers of each kind of NaturalBench's questions."""

Place = tuple[int, int]
"""Number of the question and number of the picture, each 0 or 1."""
PLACES: tuple[Place, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))


def naturalbench_label(output: object, kind: str) -> str | None:
    """The answer that the official script reads: of the two words the one that comes first, in any
    case, None when neither is there.

    An "a" that is an article is the letter A, by its rule. DataError for another kind of question.

    Worked example: "No, yes." is no; "It is B" is B; "a dog, so B" is A; "maybe" is None.

    Reference: Li et al., NaturalBench, 2024, arXiv 2410.14669; its scorer (`extract_answer`), as
    lmms-eval carries it.
    """
    if kind not in WORDS:
        raise DataError(
            "NaturalBench asks no such kind of question", expected=" or ".join(WORDS), given=kind
        )
    text, places = as_text(output), {}
    for word in WORDS[kind]:
        found = re.search(rf"\b{word}\b", text, re.IGNORECASE)
        if found:
            places[word] = found.start()
    return min(places, key=places.__getitem__) if places else None


def naturalbench_scores(groups: Iterable[Mapping[Place, bool]]) -> dict[str, float]:
    """Acc, Q_Acc, I_Acc and G_Acc, shares of all questions, of pairs and of groups.

    A group is two questions about two pictures whose answers are exchanged. Q_Acc: a question is
    right about both pictures; I_Acc: both questions are right about a picture; G_Acc: all four.
    DataError when a group lacks one of the four.

    Worked example: all right but question 0 about picture 1: Acc 3/4, Q_Acc 1/2, I_Acc 1/2,
    G_Acc 0.

    Reference: Li et al., NaturalBench, 2024, arXiv 2410.14669, section 3; `get_scores`.
    """
    sums, count = dict.fromkeys(("Acc", "Q_Acc", "I_Acc", "G_Acc"), 0.0), 0
    for right in groups:
        if set(right) != set(PLACES):
            raise DataError(
                "a group of NaturalBench is two questions about two pictures",
                expected=4,
                given=len(right),
                remedy="score whole groups",
            )
        count += 1
        sums["Acc"] += sum(right.values()) / 4
        sums["Q_Acc"] += sum(right[n, 0] and right[n, 1] for n in (0, 1)) / 2
        sums["I_Acc"] += sum(right[0, n] and right[1, n] for n in (0, 1)) / 2
        sums["G_Acc"] += all(right.values())
    return {name: value / count if count else 0.0 for name, value in sums.items()}


@dataclass(frozen=True, slots=True)
class NoRates:
    """Rates with "no" as the positive class; a rate with nothing to divide by is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float


def amber_label(output: object) -> Literal["yes", "no"] | None:
    """The answer that AMBER's script accepts: Yes or No, exactly; None for anything else.

    Worked example: "No" is no; "no", "No." and "No, there is none" are nothing.

    Reference: Wang et al., AMBER, 2023, arXiv 2311.07397; junyangwang0410/AMBER, inference.py.
    """
    return {"Yes": "yes", "No": "no"}.get(as_text(output))


def amber_rates(said: Iterable[str | None], truth: Iterable[str]) -> NoRates:
    """AMBER's accuracy, precision, recall and F1 of saying "no" (the thing, the attribute or the
    relation is not there); None is neither answer.

    F1 is 2PR / (P + R + 0.0001), as published; the script rounds P and R to three digits before,
    here nothing is rounded. ValueError when the two differ in length.

    Worked example: said no no yes None, truth no yes yes no: accuracy 2/4, precision 1/2, recall
    1/2, F1 0.49995.

    Reference: Wang et al., AMBER, 2023, arXiv 2311.07397, section 3.3; its inference.py.
    """
    pairs = list(zip(said, truth, strict=True))
    hits = sum(s == "no" and t == "no" for s, t in pairs)
    precision = _share(hits, sum(s == "no" for s, _ in pairs))
    recall = _share(hits, sum(t == "no" for _, t in pairs))
    accuracy = _share(sum(s == t for s, t in pairs), len(pairs))
    return NoRates(
        accuracy, precision, recall, 2 * precision * recall / (precision + recall + 1e-4)
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
