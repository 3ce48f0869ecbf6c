"""BLIP-2's querying transformer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import QFormerProjectorSpec
from lucida.model.projectors.grid import Patches
from lucida.model.projectors.projector import Projector
from lucida.model.projectors.reading import Reading

EPSILON = 1e-12
"""Of the norms, as BERT's and BLIP-2's."""


class QFormerProjector(Projector):
    """Learned queries that read each other and, in every second layer, the patches.

        norm(queries) ──▶ norm(x + read each other) ──▶ norm(x + read patches) ──▶ norm(x + mlp) …

    BERT's order of norms, in the vision encoder's width. BLIP-2's own has the width of BERT (768),
    12 layers and starts from BERT's weights; this one starts at random. Equal to transformers'
    Blip2QFormerModel without dropout (tests/model/test_projectors.py).

    Reference: Li et al., BLIP-2, 2023, arXiv 2301.12597, section 3.1.
    """

    places = False

    def __init__(
        self, spec: QFormerProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(spec.queries, vision))
        self.norm = nn.LayerNorm(vision, eps=EPSILON)
        self.blocks = nn.ModuleList(
            QFormerBlock(vision, spec.heads, sees=number % spec.cross_every == 0)
            for number in range(spec.layers)
        )
        self.linear = nn.Linear(vision, language)

    @staticmethod
    def tokens(spec: QFormerProjectorSpec, patches: Patches) -> int:
        """One for each query, however many patches there are."""
        return spec.queries

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens, one for each query."""
        return self.linear(self.query(features))

    def query(
        self, features: Float[Tensor, "images patches vision"]
    ) -> Float[Tensor, "images tokens vision"]:
        """The queries after reading."""
        queries = self.norm(self.queries).expand(len(features), -1, -1)  # [images, queries, vision]
        for block in self.blocks:
            queries = block(queries, features)
        return queries


class QFormerBlock(nn.Module):
    """One layer. sees: whether it reads the patches as well."""

    def __init__(self, width: int, heads: int, sees: bool) -> None:
        super().__init__()
        self.each_other = Reading(width, width, heads, bias=True)
        self.after_each_other = nn.LayerNorm(width, eps=EPSILON)
        self.patches = Reading(width, width, heads, bias=True) if sees else None
        self.after_patches = nn.LayerNorm(width, eps=EPSILON) if sees else None
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.after_mlp = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """The queries after one layer."""
        queries = self.after_each_other(queries + self.each_other(queries, queries))
        if self.patches is not None:
            queries = self.after_patches(queries + self.patches(queries, features))
        return self.after_mlp(queries + self.mlp(queries))
