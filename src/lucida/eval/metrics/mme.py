"""MME: yes/no questions in pairs about one picture; accuracy and accuracy+ per category."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

PERCEPTION = [
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
"""The published categories, in the papers' order; full marks are 2000 and 800."""


def mme_label(text: object) -> Literal["yes", "no", "other"]:
    """The label the official script reads: from the whole answer or its first four characters.

    Lower case, no periods, no space at the ends; "y" and "n" alone count; then "yes" and after it
    "no" are looked for in the first four characters ("not sure" is no).

    Worked example: "Yes." -> yes; "No, it is" -> no; "I think so" -> other.

    Reference: Fu et al., MME, 2023, arXiv 2306.13394, evaluation tool.
    """
    output = as_text(text).lower().strip().replace(".", "")
    if output in ("y", "n"):
        return "yes" if output == "y" else "no"
    # Four characters hold "yes" behind one other; "no" is found in "note" and "know" too.
    start = output[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


@dataclass(frozen=True, slots=True)
class Category:
    """One category: accuracy over questions, accuracy+ over pictures, and 100 times their sum."""

    accuracy: float
    accuracy_plus: float
    score: float


@dataclass(frozen=True, slots=True)
class MmeScores:
    """Per category, and summed over perception, over cognition, and over everything given."""

    categories: dict[str, Category]
    perception: float
    cognition: float
    total: float


def mme_scores(answers: Iterable[tuple[str, str, bool]]) -> MmeScores:
    """The scores from (category, picture, right) of every question.

    accuracy+ counts a picture only when both its questions are right. Raises DataError when a
    picture of a category has not exactly two questions.

    Worked example: one category, picture 1 both right, picture 2 one of two: accuracy 3/4,
    accuracy+ 1/2, score 75 + 50 = 125 (of 200).

    Reference: Fu et al., MME, 2023, arXiv 2306.13394, section 2.2.
    """
    pictures: dict[str, dict[str, list[bool]]] = {}
    for category, picture, right in answers:
        pictures.setdefault(category, {}).setdefault(picture, []).append(bool(right))
    scores = {}
    for category, by_picture in pictures.items():
        for picture, rights in by_picture.items():
            if len(rights) != 2:
                raise DataError(
                    "MME asks two questions about a picture",
                    expected=2,
                    given=len(rights),
                    origin=f"{category}: {picture}",
                    remedy="score whole pairs; a subset must keep both questions",
                )
        accuracy = sum(map(sum, by_picture.values())) / (2 * len(by_picture))
        plus = sum(all(rights) for rights in by_picture.values()) / len(by_picture)
        scores[category] = Category(accuracy, plus, 100 * (accuracy + plus))
    return MmeScores(
        scores,
        perception=sum(scores[name].score for name in PERCEPTION if name in scores),
        cognition=sum(scores[name].score for name in COGNITION if name in scores),
        total=sum(category.score for category in scores.values()),
    )
