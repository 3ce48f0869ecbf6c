"""Captions: BLEU-1..4 and ROUGE-L as coco-caption computes them, and all scores in one call.

Everything works on tokens; `score_captions` takes texts and tokenises them as one file of
predictions and one of references, which is how the official pipeline reads them.
CIDEr-D is in `cider`, METEOR and SPICE (Java) in `java_captions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lucida.eval.metrics.cider import cider_d
from lucida.eval.metrics.ngrams import LONGEST, Counts, check_captions, count_ngrams, find
from lucida.eval.metrics.ptb import tokenize_lines

_TINY, _SMALL = 1e-15, 1e-9  # the published smoothing: (matches + 1e-15) / (guesses + 1e-9)
_BETA = 1.2

Tokens = Sequence[str]


def _words(tokens: Tokens) -> list[str]:
    """BLEU and CIDEr split tokens once more: "1 1/2" is one token of two words."""
    return [word for token in tokens for word in token.split()]


def _bleu(
    correct: np.ndarray, guesses: np.ndarray, lengths: np.ndarray, closest: np.ndarray
) -> np.ndarray:
    """BLEU-1..4 from counts: [..., 4], [..., 4], [...], [...] -> [..., 4]."""
    ratio = (lengths + _TINY) / (closest + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    # Products of the precisions of 1 .. n words, whose n-th root is their geometric mean.
    precision = np.cumprod((correct + _TINY) / (guesses + _SMALL), axis=-1)
    return precision ** (1 / np.arange(1, LONGEST + 1)) * brevity[..., None]


def bleu(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[list[float], list[list[float]]]:
    """BLEU-1..4 of the corpus, and of every caption: (4 numbers, per caption 4 numbers).

    Clipped n-gram precision, geometric mean up to n, and a penalty for captions shorter than their
    closest reference (of two equally close ones the shorter). The corpus is scored from summed
    counts; it is not the mean of the captions. Raises DataError when the two differ in length or a
    caption has no reference.

    Worked example: "a red star" against "a red star here": every n-gram is right for n <= 3 and the
    penalty is exp(1 - 4/3) = 0.717, so BLEU-1, -2, -3 are 0.717; there is no 4-gram, and the
    published smoothing makes BLEU-4 0.023.

    Reference: Papineni et al., BLEU, 2002; constants as in tylin/coco-caption.
    """
    check_captions(candidates, references)
    if not candidates:
        return [0.0] * LONGEST, []
    images = len(candidates)
    captions = [*candidates, *(tokens for group in references for tokens in group)]
    groups = np.repeat(np.arange(images), [len(group) for group in references])
    owner = np.concatenate([np.arange(images), groups])
    correct = np.stack([_clip_counts(c, owner, images) for c in count_ngrams(captions)], axis=1)
    lengths = np.array([len(tokens) for tokens in candidates])
    guesses = np.maximum(lengths[:, None] - np.arange(LONGEST), 0)
    closest = np.array(
        [
            min((abs(len(r) - own), len(r)) for r in group)[1]
            for own, group in zip(lengths, references, strict=True)
        ]
    )
    corpus = _bleu(correct.sum(0), guesses.sum(0), lengths.sum(), closest.sum())
    return corpus.tolist(), _bleu(correct, guesses, lengths, closest).tolist()


def _clip_counts(counts: Counts, owner: np.ndarray, images: int) -> np.ndarray:
    """Matches of every candidate for one n: counts no higher than in the reference with most."""
    # (image, n-gram) as one number, so that a candidate meets all references of its own image.
    key = owner[counts.caption] * max(1, counts.kinds) + counts.gram
    is_reference = counts.caption >= images
    in_reference, in_candidate = find(key[is_reference], key[~is_reference])
    own = counts.count[~is_reference]
    most = np.zeros_like(own)
    np.maximum.at(most, in_candidate, counts.count[is_reference][in_reference])
    matches = np.bincount(
        counts.caption[~is_reference], weights=np.minimum(own, most), minlength=images
    )
    return matches[:images]


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """Length of the longest sequence that both contain in order, gaps allowed.

    Bit-parallel: one integer holds a row of the usual table.

    Worked example: "a red star" and "a big red" share "a red": 2.

    Reference: Hyyro, Bit-parallel LCS-length computation revisited, 2004.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    # A 0 at bit i: the table's row rises by one at token i. Adding the matches carries each up to
    # the next 0, which becomes 1 and leaves a 0 at the match: the step moves down to it.
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


def rouge_l(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L of one caption: F-measure of the best precision and the best recall, beta 1.2.

    The two maxima are taken over the references separately, as coco-caption does. The corpus score
    is the mean. Raises DataError without a reference; a caption without tokens scores 0.

    Worked example: "a red star" against "a big red star" shares 3: precision 1, recall 0.75, so
    (1 + 1.44) * 0.75 / (0.75 + 1.44) = 0.836.

    Reference: Lin, ROUGE, 2004; beta as in tylin/coco-caption.
    """
    check_captions([candidate], [references])
    shared = [longest_common_subsequence(candidate, reference) for reference in references]
    precision = max(n / len(candidate) if candidate else 0.0 for n in shared)
    recall = max(n / len(r) if r else 0.0 for n, r in zip(shared, references, strict=True))
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def score_captions(
    predictions: Sequence[object], references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """CIDEr-D, BLEU-1..4 and ROUGE-L of caption texts, as coco-caption reports them.

    Under "per_image" the same names give a list with one score per image. CIDEr-D is 0 to 10, the
    others 0 to 1. Weights of CIDEr-D come from these very references, so scores of different
    subsets cannot be compared. None is an empty caption. Raises DataError like `check_captions`.

    Worked example: with the prediction equal to a reference everywhere, ROUGE-L is 1.0 and BLEU-4
    is 1.0 for captions of at least four words.

    Reference: Chen et al., Microsoft COCO Captions, 2015, arXiv 1504.00325.
    """
    check_captions(predictions, references)
    candidates = tokenize_lines(predictions)
    every = iter(tokenize_lines([text for captions in references for text in captions]))
    truths = [[next(every) for _ in captions] for captions in references]
    words = [_words(tokens) for tokens in candidates]
    true_words = [[_words(tokens) for tokens in captions] for captions in truths]
    cider = cider_d(words, true_words)
    corpus_bleu, image_bleu = bleu(words, true_words)
    rouge = [rouge_l(c, r) for c, r in zip(candidates, truths, strict=True)]
    names = [f"BLEU-{n}" for n in range(1, LONGEST + 1)]
    per_image = {"CIDEr-D": cider, "ROUGE-L": rouge}
    per_image |= {name: [row[i] for row in image_bleu] for i, name in enumerate(names)}
    return {
        "CIDEr-D": _mean(cider),
        "ROUGE-L": _mean(rouge),
        **dict(zip(names, corpus_bleu, strict=True)),
        "per_image": per_image,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
