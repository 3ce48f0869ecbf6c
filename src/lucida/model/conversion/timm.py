"""Vision transformers of timm as transformers has them: names of weights, and how timm runs them.

    timm                                         transformers (CLIP; the others differ in names)
    blocks.3.attn.qkv.weight  [3 width, width]   encoder.layers.3.self_attn.{q,k,v}_proj.weight
    pos_embed                 [1, places, width] embeddings.position_embedding.weight
    attn_pool.*, head.*       pooled outputs, which no feature reads: left out

Reference: Wightman, PyTorch Image Models, 2019, vision_transformer.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from lucida.core.errors import ModelError
from lucida.model.encoders.families import family_of

UNREAD = ("attn_pool.", "head.", "fc_norm.")
"""Weights of pooled outputs."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the weights of one encoder type are called in transformers.

    layer: in front of the weights of layer n. inside: timm's name within a block → ours. runs: how
    timm runs this type, where a configuration of transformers says otherwise.
    """

    patch: str
    position: str
    layer: str
    inside: Mapping[str, str]
    attention: str
    norm: str
    more: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, object] = field(default_factory=dict)


def inside(first: str, second: str, out: str, **more: str) -> dict[str, str]:
    """Names within a block: the two norms, the matrix behind the attention, the MLP."""
    return {"norm1": first, "norm2": second, "attn.proj": out, "mlp.fc1": "mlp.fc1"} | {
        "mlp.fc2": "mlp.fc2",
        **more,
    }


SCALES = {
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "ls1.scale_factor": "layer_scale1.lambda1",  # so called after a patch in OpenVLA's code
    "ls2.scale_factor": "layer_scale2.lambda1",
}
CLIP_LIKE = {
    "patch": "embeddings.patch_embedding",
    "position": "embeddings.position_embedding.weight",
    "layer": "encoder.layers.{}.",
    "inside": inside("layer_norm1", "layer_norm2", "self_attn.out_proj"),
    "attention": "self_attn.{}_proj",
    "norm": "post_layernorm",
}
DINO = Names(
    patch="embeddings.patch_embeddings.projection",
    position="embeddings.position_embeddings",
    layer="encoder.layer.{}.",
    inside=inside("norm1", "norm2", "attention.o_proj", **SCALES),
    attention="attention.{}_proj",
    norm="layernorm",
    more={"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens"},
    runs={"hidden_act": "gelu", "layer_norm_eps": 1e-6},
)
NAMES: dict[str, Names] = {
    "clip_vision_model": Names(
        **CLIP_LIKE,
        more={"cls_token": "embeddings.class_embedding", "norm_pre": "pre_layrnorm"},
        runs={"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    ),
    # SigLIP was trained with the tanh form of GELU, which transformers runs; timm runs the exact.
    "siglip_vision_model": Names(
        **CLIP_LIKE,
        runs={"hidden_act": "gelu", "layer_norm_eps": 1e-6, "vision_use_head": False},
    ),
    "dinov2": DINO,
    "dinov2_with_registers": DINO,
    "vit": Names(
        patch="embeddings.patch_embeddings.projection",
        position="embeddings.position_embeddings",
        layer="layers.{}.",
        inside=inside("layernorm_before", "layernorm_after", "attention.o_proj"),
        attention="attention.{}_proj",
        norm="layernorm",
        more={"cls_token": "embeddings.cls_token"},
        runs={"hidden_act": "gelu", "layer_norm_eps": 1e-6},
    ),
}


def names_of(config: PreTrainedConfig, origin: object) -> Names:
    """The names of an encoder type; ModelError for one that timm's weights are not read as."""
    if config.model_type not in NAMES:
        raise ModelError(
            "no weights of timm's are read as this type of encoder",
            expected=", ".join(NAMES),
            given=config.model_type,
            origin=origin,
        )
    return NAMES[config.model_type]


def as_timm_runs(config: PreTrainedConfig, size: int, origin: object) -> PreTrainedConfig:
    """The configuration of the same encoder as timm runs it on squares of `size` pixels."""
    changed = copy.deepcopy(config)
    for name, value in names_of(config, origin).runs.items():
        setattr(changed, name, value)
    changed.image_size = size
    return changed


def from_timm(
    given: Mapping[str, Tensor], config: PreTrainedConfig, origin: object
) -> dict[str, Tensor]:
    """The weights of a timm ViT under transformers' names; `config` says which type, and the size.

    Names that are not known are kept, so that whoever loads the result refuses them.
    """
    names = names_of(config, origin)
    state: dict[str, Tensor] = {}
    for name, value in given.items():
        if name.startswith(UNREAD):
            continue
        head, _, rest = name.partition(".")
        if head == "blocks":
            state |= of_block(rest, value, names)
        elif name == "pos_embed":
            state[names.position] = positions(value, config, names, origin)
        elif head == "patch_embed":
            state[f"{names.patch}.{name.rpartition('.')[2]}"] = value
        elif head == "norm":
            state[f"{names.norm}.{rest}"] = value
        elif head in names.more:
            state[names.more[head] + (f".{rest}" if rest else "")] = value
        else:
            state[name] = value
    if config.model_type == "clip_vision_model" and "embeddings.class_embedding" in state:
        state["embeddings.class_embedding"] = state["embeddings.class_embedding"].flatten()
    if config.model_type.startswith("dinov2"):  # only pretraining reads it
        state["embeddings.mask_token"] = torch.zeros(1, config.hidden_size)
    return state


def of_block(name: str, value: Tensor, names: Names) -> dict[str, Tensor]:
    """One weight of a block (`3.attn.qkv.weight`); queries, keys and values are three."""
    number, _, within = name.partition(".")
    front = names.layer.format(number)
    if within.startswith("attn.qkv."):
        kind = within.rpartition(".")[2]
        return {
            f"{front}{names.attention.format(letter)}.{kind}": part
            for letter, part in zip("qkv", value.chunk(3), strict=True)
        }
    for theirs, ours in names.inside.items():
        if within == theirs or within.startswith(f"{theirs}."):
            return {front + ours + within.removeprefix(theirs): value}
    return {f"blocks.{name}": value}


def positions(value: Tensor, config: PreTrainedConfig, names: Names, origin: object) -> Tensor:
    """timm's position embeddings in the shape that transformers keeps.

    Where timm has added the class token's own to the class token, it is zero.
    """
    rows = value.flatten(0, -2)
    prefix = min(family_of(config).prefix(config), 1)
    places = (config.image_size // config.patch_size) ** 2
    if len(rows) == places and prefix:
        rows = torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
    if len(rows) != places + prefix:
        raise ModelError(
            "the position embeddings are of another grid",
            expected=f"{places + prefix} places or, without the class token, {places} "
            f"({config.image_size} pixels in patches of {config.patch_size})",
            given=len(rows),
            origin=origin,
        )
    return rows if names.position.endswith(".weight") else rows[None]


def resample_positions(value: Tensor, prefix: int, grid: int) -> Tensor:
    """Position embeddings [..., places, width] for another grid, as timm makes them on loading:
    bicubic, with antialiasing, prefix tokens as they are."""
    rows = value.flatten(0, -2).float()
    side = math.isqrt(len(rows) - prefix)
    if side == grid:
        return value
    maps = rows[prefix:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    size = (grid, grid)
    larger = functional.interpolate(maps, size=size, mode="bicubic", antialias=True)
    rows = torch.cat([rows[:prefix], larger[0].permute(1, 2, 0).flatten(0, 1)])
    return rows.to(value.dtype).reshape(*value.shape[:-2], *rows.shape)
