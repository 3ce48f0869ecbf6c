"""What `generate` needs beyond a language model's own: image blocks in the prompt's mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional
from transformers import Cache
from transformers.masking_utils import create_masks_for_generate

from lucida.model.config import LucidaConfig


def image_numbers(
    placeholder: Bool[Tensor, "rows length"], visual_tokens: int
) -> Int[Tensor, "rows length"]:
    """1, 2, … on the visual tokens of each row's images, 0 on text.

    Every image has the same number of visual tokens, so two images without text between them are
    still told apart. Example with 2 visual tokens: `t I I I I t` → `0 1 1 2 2 0`.
    """
    number = (placeholder.long().cumsum(-1) - 1).div(visual_tokens, rounding_mode="floor") + 1
    return torch.where(placeholder, number, 0)


def image_block_mask(
    config: LucidaConfig,
    placeholder: Bool[Tensor, "rows length"],
    attention_mask: Tensor | dict | None,
    cache: Cache | None,
    dtype: torch.dtype,
) -> Tensor | dict | None:
    """The mask of rank 4 (one for each kind of layer) in which an image's tokens see each other.

    A mask that is made already is returned as it is. What stands in the cache is seen by all and,
    like all text, belongs to no block.
    """
    if isinstance(attention_mask, dict) or (
        attention_mask is not None and attention_mask.ndim == 4
    ):
        return attention_mask
    past = 0 if cache is None else int(cache.get_seq_length())
    block = image_numbers(placeholder, config.visual_tokens) - 1  # -1 is text
    rows, length = placeholder.shape
    return create_masks_for_generate(
        config=config,
        inputs_embeds=torch.empty(rows, length, 0, dtype=dtype, device=placeholder.device),
        attention_mask=attention_mask,
        past_key_values=cache,
        block_sequence_ids=functional.pad(block, (past, 0), value=-1),
    )


def repeated_by_row(images: Tensor, counts: Int[Tensor, " rows"], times: int) -> Tensor:
    """All images of a row, `times` over, row after row: `a1 a2 b1` twice → `a1 a2 a1 a2 b1 b1`."""
    parts = images.split(counts.tolist())
    return torch.cat([part for part in parts for _ in range(times)])
