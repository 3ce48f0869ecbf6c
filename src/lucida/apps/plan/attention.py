"""Attention of known cost: the products and the saved results of one layer, without any numbers.

The planner runs models on fake tensors. Their attention is replaced by this one, because what a
kernel computes and keeps depends on the device, and because the lengths of the samples count, which
a packed row does not show:

    kept for the backward pass    CPU: queries, keys, values, weights     GPU: those without weights
    backward products             CPU: 4                                  GPU: 5 (scores again)
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "lucida-plan"


@dataclass(slots=True)
class Setting:
    """length: of the segments that attention is computed in, None for whole rows. weights: whether
    the attention weights are kept."""

    length: int | None = None
    weights: bool = False


setting = Setting()


@contextmanager
def attending(length: int | None, weights: bool):
    """Set what attention costs inside the block."""
    before = setting.length, setting.weights
    setting.length, setting.weights = length, weights
    try:
        yield
    finally:
        setting.length, setting.weights = before


class Costed(torch.autograd.Function):
    """Two products forward, four or five backward, and what they keep."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, length: int, keep: bool) -> Tensor:
        rows, heads, _, size = query.shape
        shape = (rows, heads, length, length)
        ctx.shape, ctx.size, ctx.again = shape, size, not keep
        # Nothing reads these products: the counter around the pass sees them.
        weights = query.new_empty(rows, heads, length, size) @ query.new_empty(
            rows, heads, size, length
        )
        weights @ query.new_empty(rows, heads, length, size)
        groups = heads // key.shape[1]
        if groups > 1:
            key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        result = query.new_empty(rows, heads, query.shape[2], value.shape[-1])
        # Copies: the layout gathers the rows of each segment.
        kept = [query.clone(), key.clone(), value.clone()]
        ctx.groups = groups
        ctx.save_for_backward(*kept, weights if keep else result)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor):
        query, key, value, _ = ctx.saved_tensors
        rows, heads, length, _ = ctx.shape
        long = query.new_empty(rows, heads, length, ctx.size)
        square = query.new_empty(ctx.shape)
        for _ in range(5 if ctx.again else 4):
            square @ long
        # As many heads of gradients as the keys had before they were repeated.
        less = [each[:, :: ctx.groups].clone() for each in (key, value)]
        return query.new_empty(query.shape), *less, None, None


def attend_planned(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: object,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls."""
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (each.to(dtype) for each in (query, key, value))
    # An encoder's, whenever it runs: layers that are computed again do so inside the backward pass.
    whole = getattr(module, "whole_rows", False)
    length = query.shape[2] if whole else setting.length or query.shape[2]
    result = Costed.apply(query, key, value, length, setting.weights and not whole)
    return result.transpose(1, 2).contiguous(), None


def no_mask(*arguments: object, **options: object) -> None:
    """No mask: it costs nothing that counts."""
    return


AttentionInterface.register(NAME, attend_planned)
AttentionMaskInterface.register(NAME, no_mask)


class Judgement(torch.autograd.Function):
    """What the loss of logits [n, vocabulary] keeps and makes (`training.cross_entropy`): the
    logits as they are, and one gradient like them. Its arithmetic in blocks counts for nothing."""

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return logits.new_empty(len(logits), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.empty_like(ctx.saved_tensors[0])


def plain_loss(head: nn.Module, rows: Tensor) -> Tensor:
    """The loss of the supervised rows."""
    return Judgement.apply(head(rows)).sum()
