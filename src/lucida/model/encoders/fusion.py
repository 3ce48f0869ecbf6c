"""Several vision encoders over the same picture, their features fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError
from lucida.core.spec import VisionSpec
from lucida.model.config import LucidaConfig
from lucida.model.encoders.encoder import VisionEncoder, load_encoder, make_encoder, new_model
from lucida.model.loading import reachable
from lucida.model.parts import part_path

Fusion = Literal["channels", "tokens", "interleaved"]
Side = tuple[int, int]


class FusedEncoder(nn.Module):
    """Features of several encoders as those of one.

        pixels: for each encoder [images, 3, height, width], its own size and normalisation
          → each encoder → features [images, patches, vision] of its own
          → channels      side by side in each patch; smaller grids are resampled to the first's
            tokens        one encoder after the other:  a1 a2 a3 a4 b1 b2
            interleaved   token by token in turn:       a1 b1 a2 b2 a3 b3
          → features [images, patches, vision]

    ModelError, with both values, when the grids or widths do not allow it.

    Reference: Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865, section 4.2 (channels);
    Tong et al., Eyes Wide Shut?, 2024, arXiv 2401.06209, section 4 (interleaved).
    """

    def __init__(self, encoders: Sequence[VisionEncoder], fusion: Fusion) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.fusion = fusion

    def forward(self, *pixels: Tensor) -> Float[Tensor, "images patches vision"]:
        """Fused features; `pixels` has one tensor for each encoder."""
        features = [encode(shown) for encode, shown in zip(self.encoders, pixels, strict=True)]
        shapes = [tuple(given.shape[1:]) for given in features]
        grids = [
            encoder.grid(*shown.shape[-2:], places)
            for encoder, shown, (places, _) in zip(self.encoders, pixels, shapes, strict=True)
        ]
        # Pictures of their own shape have grids that the design has not seen: checked at every
        # call.
        fused_shape(self.fusion, shapes, grids)
        if self.fusion == "tokens":
            return torch.cat(features, dim=1)
        if self.fusion == "interleaved":
            return torch.stack(features, dim=2).flatten(1, 2)  # [images, places, encoders, width]
        if len({places for places, _ in shapes}) > 1:
            features = [
                resample_features(given, grid, grids[0])
                for given, grid in zip(features, grids, strict=True)
            ]
        return torch.cat(features, dim=-1)


def fused_shape(
    fusion: Fusion, shapes: Sequence[Side], grids: Sequence[Side | None]
) -> tuple[int, int]:
    """Number and width of fused features, from those of each encoder (`shapes`) and the rows and
    columns that they make; ModelError, with both values, where they cannot be fused."""
    places, widths = zip(*shapes, strict=True)
    if fusion == "channels":
        if len(set(places)) > 1:
            check_grids(places, grids)
        return places[0], sum(widths)
    if len(set(widths)) > 1:
        raise ModelError(
            f"encoders of different widths cannot be fused as {fusion}",
            expected="equal widths",
            given=list(widths),
            remedy="set model.vision.fusion=channels, or choose encoders of one width",
        )
    if fusion == "interleaved" and len(set(places)) > 1:
        raise ModelError(
            "encoders with different numbers of patches cannot take turns",
            expected="equal numbers of patches",
            given=list(places),
            remedy="set the encoders' sizes (model.vision.size, more[n].size) so that size /"
            " patch is equal, or set model.vision.fusion=tokens",
        )
    return sum(places), widths[0]


def check_grids(places: Sequence[int], grids: Sequence[Side | None]) -> None:
    """ModelError where smaller grids cannot be resampled to the first one."""
    first = grids[0]
    for number, grid in enumerate(grids):
        if first is None or grid is None:
            raise ModelError(
                "features that are no grid cannot be fused with another number of them",
                expected=list(places[:1]),
                given=list(places),
                remedy="set take=patches for all encoders of model.vision, or give all the same"
                " number of features",
            )
        if grid[0] > first[0] or grid[1] > first[1]:
            raise ModelError(
                f"the grid of encoder {number + 1} is larger than the first encoder's",
                expected=f"at most {first[0]} x {first[1]} patches",
                given=f"{grid[0]} x {grid[1]}",
                remedy="name the encoder with the largest grid first, or set its size"
                " (model.vision.more[n].size)",
            )


def resample_features(
    features: Float[Tensor, "images patches vision"], grid: Side, wanted: Side
) -> Float[Tensor, "images tokens vision"]:
    """Features of a grid of places, bilinearly between those of the grid that they have."""
    if grid == wanted:
        return features
    maps = features.transpose(1, 2).unflatten(2, grid)  # [images, vision, rows, columns]
    larger = functional.interpolate(maps, size=wanted, mode="bilinear", align_corners=False)
    return larger.flatten(2).transpose(1, 2)


def encoders_of(vision: VisionEncoder | FusedEncoder) -> list[VisionEncoder]:
    """The single encoders."""
    return list(vision.encoders) if isinstance(vision, FusedEncoder) else [vision]


def joined(encoders: Sequence[VisionEncoder], fusion: Fusion) -> VisionEncoder | FusedEncoder:
    """One encoder as it is, several fused."""
    return encoders[0] if len(encoders) == 1 else FusedEncoder(encoders, fusion)


def new_vision(config: LucidaConfig) -> VisionEncoder | FusedEncoder:
    """The vision encoder of a configuration, or all of them fused, with random weights."""
    spec = config.model_spec.vision
    encoders = [
        make_encoder(new_model(each), encoder.normed, encoder.take, layers)
        for each, encoder, layers in zip(
            config.vision_configs, (spec, *spec.more), config.layers, strict=True
        )
    ]
    return joined(encoders, spec.fusion)


def load_vision(spec: VisionSpec) -> VisionEncoder | FusedEncoder:
    """The pretrained encoder of a recipe, or all of them fused; PartError for one that is not at
    hand."""
    loaded = []
    for encoder in (spec, *spec.more):
        with reachable(encoder.path, "model.vision"):
            path = part_path(encoder.path)
            loaded.append(load_encoder(encoder.model_copy(update={"path": path})))
    return joined(loaded, spec.fusion).eval()
