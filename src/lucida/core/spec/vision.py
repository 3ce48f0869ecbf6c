"""How pictures are prepared and encoded."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from lucida.core.registry import list_added_names
from lucida.core.spec.value import Spec

PolicyName = Literal[
    "resize",
    "letterbox",
    "crop",
    "anyres",
    "split",
    "native",
    *list_added_names("lucida.policies"),
]
Take = Literal["patches", "cls_patches", "cls", "mean"]


class EncoderSpec(Spec):
    """One vision encoder and what is taken from it."""

    path: str
    """Hub id or local folder of transformers or timm, `timm:NAME` for the weights that timm names
    (an extra), or `lucida:NAME` for a part that ships with Lucida."""
    feature_layer: int | list[int] = -1
    """Index into the encoder's hidden states; -1 is the last, -2 (LLaVA's) the one before. Several
    are concatenated along the channels."""
    normed: bool = False
    """Apply the encoder's final norm to each layer taken. Raw hidden states are what LLaVA's mean.
    """
    take: Take = "patches"
    """Patch tokens, the class token in front of them, the class token alone, or the mean of the
    patches."""
    size: int | None = Field(default=None, gt=0)
    """Pixels per side of what this encoder sees; null takes `model.image.size`, or else its own."""

    @field_validator("feature_layer")
    @classmethod
    def some_layers(cls, value: int | list[int]) -> int | list[int]:
        """At least one layer, each once."""
        if isinstance(value, list) and not 0 < len(set(value)) == len(value):
            raise ValueError("name at least one layer, and each of them once")
        return value


class VisionSpec(EncoderSpec):
    """The vision encoder, or several whose features are fused."""

    more: list[EncoderSpec] = Field(default=[])
    """Further encoders; each sees the picture with its own normalisation and size."""
    fusion: Literal["channels", "tokens", "interleaved"] = "channels"
    """Features of several encoders side by side in the channels of each patch (smaller grids are
    resampled to the first encoder's), one after the other as tokens, or token by token in turn.
    Tokens need encoders of one width; in turn, also of one grid."""


class ImageSpec(Spec):
    """How a picture of any shape becomes what the encoder takes."""

    policy: PolicyName = "letterbox"
    """One square: stretched, padded with the encoder's mean colour, or filled and cropped. Several
    squares: `anyres` is LLaVA-NeXT's best-fitting grid of tiles behind an overview, `split`
    nanoVLM's and Idefics3's tiles, each named by row and column, with an overview (see `layout`).
    `native` keeps the shape and only rounds both sides to whole patches."""
    size: int | None = Field(default=None, gt=0)
    """Pixels per side of the square or tile; null takes the encoder's own size. Under `native`, the
    longest side allowed."""
    max_tiles: int = Field(default=4, ge=1, le=64)
    """Largest number of tiles of one picture, the overview not counted (`anyres`, `split`)."""
    grids: list[tuple[PositiveInt, PositiveInt]] | None = None
    """The grids, as rows and columns, that `anyres` chooses from; null means all of 2 to
    `max_tiles` tiles. LLaVA-NeXT's are [1,2], [2,1], [2,2], [3,1] and [1,3]."""
    pad: Literal["last", "first"] = "last"
    """`letterbox`: scale the picture and then pad it, in whole pixels, or pad it to a square of its
    longer side and then scale that, as LLaVA and Prismatic do (their pixels, exactly; of Prismatic
    with `odd: torchvision`)."""
    odd: Literal["transformers", "torchvision"] = "transformers"
    """`crop`, and `letterbox` with `pad: first`: what becomes of margins of an odd number of
    pixels. `transformers`: the larger half right and below, in its processors and LLaVA's code. In
    `torchvision`'s transforms, which timm and Prismatic use, half a pixel is rounded to even, and
    Prismatic pads both sides alike: the square lacks a line, and what then is too long is cut."""
    resample: Literal["bicubic", "lanczos"] = "bicubic"
    """The filter that pictures are scaled with; Idefics3 and SmolVLM take `lanczos`."""
    layout: Literal["plain", "idefics3", "nanovlm"] = "plain"
    """`split`: how views are ordered and named. `plain`: a name before each tile, a line for each
    row, the overview at the end. `idefics3`: the same with `<fake_token_around_image>` before each
    view and at the end. `nanovlm`: the overview first, then tiles without line breaks; where there
    are several pictures, `<image: 0>`, `<image: 1>` and so on in front of them."""
    enlarge: bool = False
    """`split`: scale every picture until its long side takes the square root of `max_tiles` tiles,
    as Idefics3 does; otherwise a picture takes as many as it fills."""

    @model_validator(mode="after")
    def grids_are_used(self) -> ImageSpec:
        """No list of grids where none is chosen."""
        if self.grids is not None and (self.policy != "anyres" or not self.grids):
            raise ValueError("`grids` is a list of at least one grid, for the policy anyres only")
        return self

    @model_validator(mode="after")
    def sides_are_whole(self) -> ImageSpec:
        """A square number of tiles where its root limits the sides."""
        rooted = self.enlarge or self.layout == "nanovlm"
        if self.policy == "split" and rooted and math.isqrt(self.max_tiles) ** 2 != self.max_tiles:
            raise ValueError(
                f"max_tiles ({self.max_tiles}) has to be a square number: its root is the most "
                "tiles along a side under `enlarge` and the layout nanovlm"
            )
        return self
