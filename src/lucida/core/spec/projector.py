"""The projectors: from the vision encoder's features to the language model's width."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lucida.core.spec.value import Spec, widen


class LinearProjectorSpec(Spec):
    """One matrix from vision width to language width."""

    kind: Literal["linear"] = "linear"


class MlpProjectorSpec(Spec):
    """LLaVA-1.5's projector: linear layers with an activation between them."""

    kind: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=1, le=8)
    """Number of linear layers."""
    hidden: int | None = Field(default=None, gt=0)
    """Width between the layers; null is the language model's width."""
    activation: Literal["gelu", "relu"] = "gelu"
    norm: bool = False
    """LayerNorm on the incoming features."""
    position: bool = False
    """Add a learned vector per grid place; convolutional features know no place."""


class FusedMlpProjectorSpec(Spec):
    """Prismatic's projector for fused encoders: v → 4v → language width → language width."""

    kind: Literal["fused_mlp"] = "fused_mlp"


class DownsampleProjectorSpec(Spec):
    """VILA's and NVILA's: each block of neighbouring patches becomes one token, then an MLP."""

    kind: Literal["downsample"] = "downsample"
    factor: Literal[2, 3] = 2
    """Patches per side of a block; odd grids are padded with zeros."""
    linear: bool = False
    """One matrix instead of norm and MLP (table 7 of the VILA paper)."""


class PixelShuffleProjectorSpec(Spec):
    """nanoVLM's and Idefics3's: blocks of patches into channels, then one matrix without bias."""

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"
    factor: int = Field(default=2, ge=1, le=8)
    """Patches per side of a block; it has to divide the grid's sides."""


class PoolProjectorSpec(Spec):
    """The average of each block of neighbouring patches, then an MLP with GELU."""

    kind: Literal["pool"] = "pool"
    factor: int = Field(default=2, ge=1, le=8)
    """Patches per side of a block; those at the edge may be smaller."""
    depth: int = Field(default=2, ge=1, le=8)
    """Number of linear layers."""


class TransformerProjectorSpec(Spec):
    """Transformer blocks over the patches and one matrix (VILA's paper, table 1)."""

    kind: Literal["transformer"] = "transformer"
    layers: int = Field(default=1, ge=1, le=12)
    heads: int = Field(default=8, ge=1)
    """They have to divide the vision encoder's width."""


class PerceiverProjectorSpec(Spec):
    """Learned queries that read the patches (Flamingo's resampler)."""

    kind: Literal["perceiver"] = "perceiver"
    queries: int = Field(default=64, ge=1)
    layers: int = Field(default=3, ge=1, le=12)
    heads: int = Field(default=8, ge=1)


class QFormerProjectorSpec(Spec):
    """BLIP-2's: learned queries with self-attention among them that read the patches."""

    kind: Literal["qformer"] = "qformer"
    queries: int = Field(default=32, ge=1)
    layers: int = Field(default=2, ge=1, le=12)
    heads: int = Field(default=8, ge=1)
    cross_every: int = Field(default=2, ge=1)
    """The first of every so many layers reads the patches, the others only the queries."""


class AbstractorProjectorSpec(Spec):
    """Honeybee's C-Abstractor: convolutions, adaptive pooling to fewer tokens, convolutions."""

    kind: Literal["c_abstractor"] = "c_abstractor"
    side: int = Field(default=4, ge=1)
    """Tokens per side of the pooled grid."""
    depth: int = Field(default=3, ge=1, le=12)
    """Convolution blocks before and after the pooling."""


class ExpandProjectorSpec(Spec):
    """One vector (the class token or a mean) → several tokens, by a matrix and a reshape."""

    kind: Literal["expand"] = "expand"
    tokens: int = Field(default=8, ge=1)


class IdentityProjectorSpec(Spec):
    """Nothing: encoder and language model have the same width."""

    kind: Literal["identity"] = "identity"


ProjectorSpec = Annotated[
    widen(
        LinearProjectorSpec
        | MlpProjectorSpec
        | FusedMlpProjectorSpec
        | DownsampleProjectorSpec
        | PixelShuffleProjectorSpec
        | PoolProjectorSpec
        | TransformerProjectorSpec
        | PerceiverProjectorSpec
        | QFormerProjectorSpec
        | AbstractorProjectorSpec
        | ExpandProjectorSpec
        | IdentityProjectorSpec,
        "lucida.projectors",
    ),
    Field(discriminator="kind"),
]
