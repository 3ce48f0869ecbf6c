"""Transformer blocks over the patches."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import TransformerProjectorSpec
from lucida.model.projectors.grid import Patches, count
from lucida.model.projectors.projector import Projector
from lucida.model.projectors.reading import Reading


class TransformerProjector(Projector):
    """Blocks in which the patches of an image read each other, a norm, and one matrix.

    Each block is x + attention(norm(x)), then x + mlp(norm(x)) with four times the width and GELU.
    VILA's paper compares a Transformer block with a linear layer (table 1) and gives no details;
    no released code has it. The block here is the usual one of vision transformers.

    Reference: Lin et al., VILA: On Pre-training for Visual Language Models, 2023, arXiv 2312.07533,
    table 1; Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, arXiv 2010.11929, section 3.1.
    """

    def __init__(
        self, spec: TransformerProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(vision, spec.heads) for _ in range(spec.layers)
        )
        self.norm = nn.LayerNorm(vision)
        self.linear = nn.Linear(vision, language)

    @staticmethod
    def tokens(spec: TransformerProjectorSpec, patches: Patches) -> int:
        """One for each patch."""
        return count(patches)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        for block in self.blocks:
            features = block(features)
        return self.linear(self.norm(features))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_reading = nn.LayerNorm(width)
        self.reading = Reading(width, width, heads, bias=True)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """The patches after one block."""
        normed = self.before_reading(patches)
        patches = patches + self.reading(normed, normed)
        return patches + self.mlp(self.before_mlp(patches))
