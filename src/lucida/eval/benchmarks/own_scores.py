"""What an output is worth beside the answer of a record, by each metric of one's own records."""

from __future__ import annotations

import re

from lucida.eval.benchmark import Example, Parsed
from lucida.eval.metrics.answers import normalise
from lucida.eval.metrics.boxes import Box, as_box, box_hit, iou
from lucida.eval.metrics.documents import anls
from lucida.eval.metrics.exact import contains_answer, exact_match
from lucida.eval.metrics.relaxed import relaxed_accuracy
from lucida.eval.metrics.vqa import soft_accuracy


def overlap(found: Parsed, truth: Box) -> float:
    """IoU with the true box, 0 of what is no box."""
    box = as_box(found)
    return 0.0 if box is None else iou(box, truth)


def score(metric: str, example: Example, parsed: Parsed) -> float:
    """What one output is worth by a metric that looks at each example by itself.

    `vqa`: with one answer equality after VQAv2's normaliser, with several its consensus. `regex`:
    the pattern is searched for in any case of letters.
    """
    answers = example.answers
    if metric == "iou":
        return box_hit(parsed, example.box)
    if metric == "letter":
        return float(parsed in answers)
    if metric == "vqa":
        said, wanted = normalise(parsed), [normalise(answer) for answer in answers]
        return float(said == wanted[0]) if len(wanted) == 1 else soft_accuracy(said, wanted)
    if metric == "regex":
        return float(any(re.search(a, parsed or "", re.IGNORECASE) for a in answers))
    compare = {
        "exact": exact_match,
        "contains": contains_answer,
        "anls": anls,
        "relaxed": relaxed_accuracy,
    }[metric]
    return compare(parsed, answers)
