"""Averages of neighbouring patches."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lucida.core.spec import MlpProjectorSpec, PoolProjectorSpec
from lucida.model.projectors.grid import Patches, blocks, grid_of
from lucida.model.projectors.mlp import MlpProjector
from lucida.model.projectors.projector import Projector

WHY = "the projector `pool` needs"


class PoolProjector(Projector):
    """The mean of each block of factor x factor neighbours, then an MLP with GELU.

    A block at the edge of a grid that does not divide is the mean of the patches it has.

    Reference: Yao et al., DeCo: Decoupling Token Compression from Semantic Abstraction in
    Multimodal Large Language Models, 2024, arXiv 2405.20985, section 3.
    """

    neighbours = True

    def __init__(
        self, spec: PoolProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.patches = patches
        self.factor = spec.factor
        self.mlp = MlpProjector(MlpProjectorSpec(depth=spec.depth), vision, language, patches)

    @staticmethod
    def tokens(spec: PoolProjectorSpec, patches: Patches) -> int:
        """One for each block, those at the edge included."""
        height, width = blocks(patches, spec.factor, WHY)
        return height * width

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each block."""
        grid = grid_of(features, grid, self.patches, WHY)
        picture = features.transpose(1, 2).unflatten(2, grid)
        # At the edge it divides by the patches that are there, not by factor².
        pooled = functional.avg_pool2d(picture, self.factor, ceil_mode=True)
        return self.mlp(pooled.flatten(2).transpose(1, 2))
