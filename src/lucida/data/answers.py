"""How much each supervised position of a batch counts, by the length of the answer it belongs to.

    segment    1 1 1 1 1 1 1 1       an answer is an unbroken run of supervised positions
    branch     0 0 1 1 1 2 2 2       within one branch of one sample
    target     - - a b - c - -
    square     0 0 √½ √½ 0 1 0 0     n positions that count 1/√n each: √n in all

The weights follow from the batch alone and do not change with packing: runs never cross samples.

Reference: Chen et al., InternVL 2.5, 2024, arXiv 2412.05271, section 3.3.
"""

from __future__ import annotations

from typing import Literal

import torch

from lucida.data.sample import IGNORED, Batch

Weighting = Literal["token", "square", "sample"]

POWERS = {"square": -0.5, "sample": -1.0}
"""A position of an answer of n counts n to this power."""


def answer_weights(batch: Batch, weighting: Weighting) -> torch.Tensor | None:
    """float32 [rows, length], 0 where nothing is supervised; None where all count the same.

    Worked example, one sample with targets [-, a, b, -, c]: `square` gives [0, .71, .71, 0, 1],
    `sample` gives [0, .5, .5, 0, 1].
    """
    if weighting == "token":
        return None
    supervised = batch.target != IGNORED
    begins = supervised.clone()
    same = (batch.segment[:, 1:] == batch.segment[:, :-1]) & (
        batch.branch[:, 1:] == batch.branch[:, :-1]
    )
    # An answer begins where the position before is not supervised, or is of another sample or
    # branch.
    begins[:, 1:] &= ~(supervised[:, :-1] & same)
    weights = torch.zeros(batch.target.shape, dtype=torch.float32)
    # Of each supervised position the number of its answer; rows end answers too, as column 0 begins
    # one.
    answer = begins.flatten().cumsum(0)[supervised.flatten()] - 1
    lengths = torch.bincount(answer)
    weights[supervised] = lengths[answer].double().pow(POWERS[weighting]).float()
    return weights
