"""Flamingo's perceiver resampler: learned queries that read the patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import PerceiverProjectorSpec
from lucida.model.projectors.grid import Patches
from lucida.model.projectors.projector import Projector
from lucida.model.projectors.reading import Reading


class PerceiverProjector(Projector):
    """A fixed number of learned vectors that read patches and each other, then one matrix.

        queries ──▶ + reading(norm(queries) of [norm(patches), norm(queries)]) ──▶ + mlp(norm) ──▶ …

    It works in the vision encoder's width; nothing in it has a bias but the norms and the matrix at
    its end. Equal to the resampler of transformers' Idefics (tests/model/test_projectors.py).

    Reference: Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, 2022,
    arXiv 2204.14198, section 2.1 and appendix A.1.1.
    """

    places = False

    def __init__(
        self, spec: PerceiverProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(spec.queries, vision))
        self.blocks = nn.ModuleList(PerceiverBlock(vision, spec.heads) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(vision)
        self.linear = nn.Linear(vision, language)

    @staticmethod
    def tokens(spec: PerceiverProjectorSpec, patches: Patches) -> int:
        """One for each query, however many patches there are."""
        return spec.queries

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each query."""
        return self.linear(self.resample(features))

    def resample(
        self, features: Float[Tensor, "images patches vision"]
    ) -> Float[Tensor, "images tokens vision"]:
        """The queries after reading."""
        queries = self.queries.expand(len(features), -1, -1)
        for block in self.blocks:
            queries = block(queries, features)
        return self.norm(queries)


class PerceiverBlock(nn.Module):
    """The queries read the patches and themselves, then each goes through an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_patches = nn.LayerNorm(width)
        self.norm_queries = nn.LayerNorm(width)
        self.reading = Reading(width, width, heads, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.ReLU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """The queries after one block."""
        normed = self.norm_queries(queries)
        # [images, patches + queries, width]: queries read themselves too.
        read = torch.cat([self.norm_patches(patches), normed], dim=1)
        queries = queries + self.reading(normed, read)
        return queries + self.mlp(queries)
