"""nanoVLM's and Idefics3's projector: fewer and wider tokens, then one matrix."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.errors import ModelError
from lucida.core.spec import PixelShuffleProjectorSpec
from lucida.model.projectors.grid import Patches, grid_of, into_channels, sides
from lucida.model.projectors.projector import Projector

WHY = "the projector `pixel_shuffle` needs"


class PixelShuffleProjector(Projector):
    """Blocks of factor x factor neighbours side by side in the channels, then a matrix, no bias.

    Reference: Laurençon et al., Building and better understanding vision-language models, 2024,
    arXiv 2408.12637, section 3.1; the order of the channels is that of transformers' Idefics3.
    """

    neighbours = True

    def __init__(
        self, spec: PixelShuffleProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.spec = spec
        self.patches = patches
        self.linear = nn.Linear(spec.factor**2 * vision, language, bias=False)

    @staticmethod
    def tokens(spec: PixelShuffleProjectorSpec, patches: Patches) -> int:
        """One for each block; ModelError where blocks do not cover the grid evenly."""
        height, width = sides(patches, WHY)
        if height % spec.factor or width % spec.factor:
            raise ModelError(
                "the projector `pixel_shuffle` needs a grid that its blocks cover evenly",
                expected=f"sides that {spec.factor} divides",
                given=f"{height} x {width} patches",
                remedy="set model.projector.factor or model.image.size, or take the projector"
                " `downsample`, which pads",
            )
        return height * width // spec.factor**2

    @staticmethod
    def block(spec: PixelShuffleProjectorSpec) -> int:
        """Nothing is padded, so its blocks have to fit."""
        return spec.factor

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each block."""
        grid = grid_of(features, grid, self.patches, WHY)
        self.tokens(self.spec, grid)
        return self.linear(into_channels(features, grid, self.spec.factor))
