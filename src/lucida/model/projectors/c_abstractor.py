"""Honeybee's convolutional abstractor."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError
from lucida.core.spec import AbstractorProjectorSpec
from lucida.model.projectors.grid import Patches, grid_of, sides
from lucida.model.projectors.projector import Projector

WHY = "the projector `c_abstractor` needs"


class AbstractorProjector(Projector):
    """Convolution blocks, pooling to side x side, convolution blocks, and two linear layers.

    A block is RegNet's: 1 x 1, then 3 x 3 within each channel, squeeze and excite, 1 x 1, with a
    norm over the channels behind each convolution, and a way past it. It works in the vision
    encoder's width; Honeybee's has 1024 and adds a learned vector to each place in front, which
    would fix the grid and is left out.

    Reference: Cha et al., Honeybee: Locality-enhanced Projector for Multimodal LLM, 2023,
    arXiv 2312.06742, section 3.2; Radosavovic et al., Designing Network Design Spaces, 2020,
    arXiv 2003.13678.
    """

    neighbours = True

    def __init__(
        self, spec: AbstractorProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.spec = spec
        self.patches = patches
        self.before = nn.Sequential(*(ConvolutionBlock(vision) for _ in range(spec.depth)))
        self.behind = nn.Sequential(*(ConvolutionBlock(vision) for _ in range(spec.depth)))
        self.layers = nn.Sequential(
            nn.Linear(vision, language), nn.SiLU(), nn.Linear(language, language)
        )

    @staticmethod
    def tokens(spec: AbstractorProjectorSpec, patches: Patches) -> int:
        """side²; ModelError when the grid has fewer patches per side."""
        height, width = sides(patches, WHY)
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
        grid = grid_of(features, grid, self.patches, WHY)
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
