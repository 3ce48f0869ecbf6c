"""Projectors that take every vector by itself: matrices, or no projector at all."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.errors import ModelError
from lucida.core.spec import (
    ExpandProjectorSpec,
    FusedMlpProjectorSpec,
    IdentityProjectorSpec,
    LinearProjectorSpec,
    MlpProjectorSpec,
)
from lucida.model.projectors.grid import Patches, count, sides
from lucida.model.projectors.projector import Projector


class LinearProjector(Projector):
    """A linear map of every patch by itself.

    Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 4.1.
    """

    def __init__(
        self, spec: LinearProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(vision, language)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        return self.linear(features)


ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class MlpProjector(Projector):
    """LLaVA-1.5's projector, with an optional norm in front and a vector for each grid place.

        features → LayerNorm (norm) → + position (position) → linear, activation, … , linear

    Positions are added after the norm, where the features have unit scale. They start as sines and
    cosines of row and column and are trained: from zero they stay an order of magnitude smaller
    than the features, and boxes are not learnt (LOG.md). They fix the number of patches.

    Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023,
    arXiv 2310.03744, section 3; He et al., Masked Autoencoders Are Scalable Vision Learners, 2021,
    arXiv 2111.06377, appendix A.1 (two-dimensional sines and cosines).
    """

    def __init__(
        self, spec: MlpProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        hidden = spec.hidden or language
        widths = [vision, *[hidden] * (spec.depth - 1), language]
        self.norm = nn.LayerNorm(vision) if spec.norm else None
        self.position = nn.Parameter(sinusoids(patches, vision)) if spec.position else None
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[spec.activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    @staticmethod
    def tokens(spec: MlpProjectorSpec, patches: Patches) -> int:
        """One for each patch."""
        if spec.position:
            sides(patches, "positions (model.projector.position) need")
        return count(patches)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        if self.norm is not None:
            features = self.norm(features)
        if self.position is not None:
            if features.shape[1] != len(self.position):
                raise ModelError(
                    "the projector has a learned vector for each patch of another grid",
                    expected=len(self.position),
                    given=features.shape[1],
                    remedy="keep model.image.size, or set model.projector.position=false",
                )
            features = features + self.position
        return self.layers(features)


def sinusoids(patches: Patches, width: int) -> Float[Tensor, "patches width"]:
    """Sines and cosines of the row and the column of each place of a grid, row by row.

    A quarter of the width goes to each of the four; what is left over is zero. Wavelengths run from
    the grid's two sides down to two places, so that near places differ little and far ones much.
    """
    height, across = sides(patches, "positions need")
    side, quarter = max(height, across), width // 4
    # From two sides of the grid down to two places, evenly in the logarithm.
    waves = 2 * torch.pi / torch.logspace(math.log10(2 * side), math.log10(2), quarter)
    angles = torch.arange(side)[:, None] * waves  # [side, quarter]
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line[:height].repeat_interleave(across, 0), line[:across].repeat(height, 1)
    return nn.functional.pad(torch.cat([rows, columns], dim=1), (0, width - 4 * quarter))


class FusedMlpProjector(Projector):
    """Three linear layers, the first to four times the vision encoder's width.

        v → 4v → GELU → language → GELU → language

    Reference: Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865, section 4.2. The paper
    calls its projectors MLPs of two layers; the released fused models have these three.
    """

    def __init__(
        self, spec: FusedMlpProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(vision, 4 * vision),
            nn.GELU(),
            nn.Linear(4 * vision, language),
            nn.GELU(),
            nn.Linear(language, language),
        )

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        return self.layers(features)


class ExpandProjector(Projector):
    """A matrix from the one vector of an image to `tokens` times the language model's width.

    Reference: Mokady et al., ClipCap: CLIP Prefix for Image Captioning, 2021, arXiv 2111.09734,
    section 3.2 (there with an MLP).
    """

    places = False

    def __init__(
        self, spec: ExpandProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.count = spec.tokens
        self.linear = nn.Linear(vision, spec.tokens * language)

    @staticmethod
    def tokens(spec: ExpandProjectorSpec, patches: Patches) -> int:
        """As the spec says; ModelError unless an image has one vector."""
        if count(patches) != 1:
            raise ModelError(
                "the projector `expand` takes one vector of an image",
                expected=1,
                given=f"{count(patches)} patches",
                remedy="set model.vision.take=cls or mean",
            )
        return spec.tokens

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens."""
        return self.linear(features).reshape(len(features), self.count, -1)


class IdentityProjector(Projector):
    """The features themselves, for a vision encoder of the language model's width."""

    def __init__(
        self, spec: IdentityProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        if vision != language:
            raise ModelError(
                "the projector `identity` needs a vision encoder as wide as the language model",
                expected=language,
                given=vision,
                remedy="choose another model.projector (linear is the nearest)",
            )

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """The features."""
        return features
