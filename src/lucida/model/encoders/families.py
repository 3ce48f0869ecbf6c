"""What differs between vision encoder types, by transformers' exact `model_type`.

A new type is one line here. Facts were checked against transformers 5.23 with random weights
(tests/model/test_encoders.py): prefix tokens, the attribute of the final norm, how other
resolutions are asked for, and what may be left out because no feature needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedConfig

from lucida.core.errors import ModelError, suggestion
from lucida.model.encoders import timm_encoder
from lucida.model.encoders.efficientnet_lite import EfficientNetLiteConfig
from lucida.model.encoders.timm_model import TimmConfig


def one_class_token(config: PreTrainedConfig) -> int:
    """A class token in front of the patches."""
    return 1


def class_and_registers(config: PreTrainedConfig) -> int:
    """A class token and register tokens in front of the patches."""
    return 1 + config.num_register_tokens


def nothing(config: PreTrainedConfig) -> int:
    """Patches only."""
    return 0


@dataclass(frozen=True, slots=True)
class Family:
    """How one encoder type is read.

    prefix: tokens in front of the patches; the class token is the first of them.
    norm: attribute of the final norm. resolution: `flag` when forward wants
    `interpolate_pos_encoding`, `patches` when it wants patches that are cut already and their grid,
    `any` when it adapts by itself. maps: the output that holds maps (images, width, rows, columns)
    of encoders in stages. cut: how layers above the features are left out, by the configuration or
    (`modules`) by taking stages off the model. config, init: what leaves out an unused pooling
    head. drop: modules that only the pooled output uses and that no configuration leaves out.
    """

    prefix: Callable[[PreTrainedConfig], int] = nothing
    norm: str | None = None
    resolution: Literal["flag", "patches", "any"] = "any"
    maps: Literal["hidden_states", "reshaped_hidden_states"] | None = None
    cut: Literal["config", "modules"] = "config"
    config: dict = field(default_factory=dict)
    init: dict = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    @property
    def stages(self) -> bool:
        """Whether the encoder works in stages, each with a coarser grid."""
        return self.maps is not None


# Pooled outputs are no features: their weights would get no gradient, and ranks wait for one.
HEADLESS = {"vision_use_head": False}
UNPOOLED = {"add_pooling_layer": False}

FAMILIES: dict[str, Family] = {
    "clip_vision_model": Family(one_class_token, "post_layernorm", "flag"),
    "siglip_vision_model": Family(nothing, "post_layernorm", "flag", config=HEADLESS),
    "siglip2_vision_model": Family(nothing, "post_layernorm", "patches", config=HEADLESS),
    "mlcd_vision_model": Family(one_class_token, "post_layernorm"),
    "dinov2": Family(one_class_token, "layernorm"),
    "dinov2_with_registers": Family(class_and_registers, "layernorm"),
    "dinov3_vit": Family(class_and_registers, "norm"),
    "vit": Family(one_class_token, "layernorm", "flag", init=UNPOOLED),
    "ijepa": Family(nothing, "layernorm", "flag", init=UNPOOLED),
    "resnet": Family(maps="hidden_states"),
    "convnext": Family(maps="hidden_states", drop=("layernorm",)),
    "convnextv2": Family(maps="hidden_states", drop=("layernorm",)),
    "dinov3_convnext": Family(maps="hidden_states", drop=("layer_norm",)),
    EfficientNetLiteConfig.model_type: Family(maps="hidden_states"),
    "swin": Family(norm="layernorm", maps="reshaped_hidden_states", cut="modules", init=UNPOOLED),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a vision configuration, or ModelError with the nearest known type."""
    if isinstance(config, TimmConfig):
        return timm_family(config)
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"vision encoders of type `{config.model_type}` are not known",
            remedy=suggestion(config.model_type, FAMILIES),
        )
    return FAMILIES[config.model_type]


def timm_family(config: TimmConfig) -> Family:
    """How one of timm's networks is read: what its configuration found out about it."""
    return Family(
        class_token_or_none,
        norm="norm" if config.final_norm else None,
        maps="hidden_states" if timm_encoder.in_stages(config) else None,
        cut="modules",
    )


def class_token_or_none(config: TimmConfig) -> int:
    """A class token in front of the patches if the network has one; registers are left out."""
    return int(config.class_token)
