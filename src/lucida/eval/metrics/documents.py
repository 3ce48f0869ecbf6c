"""Reading documents and signs: ANLS as its server counts it, OCRBench's search for the answer."""

from __future__ import annotations

from collections.abc import Sequence

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text
from lucida.eval.metrics.textvqa import edit_distance
from lucida.eval.metrics.vqa import check_references

THRESHOLD = 0.5


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
    check_references(answers, (max(1, len(answers)),), "ANLS")
    written = as_text(prediction)
    found, best = _plain(written), 0.0
    for answer in answers:
        wanted = _plain(answer)
        length = max(len(answer.upper()), len(written.upper()))
        if length == 0:
            return 1.0
        # The distance is at least the difference in length: a runaway output costs nothing.
        if 1 - abs(len(found) - len(wanted)) / length >= max(best, threshold):
            best = max(best, 1 - edit_distance(found, wanted) / length)
    return best if best >= threshold else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


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
    if not answers or not all(answer.strip() for answer in answers):
        raise DataError("OCRBench looks for an answer that is not empty", given=list(answers))
    output = as_text(prediction)
    if formula:
        spaceless = [
            text.strip().replace("\n", " ").replace(" ", "") for text in (output, *answers)
        ]
        return float(any(answer in spaceless[0] for answer in spaceless[1:]))
    found = output.lower().strip().replace("\n", " ")
    return float(any(answer.lower().strip().replace("\n", " ") in found for answer in answers))
