"""What `generate` needs beyond a language model's own: mask, positions and images of a prompt."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional
from transformers import Cache, GenerationMixin
from transformers.masking_utils import create_masks_for_generate

from lucida.core.errors import ModelError
from lucida.data.sample import Views
from lucida.model.arrangement import Arrangement
from lucida.model.config import LucidaConfig
from lucida.model.masks import CAUSAL_TEXT, MASKS, Fields, causal

IMAGES = ("pixel_values", "features")
"""What images are given as."""


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
    # Numbers count through all rows; the lowest of a row is its first image.
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
    text = past > 0 or name in CAUSAL_TEXT
    plain = name == "causal" or (text and bool((image == 0).all()))
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
        # Padding sees itself, so that no row of the softmax is empty.
        return allowed[row, asking - past, key] | (asking == key)

    return create_masks_for_generate(
        config=config,
        inputs_embeds=torch.empty(*image.shape, 0, dtype=dtype, device=image.device),
        attention_mask=attention_mask,
        past_key_values=cache,
        or_mask_function=or_ahead,
        and_mask_function=and_allowed,
    )


def prompt_positions(
    arrangement: Arrangement,
    given: Tensor,
    placeholder: Bool[Tensor, "rows length"] | None,
    attention_mask: Tensor | dict | None,
    past: int,
    images: Views | None,
) -> Int[Tensor, "rows length"] | None:
    """Positions of inputs that come without any; None where a mask is made already.

    given: their ids [rows, length], or embeddings. past: how many stand in the cache. ModelError
    where these do not say how far visual tokens stand apart.
    """
    counted = isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
    length = given.shape[1]
    if arrangement.positions != "1d" and (past or placeholder is None):
        raise ModelError(
            f"under model.language.positions={arrangement.positions} places in a cache or among"
            " embeddings do not tell positions",
            expected="position_ids, or the ids of a whole prompt",
            given=f"a cache of {past} places" if past else "inputs_embeds",
            remedy="use generate, which keeps count, or give position_ids",
        )
    if not counted and attention_mask is not None and arrangement.positions == "1d":
        return None
    steps = attention_mask.long() if counted else given.new_ones(1, past + length).long()
    if arrangement.positions != "1d" and bool(placeholder.any()):
        sizes = list(() if images is None else images.sizes)
        if not sizes and arrangement.policy.one_square:  # their images are in a cache
            sizes = [(0, 0)] * (int(placeholder.sum()) // arrangement.tokens)
        found = torch.from_numpy(arrangement.steps(sizes)).to(steps)
        image_numbers(placeholder, [len(found)])  # refuses when they differ in number
        steps = steps.expand(placeholder.shape).clone()
        steps[placeholder] = found
    return (steps.cumsum(-1) - 1).clamp(min=0)[:, -length:]  # padding in front takes no steps


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
    prompt = segment if past == 0 else torch.zeros_like(segment)  # what is cached was the prompt
    # The segment stands for the branch as well: one conversation a row, of branch 1 throughout.
    return Fields(segment, segment, order, now, prompt)


def repeated_by_row(images: Views, counts: Int[Tensor, " rows"], times: int) -> Views:
    """All images of a row, `times` over, row after row: `a1 a2 b1` twice → `a1 a2 a1 a2 b1 b1`."""
    parts = torch.arange(len(images)).split(counts.tolist())
    return images.select([n for part in parts for _ in range(times) for n in part.tolist()])


class PromptGenerationMixin(GenerationMixin):
    """What of `generate` knows that a prompt holds images."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one decoding step: images with the prompt only."""
        if not is_first_iteration:
            kwargs.pop("features", None)
        compiled = isinstance(past_key_values, Cache) and past_key_values.is_compileable
        if compiled and is_first_iteration:
            # Of a static cache transformers would make the mask itself, a causal one.
            placeholder = self.placeholders(input_ids)
            images = next((kwargs[n] for n in IMAGES if kwargs.get(n) is not None), None)
            counts = self.image_counts(self.views_of(images))
            attention_mask = self.prompt_mask(placeholder, attention_mask, past_key_values, counts)
        return super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]
    ) -> Tensor:
        """Positions of a prompt; transformers adds one for each token that is decoded behind it."""
        if self.arrangement.positions == "1d":
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        ids = model_kwargs.get("input_ids")
        ids = inputs_tensor if ids is None or not ids.shape[1] else ids
        placeholder = None if ids.is_floating_point() else self.placeholders(ids)
        images = next((model_kwargs[n] for n in IMAGES if model_kwargs.get(n) is not None), None)
        mask = model_kwargs.get("attention_mask")
        return prompt_positions(self.arrangement, ids, placeholder, mask, 0, self.views_of(images))

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Rows for beams and several answers; the images of a row are repeated with it."""
        images = {}
        for name in IMAGES:
            if expand_size > 1 and kwargs.get(name) is not None:
                given = self.views_of(kwargs.pop(name))
                numbers = image_numbers(self.placeholders(input_ids), self.image_counts(given))
                images[name] = repeated_by_row(given, numbers.amax(1), expand_size)
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        return input_ids, kwargs | images
