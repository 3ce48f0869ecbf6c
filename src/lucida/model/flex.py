"""Attention by blocks of the whole row: torch's flex_attention under our masks.

    mask predicate ─┬─ of every 128 x 128 block: nothing seen, all seen, or some  ─▶ BlockMask
                    └─ of one query and one key, inside the kernel where a block sees some

Empty blocks cost nothing and full ones ask nothing, so a long row costs what its mask holds. The
block mask is made once for a batch and shared by all layers. On a GPU the kernel is compiled; on a
CPU torch computes all scores and multiplies by the mask (to check against), and has no backward.

Reference: Dong et al., Flex Attention: A Programming Model for Generating Optimized Attention
Kernels, 2024, arXiv 2412.05496.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional
from torch.nn.attention import flex_attention as flex
from transformers import PreTrainedConfig

from lucida.core.errors import ModelError
from lucida.model.masks import MASKS, Fields
from lucida.model.segments import Segments

BLOCK = 128
"""Positions of a block's side; what the kernels are tuned for."""

AT_ONCE = 2**26
"""Pairs of positions that are looked at together while the blocks are sorted: 64 MiB for each term
of a predicate, whatever the length of the row."""


class Flex:
    """The blocks of a batch and what a position may see inside them.

    Worked example: one row of 300 positions, segments of 100 and 200, causal: 3 x 3 blocks, of
    which the 6 on and below the diagonal see some and none all.
    """

    def __init__(self, fields: Fields, mask: str) -> None:
        self.blocks = block_mask(fields, mask)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float
    ) -> Float[Tensor, "rows length heads size"]:
        """Attention of packed rows. query, key, value: [rows, heads, length, size].

        ModelError for dropout of attention weights, which the kernel does not have, and for a
        backward pass on a CPU.
        """
        refuse_dropout(dropout)
        if query.device.type == "cpu" and any(x.requires_grad for x in (query, key, value)):
            refuse_gradients(query.device)
        if query.is_cuda:
            result = compile_kernel()(query, key, value, self.blocks, scale)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="flex_attention called without")
                result = attended(query, key, value, self.blocks, scale)
        return result.transpose(1, 2)


def attended(query: Tensor, key: Tensor, value: Tensor, blocks: object, scale: float) -> Tensor:
    """torch's flex_attention with our options: several query heads may share a key head."""
    return flex.flex_attention(
        query, key, value, block_mask=blocks, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


@cache
def compile_kernel() -> Callable[..., Tensor]:
    """The fused kernel, for rows of any length; compiled at its first call."""
    return torch.compile(attended, dynamic=True)


def block_mask(fields: Fields, mask: str) -> flex.BlockMask:
    """The block mask of a batch, [rows, 1, length, length], for any mask in `MASKS`.

    Padding sees itself, as in `dense_mask`.
    """
    length = fields.segment.shape[1]
    counts = count_seen(fields, mask)
    # Beyond the row's end nothing counts as seen, so the last blocks of an uneven row are never
    # full: the kernel asks the predicate there.
    full = counts == BLOCK**2
    some, whole = in_order(counts.gt(0) & ~full), in_order(full)
    return flex.BlockMask.from_kv_blocks(
        *some, *whole, BLOCK_SIZE=BLOCK, mask_mod=pairwise(fields, mask), seq_lengths=(length,) * 2
    )


def pairwise(fields: Fields, mask: str) -> Callable[..., Tensor]:
    """May one query see one key? What the kernel asks, with indices of row, head and positions."""
    predicate = MASKS[mask]

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        asks = Fields(*(field[row, query] for field in fields))
        seen = Fields(*(field[row, key] for field in fields))
        return predicate(asks, seen) | ((asks.segment == 0) & (query == key))

    return allowed


def count_seen(fields: Fields, mask: str) -> Tensor:
    """How many pairs of every block are seen: [rows, 1, blocks of queries, blocks of keys]."""
    rows, length = fields.segment.shape
    number = -(-length // BLOCK)
    keys = fields.keys()
    strip = BLOCK * max(1, AT_ONCE // (rows * length * BLOCK))
    pad = partial(functional.pad, mode="constant", value=0)
    counts = []
    for start in range(0, length, strip):
        asks = Fields(*(field[:, start : start + strip].unsqueeze(-1) for field in fields))
        allowed = MASKS[mask](asks, keys) | ((asks.segment == 0) & (asks.order == keys.order))
        tall = -(-allowed.shape[1] // BLOCK)
        missing = tall * BLOCK - allowed.shape[1], number * BLOCK - length
        allowed = pad(allowed, (0, missing[1], 0, missing[0]))
        counts.append(allowed.view(rows, tall, BLOCK, number, BLOCK).sum((2, 4)))
    return torch.cat(counts, dim=1).unsqueeze(1)


def in_order(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of chosen blocks in each line, and their indices in front of all others."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True)  # stable: by place
    return chosen.sum(-1, dtype=torch.int32), order.int().contiguous()


def check_flex(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Attend forward and backward as a language model with this configuration will; ModelError when
    that does not work here, or gives other numbers than attention by segment."""
    config = config.get_text_config()
    refuse_dropout(getattr(config, "attention_dropout", 0.0) or 0.0)
    if device.type == "cpu":
        refuse_gradients(device)
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    made = torch.Generator().manual_seed(0)
    # Two blocks and an uneven end, and a second segment that begins within the second block.
    inputs = [
        torch.randn(1, n, 2 * BLOCK + 3, size, generator=made) for n in (heads, shared, shared)
    ]
    inputs = [each.to(device, dtype).requires_grad_() for each in inputs]
    segment = torch.ones(1, 2 * BLOCK + 3, dtype=torch.long, device=device)
    segment[:, BLOCK + 1 :] = 2
    nothing = torch.zeros_like(segment)
    fields = Fields(
        segment, nothing, torch.arange(2 * BLOCK + 3, device=device)[None], *[nothing] * 2
    )
    given = f"{heads} heads ({shared} of keys) of {size} in {dtype} on {device}"
    found = []
    try:
        for way in (Segments, Flex):
            result = way(fields, "causal").attend(*inputs, size**-0.5, 0.0)
            found.append((result.detach(), *torch.autograd.grad(result.square().sum(), inputs)))
    except (TorchDynamoException, RuntimeError, ValueError, OSError) as problem:
        raise unfit(f"it failed ({next(iter(str(problem).splitlines()), '')})", given) from problem
    for expected, got in zip(*found, strict=True):
        error = float((expected - got).float().norm() / expected.float().norm())
        if not error < max(0.02, 8 * torch.finfo(dtype).eps):  # a wrong mask parts by far more
            raise unfit(f"it differs from attention by segment by {error:.1%}", given)


def unfit(reason: str, given: str) -> ModelError:
    """The error for a machine or a model that flex attention does not work with."""
    return ModelError(
        f"flex attention does not work here: {reason}",
        expected="the numbers of attention by segment, forward and backward",
        given=given,
        remedy="set engine.attention=segments",
    )


def refuse_dropout(dropout: float) -> None:
    """ModelError for dropout of attention weights."""
    if dropout:
        raise ModelError(
            "flex attention has no dropout of attention weights",
            expected="attention_dropout 0",
            given=f"{dropout:g} in the language model's configuration",
            remedy="set engine.attention=segments",
        )


def refuse_gradients(device: torch.device) -> None:
    """ModelError: torch has no backward pass of flex attention on this device."""
    raise ModelError(
        "flex attention cannot train here: torch has no backward pass of it on a CPU",
        expected="a GPU",
        given=str(device),
        remedy="set engine.attention=auto, which takes segments on a CPU",
    )
