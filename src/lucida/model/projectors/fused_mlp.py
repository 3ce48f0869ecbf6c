"""Prismatic's projector for fused encoders."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import FusedMlpProjectorSpec
from lucida.model.projectors.grid import Patches, count
from lucida.model.projectors.projector import Projector


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

    @staticmethod
    def tokens(spec: FusedMlpProjectorSpec, patches: Patches) -> int:
        """One for each patch."""
        return count(patches)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        return self.layers(features)
