"""transformers' image processors of Llava and LlavaNext as image policies, both ways.

What has no counterpart is refused with both values.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaNextConfig
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from lucida.data.jinja import chat_jinja
from lucida.data.policies import FILTERS, ImagePolicy
from lucida.model.conversion.format import refuse
from lucida.model.encoders.families import family_of

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor

RESAMPLE = {1: "lanczos", 3: "bicubic"}
"""Pillow's filters -> Lucida's."""
PADDING = "LlavaImageProcessor"
"""The one whose `do_pad` makes a square before anything is scaled."""

AnyProcessor = LlavaProcessor | LlavaNextProcessor


def image_of_processor(values: dict[str, Any], origin: object) -> dict[str, Any]:
    """Lucida's image policy and size for the settings of Llava's image processor."""
    resample = check_steps(values, origin)
    size = sides_of(values.get("size"))
    crop = sides_of(values.get("crop_size"))
    kind = values.get("image_processor_type", "")
    if values.get("do_pad") and not kind.startswith(PADDING):
        refuse("its processor pads", f"{PADDING}'s padding", f"do_pad of {kind}", origin)
    if values.get("do_pad"):
        sides = {*size.values(), *(crop.values() if values.get("do_center_crop") else ())}
        if len(sides) != 1:
            refuse("its processor pads and then makes no one square", size, crop, origin)
        return {"policy": "letterbox", "pad": "first", "size": sides.pop(), **resample}
    if values.get("do_center_crop"):
        sides = {size.get("shortest_edge"), crop.get("height"), crop.get("width")}
        if len(sides) > 1:
            refuse("its processor crops to another size than it scales to", size, crop, origin)
        return {"policy": "crop", "size": sides.pop(), **resample}
    if size.get("height") is None or size.get("height") != size.get("width"):
        refuse("its processor's size", "a square (height, width)", size, origin)
    return {"policy": "resize", "size": size["height"], **resample}


def tiles_of_processor(
    values: dict[str, Any], config: LlavaNextConfig, origin: object
) -> dict[str, Any]:
    """Lucida's `anyres` for the settings of LlavaNext's image processor."""
    resample = check_steps(values, origin)
    side = config.vision_config.image_size
    size, crop = sides_of(values.get("size")), sides_of(values.get("crop_size"))
    if {*size.values(), *(crop.values() if values.get("do_center_crop") else ())} != {side}:
        refuse("its processor's tiles are no squares of the encoder's size", side, size, origin)
    pinpoints = [list(each) for each in values.get("image_grid_pinpoints") or []]
    if pinpoints != [list(each) for each in config.image_grid_pinpoints]:
        what = "processor and configuration name different grids of tiles"
        refuse(what, config.image_grid_pinpoints, pinpoints, origin)
    if any(length % side for each in pinpoints for length in each):
        refuse("a grid of tiles is no multiple of the tile", side, pinpoints, origin)
    grids = [[height // side, width // side] for height, width in pinpoints]
    return {"policy": "anyres", "size": side, "grids": grids, **resample}


def check_steps(values: dict[str, Any], origin: object) -> dict[str, str]:
    """Refuse a processor that leaves a step out, or resamples in another way; the filter, where it
    is not the usual one."""
    for name, expected in (("do_resize", True), ("do_rescale", True), ("do_normalize", True)):
        if values.get(name, True) is not expected:
            refuse(f"its processor's {name}", expected, values.get(name), origin)
    given = values.get("resample", 3)
    if given not in RESAMPLE:
        refuse("its processor's resampling", "1 (lanczos) or 3 (bicubic)", given, origin)
    return {} if RESAMPLE[given] == "bicubic" else {"resample": RESAMPLE[given]}


def sides_of(size: Any) -> dict[str, int]:
    """What a processor's size names: `shortest_edge`, or `height` and `width`."""
    return {name: value for name, value in dict(size or {}).items() if value is not None}


def llava_processor(
    config: LlavaConfig | LlavaNextConfig, processor: LucidaProcessor
) -> AnyProcessor:
    """transformers' processor for the same images, tokens and template, beside this model."""
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
        num_additional_image_tokens=family_of(config.vision_config).prefix(config.vision_config),
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
