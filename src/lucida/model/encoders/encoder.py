"""A vision encoder as a function from pixels to patch features."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from lucida.core.errors import ModelError
from lucida.core.spec import EncoderSpec
from lucida.core.spec.vision import Take
from lucida.model.encoders import timm_encoder
from lucida.model.encoders.families import family_of
from lucida.model.encoders.narrow import mend_narrow
from lucida.model.encoders.timm_model import TimmConfig
from lucida.model.folder import CONFIG, read_json
from lucida.model.loading import load_config, load_whole, refusing


class VisionEncoder(nn.Module):
    """Features of one encoder, at one or several of its layers.

        pixel_values [images, 3, height, width]
          → model (only the layers up to the last feature layer exist)
          → hidden states of `layers`, raw, or each through the final norm when `normed`
          → side by side in the channels
          → `take`: the patches, row by row of the picture; the class token and the patches; the
            class token alone; or the mean of the patches
          → features [images, patches, vision]

    Register tokens are never taken. Encoders in stages give their map of places as patches.
    `layers` count from the end of the depth that the model's configuration names.
    """

    def __init__(
        self, model: nn.Module, normed: bool, take: Take, layers: Sequence[int] = (-1,)
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family_of(model.config)
        self.normed = normed
        self.take = take
        self.named_layers = tuple(layers)
        check_choices(model.config, normed, take, layers)
        self.cut(max(layers))
        mend_narrow(self.model)

    def cut(self, last: int) -> None:
        """Leave out what stands behind the last feature layer and what no feature needs: weights
        without a gradient would stall data parallelism."""
        model = self.model
        self.layers = tuple(layer - last - 1 for layer in self.named_layers)  # of the cut model
        unused = self.family.drop if self.normed else (*self.family.drop, self.family.norm)
        for name in filter(None, unused):
            setattr(model, name, nn.Identity())
        if last < -1:
            model.encoder.layers = model.encoder.layers[: last + 1]

    def forward(
        self, pixel_values: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images patches vision"]:
        """Features of a batch of images; any grid that the encoder can take."""
        taken = self.states(pixel_values)
        features = taken[0] if len(taken) == 1 else torch.cat(taken, dim=-1)
        prefix = self.family.prefix(self.model.config)
        patches = features[:, prefix:]
        if self.take == "patches":
            return patches
        if self.take == "mean":
            return patches.mean(1, keepdim=True)
        beginning = features[:, :1]
        return beginning if self.take == "cls" else torch.cat([beginning, patches], dim=1)

    def states(self, pixel_values: Tensor) -> list[Tensor]:
        """What comes out of each feature layer [images, prefix and places, width]."""
        output = self.model(**self.inputs(pixel_values), output_hidden_states=True)
        states = output[self.family.maps or "hidden_states"]
        taken = [states[layer] for layer in self.layers]
        if self.family.stages:
            taken = [state.flatten(2).transpose(1, 2) for state in taken]
        if self.normed:
            norm = getattr(self.model, self.family.norm)
            taken = [norm(state) for state in taken]
        return taken

    def inputs(self, pixel_values: Tensor) -> dict[str, Tensor | bool]:
        """The arguments with which this encoder takes pixels of any size."""
        if self.family.resolution == "flag":
            other = list(pixel_values.shape[-2:]) != own_size(self.model.config)
            return {"pixel_values": pixel_values, "interpolate_pos_encoding": other}
        if self.family.resolution == "patches":
            return cut_into_patches(pixel_values, self.model.config.patch_size)
        return {"pixel_values": pixel_values}

    def grid(self, height: int, width: int, patches: int) -> tuple[int, int] | None:
        """Rows and columns of the features of such pixels, None where they are no grid."""
        return find_grid(self.take, height, width, patches)


class TimmEncoder(VisionEncoder):
    """Features of a network of timm's; see `timm_encoder` for what its layers are."""

    def cut(self, last: int) -> None:
        """Leave out what stands behind the last feature layer, and the head."""
        depth = depth_of(self.model.config)
        self.layers = tuple(depth + layer for layer in self.named_layers)
        timm_encoder.cut_after(self.model.timm_model, depth + last, self.normed)

    def states(self, pixel_values: Tensor) -> list[Tensor]:
        """What comes out of each feature layer; of the tokens in front, the class token alone."""
        return timm_encoder.hidden_states(
            self.model.timm_model, self.model.config, pixel_values, self.layers, self.normed
        )


def make_encoder(
    model: nn.Module, normed: bool, take: Take, layers: Sequence[int] = (-1,)
) -> VisionEncoder:
    """The encoder around a model of transformers or timm."""
    kind = TimmEncoder if isinstance(model.config, TimmConfig) else VisionEncoder
    return kind(model, normed, take, layers)


def find_grid(take: Take, height: int, width: int, patches: int) -> tuple[int, int] | None:
    """Rows and columns of so many features of such pixels, None where they are no grid."""
    if take != "patches":
        return None
    side = math.isqrt(patches)
    if height == width and side * side == patches:
        return side, side
    # Rows / columns is about height / width, and rows x columns the number of patches.
    rows = round(math.sqrt(patches * height / width))
    return (rows, patches // rows) if rows and patches % rows == 0 else None


def find_stride(config: PreTrainedConfig, size: int, patches: int) -> int:
    """Pixels between two patches, given how many there are of a square of `size`."""
    patch = getattr(config, "patch_size", None)
    if not family_of(config).stages and isinstance(patch, int):
        return patch
    return round(size / math.isqrt(patches))


def own_size(config: PreTrainedConfig) -> list[int]:
    """Height and width that the position embeddings were made for."""
    size = config.image_size
    return [size, size] if isinstance(size, int) else list(size)


def cut_into_patches(pixel_values: Tensor, patch: int) -> dict[str, Tensor]:
    """Patches [images, patches, patch x patch x 3] with their grid, as SigLIP 2 (NaFlex) has them.

    What is left at the right and the bottom is not seen, as by a convolution.
    """
    images, _, height, width = pixel_values.shape
    rows, columns = height // patch, width // patch
    seen = pixel_values[:, :, : rows * patch, : columns * patch]
    # [images, 3, rows, p, columns, p] → [images, rows, columns, p, p, 3]: channels last in a patch.
    cut = seen.reshape(images, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    shapes = torch.tensor([[rows, columns]] * images, device=cut.device)
    return {
        "pixel_values": cut.reshape(images, rows * columns, patch * patch * 3),
        "pixel_attention_mask": shapes.new_ones(images, rows * columns),
        "spatial_shapes": shapes,
    }


def check_choices(
    config: PreTrainedConfig, normed: bool, take: Take, layers: Sequence[int]
) -> None:
    """Refuse what this encoder type has not got: a final norm, a class token, grids of one size."""
    family = family_of(config)
    if normed and family.norm is None:
        raise ModelError(
            f"{config.model_type} encoders have no final norm over their features",
            remedy="set model.vision.normed=false",
        )
    if normed and family.stages and tuple(layers) != (-1,):
        raise ModelError(
            "the final norm fits the last stage only",
            expected="model.vision.feature_layer=-1",
            given=list(layers),
            remedy="set model.vision.normed=false, or take the last stage",
        )
    if take in ("cls_patches", "cls") and family.prefix(config) == 0:
        raise ModelError(
            f"{config.model_type} encoders have no class token",
            given=f"model.vision.take={take}",
            remedy="set model.vision.take=patches, or mean for one vector",
        )
    if len(layers) > 1 and family.stages:
        raise ModelError(
            f"stages of {config.model_type} encoders have different grids and cannot be joined",
            expected="one feature layer",
            given=f"{len(layers)} layers",
            remedy="name one stage in model.vision.feature_layer",
        )


def depth_of(config: PreTrainedConfig) -> int:
    """Number of layers, or of stages of an encoder that works in stages."""
    if isinstance(config, TimmConfig):
        return len(config.intermediates)
    return len(config.depths) if family_of(config).stages else config.num_hidden_layers


def truncate_config(
    config: PreTrainedConfig, feature_layer: int | list[int]
) -> tuple[PreTrainedConfig, tuple[int, ...]]:
    """The configuration that ends where the last features are taken, and the layers, counted from
    the end of its depth.

    `feature_layer` indexes hidden states: 0 is the embedding, k the output of layer k, negative
    counts from the end. Layers above are neither loaded nor computed nor saved. Worked example, 24
    layers, [-2, 12]: the configuration has 23 layers and the layers are (-1, -12).
    """
    depth = depth_of(config)
    named = feature_layer if isinstance(feature_layer, list) else [feature_layer]
    places = [layer if layer >= 0 else depth + 1 + layer for layer in named]
    for layer, place in zip(named, places, strict=True):
        if not 1 <= place <= depth:
            raise ModelError(
                "the feature layer does not exist",
                expected=f"1 to {depth}, or -{depth} to -1",
                given=layer,
                origin=f"model.vision.feature_layer of a {config.model_type} encoder",
            )
    if len(set(places)) < len(places):
        raise ModelError(
            "a feature layer is named twice",
            expected=f"different layers of {depth}",
            given=named,
            origin=f"model.vision.feature_layer of a {config.model_type} encoder",
        )
    keep = max(places)
    family = family_of(config)
    if family.cut == "modules":
        return config, tuple(place - depth - 1 for place in places)
    layers = tuple(place - keep - 1 for place in places)
    if family.stages:
        values = config.to_dict() | {"depths": config.depths[:keep]}
        values["hidden_sizes"] = config.hidden_sizes[:keep]
        for derived in ("stage_names", "out_features", "out_indices", "_out_features"):
            values.pop(derived, None)
        if "num_stages" in values:
            values["num_stages"] = keep
        return type(config).from_dict(values), layers
    if hasattr(config, "stage_names"):  # DINOv2's also names its layers, which are fewer now
        values = config.to_dict() | {"num_hidden_layers": keep}
        for derived in ("stage_names", "out_features", "out_indices"):
            values.pop(derived, None)
        shorter = type(config).from_dict(values)
    else:
        shorter = copy.deepcopy(config)
        shorter.num_hidden_layers = keep
    for name, value in family.config.items():
        setattr(shorter, name, value)
    return shorter, layers


def vision_config(path: str) -> PreTrainedConfig:
    """The encoder's configuration; of a dual checkpoint (CLIP, SigLIP) its vision half."""
    if path.startswith(timm_encoder.BY_NAME):
        return timm_encoder.timm_config(path)
    if Path(path).is_dir():
        read_json(Path(path) / CONFIG)
    values, _ = PreTrainedConfig.get_config_dict(path)
    if timm_encoder.from_timm(values):
        return timm_encoder.timm_config(path, values)
    config = load_config(path)
    return getattr(config, "vision_config", config)


def new_model(config: PreTrainedConfig) -> nn.Module:
    """An encoder of this configuration with random weights (transformers fills them on loading)."""
    return AutoModel.from_config(config, **family_of(config).init)


def load_encoder(spec: EncoderSpec) -> VisionEncoder:
    """The pretrained encoder that a recipe names, cut at its feature layer, in fp32.

    Layers above it, and of a dual checkpoint the other half, are left out; ModelError for layers
    beyond those that the checkpoint's own configuration names.
    """
    whole = vision_config(spec.path)
    with refusing(spec.path, "its configuration cannot be used"):
        config, layers = truncate_config(whole, spec.feature_layer)
        check_choices(config, spec.normed, spec.take, layers)
        family = family_of(config)
    model = load_whole(
        AutoModel,
        timm_encoder.weights_of(spec.path),
        config=config,
        unused=family.drop,
        depth=depth_of(whole),
        init=family.init,
    )
    return make_encoder(model, spec.normed, spec.take, layers)
