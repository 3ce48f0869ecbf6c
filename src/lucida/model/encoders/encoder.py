"""A vision encoder as a function from pixels to patch features."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from lucida.core.errors import ModelError
from lucida.core.spec import VisionSpec
from lucida.model.encoders.families import family_of
from lucida.model.loading import complete, quiet_loading


class VisionEncoder(nn.Module):
    """Patch features of one encoder, at one of its layers.

        pixel_values [images, 3, side, side]
          → model (only the layers up to the feature layer exist)
          → its last hidden state, raw, or through the final norm when `normed`
          → without register tokens, and without the class token unless `take` is `cls_patches`
          → features [images, patches, width], row by row of the picture

    Convolutional encoders give their map of places as patches.
    """

    def __init__(
        self, model: nn.Module, normed: bool, take: Literal["patches", "cls_patches"]
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family_of(model.config)
        self.normed = normed
        self.take = take
        check_choices(model.config, normed, take)
        unused = self.family.drop if normed else (*self.family.drop, self.family.norm)
        for name in filter(None, unused):  # weights without a gradient would stall data parallelism
            setattr(model, name, nn.Identity())

    def forward(
        self, pixel_values: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images patches vision"]:
        """Features of a batch of images; any grid that the encoder can take."""
        options = {}
        if self.family.resolution == "flag":
            own = self.model.config.image_size
            options["interpolate_pos_encoding"] = pixel_values.shape[-1] != own
        output = self.model(pixel_values, output_hidden_states=True, **options)
        features = output.hidden_states[-1]
        if self.family.stages:
            return features.flatten(2).transpose(1, 2)  # [images, height x width, width]
        if self.normed:
            features = getattr(self.model, self.family.norm)(features)
        prefix = self.family.prefix(self.model.config)
        patches = features[:, prefix:]
        return patches if self.take == "patches" else torch.cat([features[:, :1], patches], dim=1)


def check_choices(config: PreTrainedConfig, normed: bool, take: str) -> None:
    """Refuse what this encoder type has not got: a final norm, or a class token."""
    family = family_of(config)
    if normed and family.norm is None:
        raise ModelError(
            f"{config.model_type} encoders have no final norm over their features",
            remedy="set model.vision.normed=false",
        )
    if take == "cls_patches" and family.prefix(config) == 0:
        raise ModelError(
            f"{config.model_type} encoders have no class token",
            remedy="set model.vision.take=patches",
        )


def depth_of(config: PreTrainedConfig) -> int:
    """Number of layers, or of stages of a convolutional encoder."""
    return len(config.depths) if family_of(config).stages else config.num_hidden_layers


def truncated(config: PreTrainedConfig, feature_layer: int) -> PreTrainedConfig:
    """The configuration that ends where the features are taken.

    `feature_layer` indexes hidden states: 0 is the embedding, k the output of layer k, negative
    counts from the end. Layers above it are neither loaded nor computed nor saved.
    """
    depth = depth_of(config)
    keep = feature_layer if feature_layer >= 0 else depth + 1 + feature_layer
    if not 1 <= keep <= depth:
        raise ModelError(
            "the feature layer does not exist",
            expected=f"1 to {depth}, or -{depth} to -1",
            given=feature_layer,
            origin=f"model.vision.feature_layer of a {config.model_type} encoder",
        )
    family = family_of(config)
    if family.stages:
        values = config.to_dict() | {"depths": config.depths[:keep]}
        values["hidden_sizes"] = config.hidden_sizes[:keep]
        for derived in ("stage_names", "out_features", "out_indices", "_out_features"):
            values.pop(derived, None)
        values["num_stages"] = keep
        return type(config).from_dict(values)
    shorter = copy.deepcopy(config)
    shorter.num_hidden_layers = keep
    for name, value in family.config.items():
        setattr(shorter, name, value)
    return shorter


def vision_config(path: str) -> PreTrainedConfig:
    """The encoder's configuration; of a dual checkpoint (CLIP, SigLIP) its vision half."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return getattr(config, "vision_config", config)


def new_model(config: PreTrainedConfig) -> nn.Module:
    """An encoder of this configuration with random weights (transformers fills them on loading)."""
    return AutoModel.from_config(config, **family_of(config).init)


def load_encoder(spec: VisionSpec) -> VisionEncoder:
    """The pretrained encoder that a recipe names, cut at its feature layer, in fp32."""
    config = truncated(vision_config(spec.path), spec.feature_layer)
    with quiet_loading():
        model, report = AutoModel.from_pretrained(
            spec.path,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `complete` refuses them, with the file's name
            **family_of(config).init,
        )
    complete(report, spec.path, unused=family_of(config).drop)
    return VisionEncoder(model, spec.normed, spec.take)
