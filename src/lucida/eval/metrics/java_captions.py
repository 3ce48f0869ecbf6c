"""METEOR and SPICE, which exist only as Java programs: optional, through pycocoevalcap.

Needs a Java runtime and `pip install pycocoevalcap` (104 MB with its jars). SPICE also fetches
Stanford's models when it first runs. Everything else that captions are scored with is pure Python.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from typing import Any

from lucida.core.errors import LucidaError
from lucida.eval.metrics.ngrams import check_captions
from lucida.eval.metrics.ptb import tokenize_lines

_SCORERS = {
    "METEOR": ("pycocoevalcap.meteor.meteor", "Meteor"),
    "SPICE": ("pycocoevalcap.spice.spice", "Spice"),
}


def meteor(
    predictions: Sequence[object], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """METEOR 1.5 of the corpus and of every caption, between 0 and 1.

    Raises LucidaError when Java or pycocoevalcap is missing or the program fails, and DataError
    like `ngrams.check_captions`.

    Reference: Denkowski and Lavie, Meteor Universal, 2014; called as in tylin/coco-caption.
    """
    corpus, each = _score("METEOR", predictions, references)
    return float(corpus), [float(score) for score in each]


def spice(
    predictions: Sequence[object], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """SPICE's F of the corpus and of every caption, between 0 and 1; errors like `meteor`.

    Reference: Anderson et al., SPICE, 2016, arXiv 1607.08822; called as in tylin/coco-caption.
    """
    corpus, each = _score("SPICE", predictions, references)
    return float(corpus), [float(score["All"]["f"]) for score in each]


def _score(
    name: str, predictions: Sequence[object], references: Sequence[Sequence[str]]
) -> tuple[float, Sequence[Any]]:
    check_captions(predictions, references)
    if not predictions:
        return 0.0, []
    if shutil.which("java") is None:
        raise LucidaError(
            f"{name} is a Java program and there is no `java` on the path",
            remedy="install a Java runtime (8 or later), or leave METEOR and SPICE out",
        )
    module, attribute = _SCORERS[name]
    try:
        scorer = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise LucidaError(
            f"{name} needs the package pycocoevalcap ({error})",
            remedy="pip install pycocoevalcap, or leave METEOR and SPICE out",
        ) from error
    ours = {i: [" ".join(tokens)] for i, tokens in enumerate(tokenize_lines(predictions))}
    every = iter(tokenize_lines([text for texts in references for text in texts]))
    theirs = {i: [" ".join(next(every)) for _ in texts] for i, texts in enumerate(references)}
    try:
        return scorer().compute_score(theirs, ours)
    except (OSError, ValueError, RuntimeError) as error:
        raise LucidaError(
            f"the Java program of {name} failed ({type(error).__name__}: {error})",
            remedy="see that `java -version` works; SPICE also needs Stanford's models (network)",
        ) from error
