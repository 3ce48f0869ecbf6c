"""Several vision encoders over the same picture, their features fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError
from lucida.model.encoders.encoder import VisionEncoder

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

    def forward(self, pixels: Sequence[Tensor]) -> Float[Tensor, "images patches vision"]:
        """Fused features; `pixels` has one tensor for each encoder."""
        if len(pixels) != len(self.encoders):
            raise ModelError(
                "each encoder needs its own pixels of the images",
                expected=f"{len(self.encoders)} tensors",
                given=len(pixels),
                remedy="use the processor saved with this model",
            )
        features = [encode(shown) for encode, shown in zip(self.encoders, pixels, strict=True)]
        if self.fusion == "channels":
            return torch.cat(self.on_one_grid(features, pixels), dim=-1)
        widths = [given.shape[-1] for given in features]
        if len(set(widths)) > 1:
            raise ModelError(
                f"encoders of different widths cannot be fused as {self.fusion}",
                expected="equal widths",
                given=widths,
                remedy="set model.vision.fusion=channels, or choose encoders of one width",
            )
        if self.fusion == "tokens":
            return torch.cat(features, dim=1)
        patches = [given.shape[1] for given in features]
        if len(set(patches)) > 1:
            raise ModelError(
                "encoders with different numbers of patches cannot take turns",
                expected="equal numbers of patches",
                given=patches,
                remedy="set the encoders' sizes (model.vision.size, more[n].size) so that size /"
                " patch is equal, or set model.vision.fusion=tokens",
            )
        return torch.stack(features, dim=2).flatten(1, 2)

    def on_one_grid(self, features: list[Tensor], pixels: Sequence[Tensor]) -> list[Tensor]:
        """The features with smaller grids resampled (bilinearly) to the first encoder's."""
        count = features[0].shape[1]
        if all(given.shape[1] == count for given in features):
            return features
        grids = [
            encoder.grid(*shown.shape[-2:], given.shape[1])
            for encoder, shown, given in zip(self.encoders, pixels, features, strict=True)
        ]
        first = grids[0]
        for number, grid in enumerate(grids):
            if first is None or grid is None:
                raise ModelError(
                    "features that are no grid cannot be fused with another number of them",
                    expected=[given.shape[1] for given in features[:1]],
                    given=[given.shape[1] for given in features],
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
        return [
            resample_features(given, grid, first)
            for given, grid in zip(features, grids, strict=True)
        ]


def resample_features(
    features: Float[Tensor, "images patches vision"], grid: Side, wanted: Side
) -> Float[Tensor, "images tokens vision"]:
    """Features of a grid of places, bilinearly between those of the grid that they have."""
    if grid == wanted:
        return features
    maps = features.transpose(1, 2).unflatten(2, grid)
    larger = functional.interpolate(maps, size=wanted, mode="bilinear", align_corners=False)
    return larger.flatten(2).transpose(1, 2)


def encoders_of(vision: VisionEncoder | FusedEncoder) -> list[VisionEncoder]:
    """The single encoders."""
    return list(vision.encoders) if isinstance(vision, FusedEncoder) else [vision]


def joined(encoders: Sequence[VisionEncoder], fusion: Fusion) -> VisionEncoder | FusedEncoder:
    """One encoder as it is, several fused."""
    return encoders[0] if len(encoders) == 1 else FusedEncoder(encoders, fusion)
