"""Cross-entropy of logits in little memory: fp32 arithmetic a block at a time, in the cache.

    forward    logits [n, V] ──rows of a block──▶ fp32 ──▶ log-sum-exp ──▶ losses [n]
    backward   the same blocks again ──▶ softmax - 1 at the target, times the gradient of the loss

torch's own way from bf16 logits makes an fp32 copy, its log-softmax, a gradient of zeros with one
entry a row and two more gradients, each as large as all logits and each a trip to memory. Here the
logits themselves are kept, in their own precision, and one gradient is made; everything in fp32 is
a block of rows, which on a CPU stays in the cache. The numbers are the same: statistics and
gradients are fp32 and are rounded once, at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**18
"""Logits in fp32 at a time on a CPU: 1 MiB."""
LARGE_BLOCK = 2**25
"""The same elsewhere, where small operations cost more than memory."""


class CrossEntropy(torch.autograd.Function):
    """losses [n] (fp32) of logits [n, V] and targets [n]; see `cross_entropies`."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        normaliser = logits.new_empty(len(target), dtype=torch.float32)
        losses = torch.empty_like(normaliser)
        for rows in blocks(logits):
            part = logits[rows].float()
            normaliser[rows] = part.logsumexp(-1)
            losses[rows] = normaliser[rows] - part.gather(1, target[rows, None])[:, 0]
        ctx.save_for_backward(logits, target, normaliser)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        logits, target, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        for rows in blocks(logits):
            # A copy even of fp32 logits: what follows is in place, and the logits belong to the
            # graph.
            part = logits[rows].to(torch.float32, copy=True)
            part.sub_(normaliser[rows, None]).exp_()
            # d loss / d logits = softmax(logits) - 1 at the target; the softmax is exp(logit -
            # log-sum-exp).
            part.scatter_add_(1, target[rows, None], part.new_full((len(part), 1), -1.0))
            result[rows] = part.mul_(gradient[rows, None])
        return result, None


def blocks(logits: Tensor) -> list[slice]:
    """Rows of one block after another."""
    many, size = logits.shape
    most = BLOCK if logits.device.type == "cpu" else LARGE_BLOCK
    rows = max(1, most // size)
    return [slice(begin, begin + rows) for begin in range(0, many, rows)]


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Loss of each row, fp32 [n], of logits [n, V] in any precision and targets [n] without
    IGNORED; part of the graph.

    Worked example: logits [[0, 0]] and target [1] give [log 2].
    """
    return CrossEntropy.apply(logits, target)
