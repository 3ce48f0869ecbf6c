"""What `generate` needs beyond a language model's own: the attention mask of a prompt."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional
from transformers import Cache
from transformers.masking_utils import create_masks_for_generate

from lucida.core.errors import ModelError
from lucida.data.sample import Views
from lucida.model.config import LucidaConfig
from lucida.model.masks import MASKS, Fields, causal


def image_numbers(
    placeholder: Bool[Tensor, "rows length"], visual_tokens: list[int]
) -> Int[Tensor, "rows length"]:
    """1, 2, … on the visual tokens of each row's images, 0 on text.

    visual_tokens: of each image in reading order; so two images without text between them are
    still told apart. Example with 2 visual tokens each: `t I I I I t` → `0 1 1 2 2 0`.
    """
    if int(placeholder.sum()) != sum(visual_tokens):
        raise ModelError(
            "the places kept in the text and the visual tokens differ in number",
            expected=f"{int(placeholder.sum())} (placeholders in the text)",
            given=f"{sum(visual_tokens)} ({len(visual_tokens)} images)",
            remedy="use the processor saved with this model and pass one image for each <image>",
        )
    counts = torch.tensor(visual_tokens, dtype=torch.long, device=placeholder.device)
    number = torch.zeros_like(placeholder, dtype=torch.long)
    number[placeholder] = torch.arange(1, len(counts) + 1, device=counts.device).repeat_interleave(
        counts
    )
    first = torch.where(placeholder, number, len(counts) + 1).amin(-1, keepdim=True)
    return torch.where(placeholder, number - first + 1, 0)


def prompt_mask(
    config: LucidaConfig,
    name: str,
    image: Int[Tensor, "rows length"],
    attention_mask: Tensor | dict | None,
    cache: Cache | None,
    dtype: torch.dtype,
) -> Tensor | dict | None:
    """The mask `name` for inputs that come without the fields of a batch, in transformers' form.

    image: 0 text, k a visual token of the row's k-th image. What is given at once is one prompt,
    unless something stands in the cache: that was the prompt, and what follows is causal but for
    its images. Nothing is made where transformers' own causal mask is the same, and a mask that is
    made already (of rank 4, or one for each kind of layer) is returned as it is.
    """
    past = 0 if cache is None else int(cache.get_seq_length())
    made = isinstance(attention_mask, dict) or (
        attention_mask is not None and attention_mask.ndim == 4
    )
    plain = name == "causal" or (bool((image == 0).all()) and (name != "prefix" or past > 0))
    if made or plain:
        return attention_mask
    fields = make_fields(image, attention_mask, past, room(cache))
    query = Fields(*(field[:, past : past + image.shape[1]] for field in fields)).queries()
    allowed = MASKS[name](query, fields.keys())
    # Two parts, so that what a layer's own rule forbids (a sliding window) stays forbidden.
    ahead = allowed & ~causal(query, fields.keys())

    def or_ahead(row: Tensor, head: Tensor, asking: Tensor, key: Tensor) -> Tensor:
        return ahead[row, asking - past, key]

    def and_allowed(row: Tensor, head: Tensor, asking: Tensor, key: Tensor) -> Tensor:
        return allowed[row, asking - past, key] | (asking == key)

    return create_masks_for_generate(
        config=config,
        inputs_embeds=torch.empty(*image.shape, 0, dtype=dtype, device=image.device),
        attention_mask=attention_mask,
        past_key_values=cache,
        or_mask_function=or_ahead,
        and_mask_function=and_allowed,
    )


def room(cache: Cache | None) -> int:
    """Positions that a cache of fixed size has, 0 for one that grows."""
    return 0 if cache is None else max(0, cache.get_max_length())


def make_fields(
    image: Int[Tensor, "rows length"], attention_mask: Tensor | None, past: int, least: int
) -> Fields:
    """Fields of what is cached and what is given now, at least so many positions."""
    rows, length = image.shape
    if attention_mask is None:
        attention_mask = image.new_ones(rows, past + length)
    segment = attention_mask[:, : past + length].long()
    segment = functional.pad(segment, (0, max(0, least - segment.shape[1])))
    behind = segment.shape[1] - past - length
    order = torch.arange(segment.shape[1], device=image.device).expand_as(segment)
    now = functional.pad(image, (past, behind))
    prompt = segment if past == 0 else torch.zeros_like(segment)
    return Fields(segment, segment, order, now, prompt)


def repeated_by_row(images: Views, counts: Int[Tensor, " rows"], times: int) -> Views:
    """All images of a row, `times` over, row after row: `a1 a2 b1` twice → `a1 a2 a1 a2 b1 b1`."""
    parts = torch.arange(len(images)).split(counts.tolist())
    return images.select([n for part in parts for _ in range(times) for n in part.tolist()])
