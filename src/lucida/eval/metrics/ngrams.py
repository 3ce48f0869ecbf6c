"""The n-grams of many captions as arrays: what BLEU and CIDEr-D count, a hundred times faster than
dictionaries of tuples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucida.core.errors import DataError

LONGEST = 4
"""n-grams of 1 to 4 words."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How often an n-gram stands in a caption, one entry per pair that occurs, sorted by caption
    and then by n-gram. `kinds` is the number of different n-grams."""

    caption: np.ndarray
    gram: np.ndarray
    count: np.ndarray
    kinds: int

    def select(self, chosen: np.ndarray) -> Counts:
        """The entries for which the mask `chosen` is true."""
        return Counts(self.caption[chosen], self.gram[chosen], self.count[chosen], self.kinds)


def count_ngrams(captions: Sequence[Sequence[str]]) -> Iterator[Counts]:
    """The counts for n = 1, 2, 3, 4; equal n-grams have equal numbers within one n.

    Worked example: for the captions "a a b" and "b", n = 1 gives caption 0, 0, 1; gram 0, 1, 1 and
    count 2, 1, 1; n = 2 gives caption 0, 0 with count 1, 1; n = 3 one entry and n = 4 none.
    """
    vocabulary: dict[str, int] = {}
    numbers = [vocabulary.setdefault(t, len(vocabulary)) for tokens in captions for t in tokens]
    tokens = np.array(numbers, dtype=np.int64)
    lengths = np.array([len(tokens) for tokens in captions], dtype=np.int64)
    caption = np.repeat(np.arange(len(captions)), lengths)
    gram, kinds = tokens, len(vocabulary)
    for n in range(1, LONGEST + 1):
        if n > 1:
            # Numbers are given anew for every n: at most tokens times words, which 64 bits hold.
            # `gram` holds at i the (n-1)-gram that begins at i; a longer one must stay inside.
            longer = gram[: max(0, len(tokens) - n + 1)] * len(vocabulary) + tokens[n - 1 :]
            different, gram = np.unique(longer, return_inverse=True)
            kinds = len(different)
        begins = caption[: len(gram)]
        inside = begins == caption[n - 1 :]
        pairs, count = np.unique(begins[inside] * max(1, kinds) + gram[inside], return_counts=True)
        yield Counts(pairs // max(1, kinds), pairs % max(1, kinds), count, kinds)


def find(wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the entries of `wanted` that are in the sorted `known`: their places in both.

    Worked example: wanted 5, 7, 9 and known 7, 9, 11 give places 1, 2 and 0, 1.
    """
    place = np.searchsorted(known, wanted)
    place[place == len(known)] = 0
    hit = np.flatnonzero(known[place] == wanted) if len(known) else np.array([], dtype=np.int64)
    return hit, place[hit]


def check_captions(candidates: Sequence[Any], references: Sequence[Sequence[Any]]) -> None:
    """DataError unless there is one list of references per caption, with at least one in each."""
    if len(candidates) != len(references):
        raise DataError(
            "captions and sets of references differ in number",
            expected=f"{len(references)} captions",
            given=len(candidates),
        )
    for number, captions in enumerate(references):
        if isinstance(captions, str) or not captions:
            raise DataError(
                f"caption {number} needs a list of reference captions",
                expected="one or more",
                given=f"the text {captions[:40]!r}" if isinstance(captions, str) else "none",
            )
