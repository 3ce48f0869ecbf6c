"""A transformers Llava or LlavaNext as values of a Lucida model: its spec, its projector's weights.

What has no counterpart is refused with both values; nothing is guessed. Readers of other layouts
(original.py, prismatic.py) refuse in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaNextConfig

from lucida.core.errors import ModelError
from lucida.model.encoders.families import family_of

ACTIVATIONS = {"gelu": "gelu", "relu": "relu"}
RESAMPLE = {1: "lanczos", 3: "bicubic"}
"""Pillow's filters -> Lucida's."""
PADDING = "LlavaImageProcessor"
"""The one whose `do_pad` makes a square before anything is scaled."""


def refuse(
    what: str, expected: object, given: object, origin: object, remedy: str | None = None
) -> NoReturn:
    """One message for everything that Lucida has no counterpart of."""
    raise ModelError(
        f"this checkpoint cannot be expressed here: {what}",
        expected=expected,
        given=given,
        origin=origin,
        remedy=remedy,
    )


def linear_layers(
    state: Mapping[str, Tensor], names: Sequence[str], origin: object
) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of a projector's linear layers; ModelError when it has others than these."""
    expected = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    if set(state) != expected:
        raise ModelError(
            "the projector's weights are not those of the kind that the configuration names",
            expected=", ".join(sorted(expected)),
            given=", ".join(sorted(state)) or "none",
            origin=origin,
        )
    return [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]


def spec_of_llava(
    config: LlavaConfig | LlavaNextConfig, image: dict[str, Any], identity: bool, origin: object
) -> dict[str, Any]:
    """The values of a model's spec, without the paths of its parts.

    image: those of the image policy. identity: whether the second linear layer is the identity
    (then the projector is one matrix). ModelError names what Lucida has no counterpart of.
    """
    family = family_of(config.vision_config)
    prefix = family.prefix(config.vision_config)
    strategy = config.vision_feature_select_strategy
    if strategy == "default" and prefix != 1:
        refuse(
            f"it drops the first token of a {config.vision_config.model_type}",
            "one class token in front of the patches",
            f"{prefix} prefix tokens",
            origin,
        )
    if strategy == "full" and prefix > 1:
        refuse("it keeps register tokens", "at most one prefix token", prefix, origin)
    take = "cls_patches" if strategy == "full" and prefix else "patches"
    act = config.projector_hidden_act
    if act == "linear" and identity:
        projector: dict[str, Any] = {"kind": "linear"}
    elif act in ACTIVATIONS:
        projector = {"kind": "mlp", "depth": 2, "activation": ACTIVATIONS[act]}
    else:
        refuse("the projector's activation", ", ".join(ACTIVATIONS), act, origin)
    vision = {"feature_layer": config.vision_feature_layer, "take": take}
    return {"vision": vision, "image": image, "projector": projector}


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


def projector_weights(state: dict[str, Tensor], linear: bool) -> dict[str, Tensor]:
    """The projector's weights of a Llava (`linear_1.weight`, …) under Lucida's names."""
    names = {"linear_1": "linear"} if linear else {"linear_1": "layers.0", "linear_2": "layers.2"}
    result = {}
    for theirs, ours in names.items():
        weight = state[f"{theirs}.weight"]
        result[f"{ours}.weight"] = weight
        result[f"{ours}.bias"] = state.get(f"{theirs}.bias", weight.new_zeros(weight.shape[0]))
    return result


def is_identity(state: dict[str, Tensor]) -> bool:
    """Is the second linear layer the identity?"""
    weight = state["linear_2.weight"]
    bias = state.get("linear_2.bias", weight.new_zeros(1))
    return torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype)) and not bias.any()
