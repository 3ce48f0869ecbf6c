"""A transformers Llava as the values of a Lucida model: its spec, and its projector's weights.

What has no counterpart is refused with both values; nothing is guessed.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import LlavaConfig

from lucida.core.errors import ModelError
from lucida.core.spec import ModelSpec
from lucida.model.encoders.families import family_of

ACTIVATIONS = {"gelu": "gelu", "relu": "relu"}
BICUBIC = 3


def refuse(what: str, expected: object, given: object, origin: object) -> NoReturn:
    """One message for everything that Lucida has no counterpart of."""
    raise ModelError(
        f"this checkpoint cannot be expressed here: {what}",
        expected=expected,
        given=given,
        origin=origin,
    )


def spec_of_llava(
    config: LlavaConfig,
    image_policy: str,
    size: int,
    identity: bool,
    places: tuple[str, str],
    origin: object,
) -> ModelSpec:
    """The model spec of a Llava whose parts stand in two folders, (vision, language).

    identity: whether its second linear layer is the identity (then it is one matrix). ModelError
    names what Lucida has no counterpart of.
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
    layers = config.vision_feature_layer
    vision = {"path": places[0], "feature_layer": layers, "take": take}
    return ModelSpec.model_validate(
        {
            "vision": vision,
            "image": {"policy": image_policy, "size": size},
            "projector": projector,
            "language": {"path": places[1], "template": "plain"},
        }
    )


def policy_of_processor(values: dict[str, Any], origin: object) -> tuple[str, int]:
    """Lucida's image policy and size for the settings of a transformers image processor."""
    if values.get("do_pad"):
        what = "its processor pads to a square before it resizes"
        refuse(what, "resize, or resize and crop", "do_pad", origin)
    for name, expected in (("do_resize", True), ("do_rescale", True), ("do_normalize", True)):
        if values.get(name, True) is not expected:
            refuse(f"its processor's {name}", expected, values.get(name), origin)
    if int(values.get("resample", BICUBIC)) != BICUBIC:
        refuse("its processor's resampling", "3 (bicubic)", values["resample"], origin)
    size = dict(values.get("size") or {})
    size = {name: value for name, value in size.items() if value is not None}
    crop = dict(values.get("crop_size") or {})
    if values.get("do_center_crop"):
        sides = {size.get("shortest_edge"), crop.get("height"), crop.get("width")}
        if len(sides) > 1:
            refuse("its processor crops to another size than it scales to", size, crop, origin)
        return "crop", sides.pop()
    if size.get("height") is None or size.get("height") != size.get("width"):
        refuse("its processor's size", "a square (height, width)", size, origin)
    return "resize", size["height"]


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
