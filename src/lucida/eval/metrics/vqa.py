"""VQA soft accuracy: how many of the ten annotators gave the model's short answer.

Three definitions of "official" are in use, so the variant has a name and is to be reported with
the number:

    normalised   prediction and references are always normalised. The default.
    strict       the published script since 2021: both are normalised only when the ten references
                 differ; against ten equal references "Yes." scores 0 when all ten say "yes".
    lmms         lmms-eval. On VQAv2 it is `normalised` but for "1,,000" (a run of commas between
                 digits deletes commas); on OK-VQA and VizWiz it is the TextVQA normaliser.

VizWiz has its own script (`vizwiz_score`): references are taken as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lucida.core.errors import DataError
from lucida.eval.metrics.answers import (
    clean,
    normalise,
    normalise_lmms,
    normalise_m4c,
    normalise_vizwiz,
)
from lucida.eval.metrics.outputs import read_references
from lucida.eval.metrics.yesno import average_precision

VqaVariant = Literal["normalised", "strict", "lmms"]
VARIANTS: tuple[str, ...] = ("normalised", "strict", "lmms")


def soft_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Mean over the annotators of min(1, matches among the others / 3), by plain equality.

    Worked example, ten annotators: 0, 1, 2, 3, 4 matches give 0, 0.3, 0.6, 0.9, 1. With 2 matches:
    the two matching annotators see 1 other match each (1/3), the eight others see 2 (2/3), so
    (2 * 1/3 + 8 * 2/3) / 10 = 0.6.

    Reference: Antol et al., VQA: Visual Question Answering, 2015, arXiv 1505.00468.
    """
    total, matches = len(references), sum(prediction == reference for reference in references)
    seen_by_matching = min(1.0, (matches - 1) / 3) if matches else 0.0
    seen_by_others = min(1.0, matches / 3)
    return (matches * seen_by_matching + (total - matches) * seen_by_others) / total


def vqa_score(
    prediction: object,
    answers: Sequence[str],
    variant: VqaVariant = "normalised",
    annotators: int = 10,
) -> float:
    """VQAv2's accuracy of one answer, between 0 and 1.

    Raises DataError unless there are `annotators` answers, or when the variant is unknown.

    Worked example: "Two." against 3 x "2" and 7 x "3" has 3 matches: 0.9. "Yes." against 10 x "yes"
    is 1 normalised and 0 strict.

    Reference: Goyal et al., Making the V in VQA Matter, 2017, arXiv 1612.00837, evaluation code.
    """
    answers = read_references(answers, "VQA accuracy", (annotators,))
    if variant == "strict":
        found, references = clean(prediction), [clean(answer) for answer in answers]
        if len(set(references)) > 1:
            found, references = normalise(found), [normalise(answer) for answer in references]
    elif variant in ("normalised", "lmms"):
        change = normalise if variant == "normalised" else normalise_lmms
        found, references = change(prediction), [change(answer) for answer in answers]
    else:
        raise _unknown(variant)
    return soft_accuracy(found, references)


def okvqa_score(
    prediction: object, answers: Sequence[str], variant: VqaVariant = "normalised"
) -> float:
    """OK-VQA's accuracy: five annotators, each counted twice, then VQAv2's rule.

    `answers` are five, or the ten of the released file (its `answer` field, which is stemmed; the
    script compares the text as it is, so a prediction is not stemmed here). One matching annotator
    of five scores 0.6, two score 1. Variant lmms is lmms-eval's: TextVQA's normaliser.

    Worked example: "dog" against dog, cat, cow, hen, pig: 2 of 10 match, so 0.6.

    Reference: Marino et al., OK-VQA, 2019, arXiv 1906.00067.
    """
    answers = read_references(answers, "OK-VQA accuracy", (5, 10))
    # Five annotators twice each; the released ten stay as they are.
    ten = [answer for answer in answers for _ in range(10 // len(answers))]
    if variant == "lmms":
        return _lmms_score(prediction, ten)
    return vqa_score(prediction, ten, variant)


def vizwiz_score(
    prediction: object, answers: Sequence[str], variant: VqaVariant = "normalised"
) -> float:
    """VizWiz's accuracy of one answer against ten: only the prediction is normalised.

    The script takes the references as they stand, always; `normalised` and `strict` are the same.
    Its table restores contractions with a typographic apostrophe. Variant lmms is lmms-eval's:
    TextVQA's normaliser on both sides.

    Worked example: "The dog." against 10 x "dog" is 1, against 10 x "the dog" it is 0.

    Reference: Gurari et al., VizWiz Grand Challenge, 2018, arXiv 1802.08218, evaluation code.
    """
    answers = read_references(answers, "VizWiz accuracy", (10,))
    if variant == "lmms":
        return _lmms_score(prediction, answers)
    if variant not in VARIANTS:
        raise _unknown(variant)
    return soft_accuracy(normalise_vizwiz(prediction), answers)


def _lmms_score(prediction: object, answers: Sequence[str]) -> float:
    return soft_accuracy(normalise_m4c(prediction), [normalise_m4c(answer) for answer in answers])


def _unknown(variant: object) -> DataError:
    return DataError(
        "no such variant of VQA accuracy", expected=" or ".join(VARIANTS), given=variant
    )


def answerability(unanswerable: Sequence[float], answerable: Sequence[bool]) -> dict[str, float]:
    """VizWiz's second task: average precision and F1 of recognising what cannot be answered.

    `unanswerable` is the model's confidence, in [0, 1], that there is no answer; a question counts
    as recognised above 0.5. Without confidences, pass 1.0 where the normalised answer is
    "unanswerable" and 0.0 elsewhere (vlm-evaluation does). F1 is 0 when nothing is recognised.

    Worked example: confidences 0.9, 0.6, 0.2 of questions unanswerable, answerable, unanswerable:
    AP = 1 * 1/2 + 2/3 * 1/2 = 0.833; recognised are two, one of them rightly, of two: F1 0.5.

    Reference: Gurari et al., VizWiz Grand Challenge, 2018, arXiv 1802.08218, section 5.
    """
    truth = [not able for able in answerable]
    precision = average_precision(unanswerable, truth)
    found = [confidence > 0.5 for confidence in unanswerable]
    hits = sum(said and is_so for said, is_so in zip(found, truth, strict=True))
    positives = sum(found) + sum(truth)
    return {"AP": precision, "F1": 2 * hits / positives if positives else 0.0}
