"""CIDEr-D: how much a caption says of what people say about this picture and not about others.

This is what coco-caption prints as "CIDEr". The weight of an n-gram comes from the references of
the images that are evaluated together, so scores depend on the set: never compare across subsets,
and one image alone always scores 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 4
"""n-grams of 1 to 4 words."""
SIGMA = 6.0
"""Width of the Gaussian penalty on the difference in length."""

_WORD = re.compile(r"\w+(?:'\w+)?")

Vector = dict[tuple[str, ...], float]


def tokenize(text: str) -> list[str]:
    """Lower-case runs of letters and digits, an inner apostrophe kept; all else separates.

    A stand-in for Stanford's PTB tokenizer. On COCO captions, splitting at non-word characters
    moves the corpus score by about +0.003 of 0.89.

    Worked example: "A red star, beside Tom's box." -> a red star beside tom's box
    """
    return _WORD.findall(text.lower())


def count_ngrams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How often each n-gram of 1 to 4 tokens occurs."""
    counts: Counter[tuple[str, ...]] = Counter()
    for n in range(1, LONGEST + 1):
        counts.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return counts


class _Caption:
    """One caption as n-gram weights: per n a vector, its norm, and the length in bigrams."""

    __slots__ = ("length", "norms", "vectors")

    def __init__(self, counts: Counter[tuple[str, ...]], rarity: Vector, unseen: float) -> None:
        self.vectors: list[Vector] = [{} for _ in range(LONGEST)]
        squares = [0.0] * LONGEST
        self.length = 0  # in bigrams, as the official code counts it
        for ngram, count in counts.items():
            place = len(ngram) - 1
            weight = count * rarity.get(ngram, unseen)
            self.vectors[place][ngram] = weight
            squares[place] += weight * weight
            if len(ngram) == 2:
                self.length += count
        self.norms = [math.sqrt(square) for square in squares]


def _similarity(candidate: _Caption, reference: _Caption) -> float:
    """Mean over n of the clipped cosine, damped by the difference in length."""
    total = 0.0
    for place in range(LONGEST):
        norms = candidate.norms[place] * reference.norms[place]
        if norms == 0.0:
            continue
        other = reference.vectors[place]
        shared = 0.0
        for ngram, weight in candidate.vectors[place].items():
            known = other.get(ngram)
            if known is not None:
                shared += min(weight, known) * known
        total += shared / norms
    difference = candidate.length - reference.length
    return total / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))


def cider_d(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
) -> list[float]:
    """The CIDEr-D score of every image; the corpus score is their mean. Scale: 0 to 10, COCO ~1.

    `candidates[i]` are the tokens of the caption of image i, `references[i]` its reference captions
    as tokens. Raises ValueError when the two differ in length or an image has no reference.

    Worked example, two images, one reference each:

        candidate "a red star"    references "a red star"       every n-gram with n <= 3 agrees
        candidate "a red star"    references "a blue square"    shares only "a"

    "a" stands in both images' references, so its weight is ln(2/2) = 0 and image 2 scores 0.
    Image 1 has cosine 1 for n = 1, 2, 3 and no 4-gram: (1 + 1 + 1 + 0) / 4 * 10 = 7.5.

    Reference: Vedantam et al., CIDEr: Consensus-based Image Description Evaluation, 2015,
    arXiv 1411.5726 (CIDEr-D, the variant against gaming); constants as in tylin/coco-caption.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates for {len(references)} sets of references")
    empty = [i for i, captions in enumerate(references) if not captions]
    if empty:
        raise ValueError(f"image {empty[0]} has no reference caption ({len(empty)} such images)")
    counted = [[count_ngrams(tokens) for tokens in captions] for captions in references]
    images_with: Counter[tuple[str, ...]] = Counter()
    for captions in counted:
        images_with.update(set().union(*captions))
    unseen = math.log(len(references)) if references else 0.0
    rarity = {ngram: unseen - math.log(images) for ngram, images in images_with.items()}
    scores = []
    for tokens, captions in zip(candidates, counted, strict=True):
        candidate = _Caption(count_ngrams(tokens), rarity, unseen)
        similar = [_similarity(candidate, _Caption(c, rarity, unseen)) for c in captions]
        scores.append(10.0 * sum(similar) / len(similar))
    return scores
