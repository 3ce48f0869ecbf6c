"""Projectors with attention: patches that read each other, or learned vectors that read them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lucida.core.errors import ModelError
from lucida.core.spec import PerceiverProjectorSpec, QFormerProjectorSpec, TransformerProjectorSpec
from lucida.model.projectors.grid import Patches
from lucida.model.projectors.projector import Projector


class Reading(nn.Module):
    """Multi-head attention of `asking` [images, m, width] to `read` [images, n, source].

    width: of what asks and of the result. source: width of what is read.
    """

    def __init__(self, width: int, source: int, heads: int, bias: bool) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(source, width, bias=bias)
        self.value = nn.Linear(source, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, asking: Tensor, read: Tensor) -> Tensor:
        """What each asking vector takes from what it reads: [images, m, width]."""
        query, key, value = (
            rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for rows in (self.query(asking), self.key(read), self.value(read))
        )
        taken = functional.scaled_dot_product_attention(query, key, value)
        return self.out(taken.transpose(1, 2).flatten(2))


def check_heads(width: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the width."""
    if width % heads:
        usual = [number for number in (1, 2, 4, 6, 8, 12, 16) if width % number == 0]
        raise ModelError(
            "the projector's heads do not divide the width they work in",
            expected=f"a divisor of {width}, such as {usual[-1]}",
            given=heads,
            remedy="set model.projector.heads",
        )


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
