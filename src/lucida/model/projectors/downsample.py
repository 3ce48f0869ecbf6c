"""VILA's and NVILA's projectors: a block of neighbouring patches becomes one token."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import DownsampleProjectorSpec
from lucida.model.projectors.grid import Patches, blocks, grid_of, into_channels
from lucida.model.projectors.projector import Projector

WHY = "the projector `downsample` needs"


class DownsampleProjector(Projector):
    """2 x 2 or 3 x 3 neighbours side by side in the channels, then norms and linear layers.

        factor 2   LayerNorm(4v), 4v → d, GELU, d → d                              VILA-1.5
        factor 3   LayerNorm(9v), 9v → 3v, GELU, LayerNorm(3v), 3v → d, GELU, d → d   NVILA-Lite
        linear     f²v → d                                          table 7 of the VILA paper

    A grid that does not divide is padded with zeros: 27 x 27 patches become 14 x 14 tokens, 32 x 32
    patches in threes 11 x 11.

    Reference: Lin et al., VILA: On Pre-training for Visual Language Models, 2023, arXiv 2312.07533,
    table 7; Liu et al., NVILA: Efficient Frontier Visual Language Models, 2024, arXiv 2412.04468.
    """

    neighbours = True

    def __init__(
        self, spec: DownsampleProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.patches = patches
        self.factor = spec.factor
        wide = spec.factor**2 * vision
        layers: list[nn.Module] = []
        if spec.linear:
            layers = [nn.Linear(wide, language)]
        elif spec.factor == 2:
            layers = [nn.LayerNorm(wide), nn.Linear(wide, language)]
        else:
            layers = [nn.LayerNorm(wide), nn.Linear(wide, 3 * vision), nn.GELU()]
            layers += [nn.LayerNorm(3 * vision), nn.Linear(3 * vision, language)]
        if not spec.linear:
            layers += [nn.GELU(), nn.Linear(language, language)]
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def tokens(spec: DownsampleProjectorSpec, patches: Patches) -> int:
        """One for each block, those at the edge included."""
        height, width = blocks(patches, spec.factor, WHY)
        return height * width

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each block."""
        grid = grid_of(features, grid, self.patches, WHY)
        return self.layers(into_channels(features, grid, self.factor))
