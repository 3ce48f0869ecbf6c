"""Linear layers with an activation between them."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.errors import ModelError
from lucida.core.spec import MlpProjectorSpec

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class MlpProjector(nn.Module):
    """LLaVA-1.5's projector, with an optional norm in front and a vector for each grid place.

        features → LayerNorm (norm) → + position (position) → linear, activation, … , linear

    Positions are added after the norm, where the features have unit scale. They start at zero, so
    that a fresh projector treats all places alike; they fix the number of patches.

    Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023,
    arXiv 2310.03744, section 3.
    """

    def __init__(self, spec: MlpProjectorSpec, vision: int, language: int, patches: int) -> None:
        super().__init__()
        hidden = spec.hidden or language
        widths = [vision, *[hidden] * (spec.depth - 1), language]
        self.norm = nn.LayerNorm(vision) if spec.norm else None
        self.position = nn.Parameter(torch.zeros(patches, vision)) if spec.position else None
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[spec.activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(
        self, features: Float[Tensor, "images patches vision"]
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
