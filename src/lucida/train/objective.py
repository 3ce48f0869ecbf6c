"""Next-token cross-entropy as a sum and a count, with logits at supervised positions only.

The sum is divided by the number of supervised tokens of the *whole step*, once, by the loop. So a
token weighs the same whether its sample is packed or padded, in the first or the last accumulation
pass, on this rank or another.

    hidden [rows, length, width] ──target != IGNORED──▶ [n, width] ──chunks──▶ [≤ rows, vocabulary]

Logits of image tokens and questions are never computed: with 10% of positions supervised and a
vocabulary of 32k this is most of the memory and a third of the time of a small model's step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lucida.data.sample import IGNORED, Batch

CHUNK_LOGITS = 2**25
"""Most logits alive at once: 128 MiB in fp32. Beyond it they are computed again in the backward
pass, which costs one more product with the head and bounds the memory."""


def supervised_loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, int]:
    """Sum of the losses (fp32 scalar) over the supervised positions of a batch, and their number.

    Divide by the count of the whole step, not by this one, before `backward`.
    """
    hidden = model.hidden(batch)
    rows = hidden.flatten(0, 1)  # [rows * length, width]
    target = batch.target.flatten()
    where = (target != IGNORED).nonzero().squeeze(1)
    size = max(1, CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    return summed_cross_entropy(model.logits, rows[where], target[where], size), len(where)


def summed_cross_entropy(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    target: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Sum of cross-entropies of `head(hidden)`, in chunks of at most `size` rows.

    hidden [n, width], target [n] without IGNORED. Statistics are fp32 whatever autocast says:
    a log-sum-exp in bf16 is off by about 1%.
    """
    if len(target) == 0:
        return hidden.float().sum()  # zero, and still part of the graph

    def chunk_loss(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(part).float(), wanted, reduction="sum")

    if len(target) <= size:
        return chunk_loss(hidden, target)
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(hidden.split(size), target.split(size), strict=True):
        total = total + checkpoint(chunk_loss, part, wanted, use_reentrant=False)
    return total
