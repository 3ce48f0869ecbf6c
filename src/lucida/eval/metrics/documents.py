"""Reading documents and signs: ANLS, also as its server counts it, OCRBench's search for the
answer."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text, read_references

THRESHOLD = 0.5


def _read_answers(answers: Sequence[str]) -> list[str]:
    """References of which the nearest counts; DataError where there are none."""
    if not (texts := read_references(answers, "ANLS")):
        raise DataError("ANLS needs a list of references", expected="one or more", given=0)
    return texts


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


def anls(prediction: object, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Best similarity 1 - distance / longer length to any answer; below the threshold 0.

    Compared in lower case without space at the ends. Two empty texts are equal: 1. Raises DataError
    without an answer.

    Worked example: "Stop" against ["shop"] is 1 - 1/4 = 0.75; "go" against ["stop"] is 0.25, so 0.

    Reference: Biten et al., Scene Text Visual Question Answering, 2019, arXiv 1905.13648.
    """
    answers = _read_answers(answers)
    found = as_text(prediction).lower().strip()
    texts = [answer.lower().strip() for answer in answers]
    lengths = [max(len(found), len(text)) for text in texts]
    return _find_nearest(found, texts, lengths, threshold)


def rrc_anls(prediction: object, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """ANLS of one answer as the server of DocVQA and InfographicVQA counts it, between 0 and 1.

    The distance is between lower-cased texts with single spaces, but it is divided by the longer of
    the texts as they were written, in capitals: space at the ends or in a row makes a wrong answer
    less wrong, and ß is two letters. Below the threshold a similarity counts as 0. DataError
    without an answer.

    Worked example: "Stop" against ["shop"] is 1 - 1/4 = 0.75, "Stop  " against it 1 - 1/6 = 0.833;
    "go" against ["stop"] is 0.25, so 0.

    Reference: the Robust Reading Competition's evaluation script of Document VQA (rrc.cvc.uab.es,
    challenge 17), as VLMEvalKit and many others carry it; Biten et al., Scene Text Visual Question
    Answering, 2019, arXiv 1905.13648.
    """
    answers = _read_answers(answers)
    written = as_text(prediction)
    found, *texts = (" ".join(text.lower().split()) for text in (written, *answers))
    lengths = [max(len(answer.upper()), len(written.upper())) for answer in answers]
    return _find_nearest(found, texts, lengths, threshold)


def _find_nearest(
    found: str, texts: Sequence[str], lengths: Sequence[int], threshold: float
) -> float:
    """The best of 1 - distance / length; what is below the threshold is 0, two empty texts 1."""
    best = 0.0
    for text, length in zip(texts, lengths, strict=True):
        if length == 0:
            return 1.0
        # The distance is at least the difference in length: a runaway output costs nothing.
        if 1 - abs(len(found) - len(text)) / length >= max(best, threshold):
            best = max(best, 1 - edit_distance(found, text) / length)
    return best if best >= threshold else 0.0


def ocrbench_match(prediction: object, answers: Sequence[str], formula: bool = False) -> float:
    """1.0 when one of the answers stands in the output, else 0.0, as OCRBench counts.

    Case does not matter and line ends are spaces; in a `formula` (HME100k) case matters and spaces
    do not. An answer within a word counts ("art" in "start"). DataError for an empty answer, which
    stands in everything.

    Worked example: "The word is centre." has ["CENTRE"]; "x + 1" has the formula ["x+1"], "X+1" has
    not.

    Reference: Liu et al., OCRBench, 2023, arXiv 2305.07895; Yuliang-Liu/MultimodalOCR,
    OCRBench/example.py.
    """
    answers = read_references(answers, "OCRBench's search")
    if not answers or not all(answer.strip() for answer in answers):
        raise DataError("OCRBench looks for an answer that is not empty", given=answers)
    output = as_text(prediction)
    if formula:
        spaceless = [
            text.strip().replace("\n", " ").replace(" ", "") for text in (output, *answers)
        ]
        return float(any(answer in spaceless[0] for answer in spaceless[1:]))
    found = output.lower().strip().replace("\n", " ")
    return float(any(answer.lower().strip().replace("\n", " ") in found for answer in answers))
