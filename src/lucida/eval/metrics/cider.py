"""CIDEr-D: how much a caption says of what people say about this picture and not about others.

This is what coco-caption prints as "CIDEr". The weight of an n-gram comes from the references of
the images that are evaluated together, so scores depend on the set: never compare across subsets,
and one image alone always scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lucida.eval.metrics.ngrams import LONGEST, Counts, check_captions, count_ngrams, find

SIGMA = 6.0
"""Width of the Gaussian penalty on the difference in length."""


def cider_d(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
) -> list[float]:
    """The CIDEr-D score of every image; the corpus score is their mean. Scale: 0 to 10, COCO ~1.

    `candidates[i]` are the tokens of the caption of image i, `references[i]` its reference captions
    as tokens. Raises DataError when the two differ in length or an image has no reference.

    For every reference and n: the sum over shared n-grams of min(candidate, reference) * reference,
    where both are count times ln(images / images with the n-gram), divided by both norms, times a
    Gaussian of the difference in length (counted in bigrams, as the official code does). Mean over
    n = 1..4 and over references, times 10.

    Worked example, two images, one reference each:

        candidate "a red star"    references "a red star"       every n-gram with n <= 3 agrees
        candidate "a red star"    references "a blue square"    shares only "a"

    "a" stands in both images' references, so its weight is ln(2/2) = 0 and image 2 scores 0.
    Image 1 has cosine 1 for n = 1, 2, 3 and no 4-gram: (1 + 1 + 1 + 0) / 4 * 10 = 7.5.

    Reference: Vedantam et al., CIDEr: Consensus-based Image Description Evaluation, 2015,
    arXiv 1411.5726 (CIDEr-D, the variant against gaming); constants as in tylin/coco-caption.
    """
    images = len(candidates)
    check_captions(candidates, references)
    if not images:
        return []
    captions = [*candidates, *(tokens for group in references for tokens in group)]
    per_image = np.array([len(group) for group in references])
    owner = np.concatenate([np.arange(images), np.repeat(np.arange(images), per_image)])
    similarity = np.zeros(len(captions) - images)
    for counts in count_ngrams(captions):
        similarity += _cosines(counts, owner, images)
    bigrams = np.maximum([len(tokens) - 1 for tokens in captions], 0)
    difference = bigrams[owner[images:]] - bigrams[images:]
    similarity *= np.exp(-(difference**2) / (2 * SIGMA**2))
    totals = np.bincount(owner[images:], weights=similarity, minlength=images)
    return (10.0 * totals / (LONGEST * per_image)).tolist()


def _cosines(counts: Counts, owner: np.ndarray, images: int) -> np.ndarray:
    """Clipped cosine of every reference with its image's candidate, for one n.

    The first `images` captions are the candidates; `owner` is the image of each caption.
    """
    kinds = max(1, counts.kinds)
    key = owner[counts.caption] * kinds + counts.gram
    is_reference = counts.caption >= images
    # An image counts once for an n-gram, in however many of its references it stands.
    images_with = np.bincount(np.unique(key[is_reference]) % kinds, minlength=kinds)
    rarity = np.log(images) - np.log(np.maximum(images_with, 1))
    weight = counts.count * rarity[counts.gram]
    norms = np.sqrt(np.bincount(counts.caption, weights=weight**2, minlength=len(owner)))
    in_reference, in_candidate = find(key[is_reference], key[~is_reference])
    known = weight[is_reference][in_reference]
    # CIDEr-D clips the candidate, so that repeating a word gains nothing; its norm is not clipped.
    shared = np.minimum(weight[~is_reference][in_candidate], known) * known
    sums = np.zeros(len(owner) - images)
    np.add.at(sums, counts.caption[is_reference][in_reference] - images, shared)
    # A caption all of whose n-grams stand in every image has no norm, and scores 0.
    product = norms[owner[images:]] * norms[images:]
    return np.divide(sums, product, out=np.zeros(len(sums)), where=product > 0)
