"""Projectors that join neighbouring patches, and so need their grid."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError
from lucida.core.spec import (
    AbstractorProjectorSpec,
    DownsampleProjectorSpec,
    MlpProjectorSpec,
    PixelShuffleProjectorSpec,
    PoolProjectorSpec,
    ProjectorSpec,
)
from lucida.model.projectors.grid import Patches, blocks, count, grid_of, into_channels, sides
from lucida.model.projectors.mlp import MlpProjector
from lucida.model.projectors.projector import Projector


class NeighbourProjector(Projector):
    """One token for each block of factor x factor patches, those at the edge included."""

    neighbours = True

    def __init__(self, spec: ProjectorSpec, patches: Patches) -> None:
        super().__init__()
        self.spec = spec
        self.patches = patches

    @staticmethod
    def tokens(spec: ProjectorSpec, patches: Patches) -> int:
        """One for each block."""
        return count(blocks(patches, spec.factor, say_need(spec)))

    def find_grid(self, features: Tensor, grid: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) of these features; ModelError where they are no grid."""
        return grid_of(features, grid, self.patches, say_need(self.spec))


def say_need(spec: ProjectorSpec) -> str:
    """How a message begins that tells what a projector needs."""
    return f"the projector `{spec.kind}` needs"


class DownsampleProjector(NeighbourProjector):
    """2 x 2 or 3 x 3 neighbours side by side in the channels, then norms and linear layers.

        factor 2   LayerNorm(4v), 4v → d, GELU, d → d                              VILA-1.5
        factor 3   LayerNorm(9v), 9v → 3v, GELU, LayerNorm(3v), 3v → d, GELU, d → d   NVILA-Lite
        linear     f²v → d                                          table 7 of the VILA paper

    A grid that does not divide is padded with zeros: 27 x 27 patches become 14 x 14 tokens, 32 x 32
    patches in threes 11 x 11.

    Reference: Lin et al., VILA: On Pre-training for Visual Language Models, 2023, arXiv 2312.07533,
    table 7; Liu et al., NVILA: Efficient Frontier Visual Language Models, 2024, arXiv 2412.04468.
    """

    def __init__(
        self, spec: DownsampleProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__(spec, patches)
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

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each block."""
        grid = self.find_grid(features, grid)
        return self.layers(into_channels(features, grid, self.spec.factor))


class PixelShuffleProjector(NeighbourProjector):
    """Blocks of factor x factor neighbours side by side in the channels, then a matrix, no bias.

    Reference: Laurençon et al., Building and better understanding vision-language models, 2024,
    arXiv 2408.12637, section 3.1; the order of the channels is that of transformers' Idefics3.
    """

    def __init__(
        self, spec: PixelShuffleProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__(spec, patches)
        self.linear = nn.Linear(spec.factor**2 * vision, language, bias=False)

    @staticmethod
    def tokens(spec: PixelShuffleProjectorSpec, patches: Patches) -> int:
        """One for each block; ModelError where blocks do not cover the grid evenly."""
        height, width = sides(patches, say_need(spec))
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
        grid = self.find_grid(features, grid)
        self.tokens(self.spec, grid)
        return self.linear(into_channels(features, grid, self.spec.factor))


class PoolProjector(NeighbourProjector):
    """The mean of each block of factor x factor neighbours, then an MLP with GELU.

    A block at the edge of a grid that does not divide is the mean of the patches it has.

    Reference: Yao et al., DeCo: Decoupling Token Compression from Semantic Abstraction in
    Multimodal Large Language Models, 2024, arXiv 2405.20985, section 3.
    """

    def __init__(
        self, spec: PoolProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__(spec, patches)
        self.mlp = MlpProjector(MlpProjectorSpec(depth=spec.depth), vision, language, patches)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each block."""
        grid = self.find_grid(features, grid)
        picture = features.transpose(1, 2).unflatten(2, grid)
        # At the edge it divides by the patches that are there, not by factor².
        pooled = functional.avg_pool2d(picture, self.spec.factor, ceil_mode=True)
        return self.mlp(pooled.flatten(2).transpose(1, 2))


class AbstractorProjector(NeighbourProjector):
    """Convolution blocks, pooling to side x side, convolution blocks, and two linear layers.

    A block is RegNet's: 1 x 1, then 3 x 3 within each channel, squeeze and excite, 1 x 1, with a
    norm over the channels behind each convolution, and a way past it. It works in the vision
    encoder's width; Honeybee's has 1024 and adds a learned vector to each place in front, which
    would fix the grid and is left out.

    Reference: Cha et al., Honeybee: Locality-enhanced Projector for Multimodal LLM, 2023,
    arXiv 2312.06742, section 3.2; Radosavovic et al., Designing Network Design Spaces, 2020,
    arXiv 2003.13678.
    """

    def __init__(
        self, spec: AbstractorProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__(spec, patches)
        self.before = nn.Sequential(*(ConvolutionBlock(vision) for _ in range(spec.depth)))
        self.behind = nn.Sequential(*(ConvolutionBlock(vision) for _ in range(spec.depth)))
        self.layers = nn.Sequential(
            nn.Linear(vision, language), nn.SiLU(), nn.Linear(language, language)
        )

    @staticmethod
    def tokens(spec: AbstractorProjectorSpec, patches: Patches) -> int:
        """side²; ModelError when the grid has fewer patches per side."""
        height, width = sides(patches, say_need(spec))
        if spec.side > min(height, width):
            raise ModelError(
                "the projector `c_abstractor` makes tokens fewer, never more",
                expected=f"model.projector.side of at most {min(height, width)}",
                given=spec.side,
                remedy="lower model.projector.side or raise model.image.size",
            )
        return spec.side**2

    @staticmethod
    def grid(spec: AbstractorProjectorSpec, patches: Patches) -> tuple[int, int]:
        """side x side."""
        return spec.side, spec.side

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, row by row of the pooled grid."""
        grid = self.find_grid(features, grid)
        self.tokens(self.spec, grid)
        # Places as a picture: [images, vision, height, width].
        picture = self.before(features.transpose(1, 2).unflatten(2, grid))
        pooled = functional.adaptive_avg_pool2d(picture, self.spec.side)
        return self.layers(self.behind(pooled).flatten(2).transpose(1, 2))


class ConvolutionBlock(nn.Module):
    """RegNet's block at one width: activation(x + convolutions(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = max(1, round(width / 4))
        self.first = nn.Conv2d(width, width, 1, bias=False)
        self.first_norm = ChannelNorm(width, eps=1e-6)
        self.within = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.within_norm = ChannelNorm(width, eps=1e-6)
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, width, 1)
        self.last = nn.Conv2d(width, width, 1, bias=False)
        self.last_norm = ChannelNorm(width, eps=1e-6)

    def forward(self, picture: Tensor) -> Tensor:
        """A picture [images, vision, height, width] of the same shape."""
        inner = functional.silu(self.first_norm(self.first(picture)))
        inner = functional.silu(self.within_norm(self.within(inner)))
        mean = inner.mean((2, 3), keepdim=True)
        inner = inner * self.excite(functional.silu(self.squeeze(mean))).sigmoid()
        return functional.silu(picture + self.last_norm(self.last(inner)))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place of a picture."""

    def forward(self, picture: Tensor) -> Tensor:
        """A picture [images, vision, height, width] of the same shape."""
        return super().forward(picture.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
