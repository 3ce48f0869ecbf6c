"""A folder that transformers' Llava or LlavaNext and `AutoProcessor` load without Lucida."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from lucida.apps.export.probes import Agreement, Conversation, compare
from lucida.data.jinja import chat_jinja
from lucida.data.policies import FILTERS, ImagePolicy
from lucida.data.sample import Views
from lucida.model.checksums import seal
from lucida.model.conversion.llava import AnyLlava, llava_config, to_llava
from lucida.model.loading import load_whole, quiet_loading, refusing

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

AnyProcessor = LlavaProcessor | LlavaNextProcessor


def write_llava(model: LucidaModel, processor: LucidaProcessor, folder: Path) -> None:
    """Weights, configuration, tokenizer, image processor and chat template, into a folder that
    exists."""
    with quiet_loading():
        to_llava(model).save_pretrained(folder)
        llava_processor(model, processor).save_pretrained(folder)
    seal(folder)


def read_llava(folder: Path) -> tuple[AnyLlava, AnyProcessor]:
    """The folder as transformers alone reads it; every weight has to be there."""
    model = load_whole(AutoModelForImageTextToText, str(folder))
    with quiet_loading(), refusing(folder, "its processor cannot be loaded"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return model.eval(), processor


@dataclass(frozen=True, slots=True)
class Llava:
    """A Llava or LlavaNext and its processor, as `compare` asks them."""

    model: AnyLlava
    processor: AnyProcessor

    def inputs(self, group: list[Conversation]) -> dict[str, torch.Tensor]:
        """What its processor makes of conversations."""
        return self.processor.apply_chat_template(
            group,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """What its model makes of them."""
        return llava_logits(self.model, inputs)


def llava_logits(model: AnyLlava, inputs: dict[str, Any]) -> torch.Tensor:
    """What a Llava or LlavaNext makes of Lucida's inputs or of its own processor's."""
    given = dict(inputs)
    if isinstance(given.get("pixel_values"), Views):
        given |= as_tiles(given["pixel_values"])
    return model(**given).logits


def as_tiles(views: Views) -> dict[str, torch.Tensor]:
    """Views of one encoder as LlavaNext has them: zeros where an image has fewer tiles than the
    one with most, and heights and widths."""
    (images,) = views.pixels
    pixels = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)
    sizes = torch.tensor([[height, width] for width, height in views.sizes])
    return {"pixel_values": pixels, "image_sizes": sizes}


def check_llava(model: LucidaModel, processor: LucidaProcessor, folder: Path) -> Agreement:
    """Reload the folder and compare it with the model; ModelError when they differ."""
    other = Llava(*read_llava(folder))
    return compare(model, processor, other.logits, folder.name, other.inputs)


def llava_processor(model: LucidaModel, processor: LucidaProcessor) -> AnyProcessor:
    """transformers' processor for the same images, tokens and template."""
    config = llava_config(model)
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = chat_jinja(
        processor.template, tokenizer, processor.image_token, processor.image_places
    )
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # else it is not saved
    tiles = config.model_type == "llava_next"
    return (LlavaNextProcessor if tiles else LlavaProcessor)(
        image_processor=(
            tile_processor(processor.image_policy, config.image_grid_pinpoints)
            if tiles
            else image_processor(processor.image_policy)
        ),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=tokenizer.chat_template,
        image_token=processor.image_token,
        num_additional_image_tokens=model.vision.family.prefix(config.vision_config),
    )


def image_processor(policy: ImagePolicy) -> CLIPImageProcessorPil | LlavaImageProcessorPil:
    """transformers' image processor for the policies `resize`, `crop` and, padded first,
    `letterbox`."""
    square = {"height": policy.size, "width": policy.size}
    crop = policy.policy == "crop"
    values = {
        "do_resize": True,
        "size": {"shortest_edge": policy.size} if crop else square,
        "do_center_crop": crop,
        "crop_size": square,
        **shared_values(policy),
    }
    if policy.policy == "letterbox":
        return LlavaImageProcessorPil(do_pad=True, **values)
    return CLIPImageProcessorPil(**values)


def tile_processor(policy: ImagePolicy, pinpoints: list[list[int]]) -> LlavaNextImageProcessorPil:
    """transformers' image processor for the policy `anyres`."""
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": policy.size},
        crop_size={"height": policy.size, "width": policy.size},
        image_grid_pinpoints=pinpoints,
        **shared_values(policy),
    )


def shared_values(policy: ImagePolicy) -> dict[str, Any]:
    """What every image processor is told."""
    return {
        "resample": int(FILTERS[policy.resample]),
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(policy.mean),
        "image_std": list(policy.std),
        "do_convert_rgb": True,
    }
