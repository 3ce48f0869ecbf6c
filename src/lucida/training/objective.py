"""Next-token cross-entropy as a sum and its parts, with logits at supervised positions only.

The sum is divided by what counts in the *whole step*, once, by the loop. So a token weighs the same
whether its sample is packed or padded, in the first or the last accumulation pass, on this rank or
another.

    hidden [rows, length, width] ──target != IGNORED──▶ [n, width] ──chunks──▶ [≤ rows, vocabulary]

Logits of image tokens and questions are never computed: with 10% of positions supervised and a
vocabulary of 32k this is most of the memory and a third of the time of a small model's step. Nor is
the last layer's MLP there (`model/last_layer.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lucida.core.spec import MaskName
from lucida.data.sample import IGNORED, Batch
from lucida.training.cross_entropy import cross_entropies
from lucida.training.preference import summed_preference

CHUNK_LOGITS = 2**27
"""Most logits alive at once: 256 MiB in bf16, and as much again for their gradient. Beyond it they
are computed again in the backward pass, which costs one more product with the head and bounds the
memory."""

Losses = tuple[torch.Tensor, torch.Tensor]
"""The weighted sum (fp32 scalar, part of the graph), and the loss of each supervised position
without its weight (fp32 [n], no graph)."""


def token_losses(
    model: nn.Module, batch: Batch, mask: MaskName | None = None, how: str = "segments"
) -> Losses:
    """The losses of a batch at its supervised positions, row by row, and their sum as the batch
    weighs them. `mask`, `how`: who sees whom, and how that is computed, as in `LucidaModel.hidden`.

    Divide the sum by what counts in the whole step, not in this batch, before `backward`.
    """
    target = batch.target.flatten()
    where = (target != IGNORED).nonzero().squeeze(1)
    hidden = model.hidden(batch, mask=mask, wanted=where, how=how)
    # `wanted` let the last layer skip what no target asks for: other rows of `hidden` are
    # arbitrary.
    rows = hidden.flatten(0, 1)  # [rows * length, width]
    weight = None if batch.weight is None else batch.weight.flatten()[where]
    size = max(1, CHUNK_LOGITS // model.get_output_embeddings().weight.shape[0])
    if batch.pairs is not None:
        # A pair compares sums over its two answers, so every loss has to stay in the graph by
        # itself.
        each = list_cross_entropies(model.logits, rows[where], target[where], size)
        return summed_preference(each, batch), each.detach()
    return summed_cross_entropy(model.logits, rows[where], target[where], size, weight)


def list_cross_entropies(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    target: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """The same one by one, fp32 [n], all part of the graph."""

    def chunk(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return cross_entropies(head(part), wanted)

    if len(target) <= size:
        return chunk(hidden, target)
    cuts = [slice(begin, begin + size) for begin in range(0, len(target), size)]
    parts = [checkpoint(chunk, hidden[cut], target[cut], use_reentrant=False) for cut in cuts]
    return torch.cat(parts)


def supervised_loss(
    model: nn.Module, batch: Batch, mask: MaskName | None = None, how: str = "segments"
) -> tuple[torch.Tensor, int]:
    """The sum of `token_losses`, and the number of supervised positions."""
    summed, each = token_losses(model, batch, mask, how)
    return summed, len(each)


def summed_cross_entropy(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    target: torch.Tensor,
    size: int,
    weight: torch.Tensor | None = None,
) -> Losses:
    """Cross-entropies of `head(hidden)`, in chunks of at most `size` rows.

    hidden [n, width], target [n] without IGNORED, weight [n]. Statistics are fp32 whatever autocast
    says: a log-sum-exp in bf16 is off by about 1%.
    """
    if len(target) == 0:
        # Zero, and still part of the graph.
        return hidden.float().sum(), hidden.new_zeros(0, dtype=torch.float32)

    def chunk(part: torch.Tensor, wanted: torch.Tensor, counts: torch.Tensor | None) -> Losses:
        each = cross_entropies(head(part), wanted)
        return (each if counts is None else each * counts).sum(), each.detach()

    if len(target) <= size:
        return chunk(hidden, target, weight)
    total, parts = hidden.new_zeros((), dtype=torch.float32), []  # in fp32, whatever autocast says
    for begin in range(0, len(target), size):
        cut = slice(begin, begin + size)
        counts = None if weight is None else weight[cut]
        summed, each = checkpoint(chunk, hidden[cut], target[cut], counts, use_reentrant=False)
        total = total + summed
        parts.append(each)
    return total, torch.cat(parts)
