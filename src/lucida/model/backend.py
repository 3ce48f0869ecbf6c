"""What a program that runs the parts of a model itself asks of it: vLLM's transformers backend.

    processor(text, images) ─▶ pixel_values, and what each placeholder becomes
    model.get_image_features(pixel_values) ─▶ visual tokens     put among the words by that program
    model(inputs_embeds, position_ids) ─▶ hidden states         its own output matrix makes scores

The classes of a folder that is exported as remote code are these (`apps/export/remote.py`). For
causal masks and pictures of one square; `conversion.fits.vllm_obstacles` says what else cannot be.

Source: vLLM 0.33, model_executor/models/transformers/multimodal.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData

from lucida.data.sample import Views
from lucida.model.messages import Picture
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

WITHOUT_EFFECT = {"padding", "truncation", "add_special_tokens", "return_mm_token_type_ids"}
"""Options that are always passed and change nothing here: rows are padded, never cut, and begin
with one start token."""


@dataclass(frozen=True)
class ImageSide:
    """What is asked of the part of a processor that has to do with pictures."""

    size: dict[str, int]
    model_input_names: tuple[str, ...] = ("pixel_values",)


class BackendProcessor(LucidaProcessor):
    """The processor, which also tells what placeholders become and how many rows are whose."""

    @property
    def image_processor(self) -> ImageSide:
        """What a picture is brought to; AttributeError for a blind model, which has none."""
        if not self.visual_tokens:
            raise AttributeError("a blind model's processor takes no pictures")
        side = self.image_policy.size
        return ImageSide({"height": side, "width": side})

    def write_replacement(self, width: int, height: int) -> str:
        """What stands in the text for a picture of this size: placeholders, and names of tiles."""
        runs = self.arrangement.runs(width, height)
        return "".join(self.image_token * run if isinstance(run, int) else run for run in runs)

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **options: Any
    ) -> MultiModalData:
        """Visual tokens and rows of pixel values of pictures, by their (height, width)."""
        if image_sizes is None:
            return MultiModalData()
        # Height stands first in transformers, width first here.
        sizes = [(int(width), int(height)) for height, width in image_sizes]
        tokens = [self.write_replacement(*size).count(self.image_token) for size in sizes]
        views = [len(self.image_policy.frames(*size)) for size in sizes]
        return MultiModalData(num_image_tokens=tokens, num_image_patches=views)

    def __call__(
        self,
        images: Picture | Sequence[Picture] | Sequence[Sequence[Picture]] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        return_text_replacement_offsets: bool = False,
        **options: Any,
    ) -> BatchFeature:
        """As `LucidaProcessor`; if asked for, with `text_replacement_offsets`: for each text and
        each picture in it where its placeholder stands and what it becomes."""
        rest = {name: value for name, value in options.items() if name not in WITHOUT_EFFECT}
        texts = [text] if isinstance(text, str) else text
        batch = super().__call__(images, texts, return_tensors, **rest)
        if return_text_replacement_offsets:
            flat = images if isinstance(images, list | tuple) else [images]
            pictures = [each for group in flat for each in _list_group(group)]
            written = [self.write_replacement(*each.size) for each in pictures]
            _, batch["text_replacement_offsets"] = self.get_text_with_replacements(
                list(texts), written
            )
        return batch


def _list_group(group: Any) -> list[Any]:
    if isinstance(group, list | tuple):
        return list(group)
    return [] if group is None else [group]


class BackendModel(LucidaModel):
    """The model without its output matrix, as `AutoModel` has models."""

    def get_image_features(
        self, pixel_values: Float[Tensor, "images 3 height width"], **options: Any
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens of pictures of one square."""
        return torch.stack(self.visual(Views.read(pixel_values), None))

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """What sees; the whole model where nothing does."""
        return self.vision if modality == "image" and self.vision is not None else self

    def get_decoder(self) -> nn.Module:
        """What reads."""
        return self.language.base_model

    @property
    def language_model(self) -> nn.Module:
        """What reads, by the name that LLaVA's model has for it."""
        return self.language.base_model

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Float[Tensor, "rows length width"] | None = None,
        **options: Any,
    ) -> Any:
        """Hidden states of words, or of embeddings that visual tokens stand among; everything else
        goes on to the language model, whose attention may be another's."""
        return self.language.base_model(input_ids=input_ids, inputs_embeds=inputs_embeds, **options)
