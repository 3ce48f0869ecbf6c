"""POPE: does the model see objects that are not there? Yes/no labels and their rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lucida.core.errors import DataError
from lucida.eval.metrics.outputs import as_text

_NO_WORDS = frozenset({"No", "not", "no"})


def pope_label(text: object) -> Literal["yes", "no"]:
    """The label the official script reads from an answer.

    Of the text before the first period, without commas, split at single spaces: "no" when one of
    the words is No, no or not; "yes" otherwise. So "NO", "no!", "nope", "There isn't" and the empty
    answer count as yes.

    Worked example: "No, there is none." -> no; "Yes. No." -> yes; "It is not a dog" -> no.

    Reference: Li et al., Evaluating Object Hallucination in LVLMs, 2023, arXiv 2305.10355.
    """
    # Single spaces only: "No\n" is no word of the three, so it says yes.
    words = as_text(text).split(".")[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS.intersection(words) else "yes"


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates with "yes" as the positive class; a rate with nothing to divide by is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def pope_rates(predicted: Iterable[str], truth: Iterable[str]) -> Rates:
    """Accuracy, precision, recall, F1 and the share of predictions that say yes.

    Both hold labels, "yes" or "no" (of model outputs: `pope_label`); a truth may be written "Yes".
    Raises DataError for another label and ValueError when the two differ in length.

    Worked example: predicted yes yes no no, truth yes no yes no: one of each outcome, so accuracy,
    precision, recall and F1 are 0.5 and the yes ratio is 0.5.

    Reference: Li et al., Evaluating Object Hallucination in LVLMs, 2023, arXiv 2305.10355.
    """
    outcomes = [(_says_yes(p), _says_yes(t)) for p, t in zip(predicted, truth, strict=True)]
    right = sum(said == is_so for said, is_so in outcomes)
    hits = sum(said and is_so for said, is_so in outcomes)
    said_yes = sum(said for said, _ in outcomes)
    truly_yes = sum(is_so for _, is_so in outcomes)
    return Rates(
        accuracy=_share(right, len(outcomes)),
        precision=_share(hits, said_yes),
        recall=_share(hits, truly_yes),
        f1=_share(2 * hits, said_yes + truly_yes),
        yes_ratio=_share(said_yes, len(outcomes)),
    )


def _says_yes(label: str) -> bool:
    word = str(label).strip().lower()
    if word not in ("yes", "no"):
        raise DataError("a POPE label is neither yes nor no", expected="yes or no", given=label)
    return word == "yes"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
