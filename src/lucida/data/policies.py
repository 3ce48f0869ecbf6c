"""From a picture of any shape to what the encoder takes, and boxes into that frame and back.

    resize, letterbox, crop   one square (`data/squares.py`)
    anyres, split, native     tiles, or the picture's own shape (`data/tiles.py`)

A picture becomes one or more *views*. Which, and how many, follows from its width and height alone.
A policy is one class and one line in `POLICIES`; what the rest has to know of it, `ImagePolicy`
says: nobody asks for its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from lucida.core.errors import DataError, suggestion
from lucida.core.registry import Table

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: left, top, right, bottom."""

Frame = tuple[str, Box | None]
"""A view: its name, and which shares of the whole picture it shows (None: the policy's square)."""

WHOLE = (0.0, 0.0, 1.0, 1.0)

Triple = tuple[float, float, float]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

POLICIES = Table(
    "image policy",
    {
        "resize": "lucida.data.squares:Resize",
        "letterbox": "lucida.data.squares:Letterbox",
        "crop": "lucida.data.squares:Crop",
        "anyres": "lucida.data.tiles:AnyRes",
        "split": "lucida.data.tiles:Split",
        "native": "lucida.data.tiles:Native",
    },
    group="lucida.policies",
    error=DataError,
)


class _ByName(type):
    def __call__(cls, *given: Any, **options: Any) -> Any:
        # No picture has a policy without a name: `ImagePolicy("resize", ...)` is a `Resize`.
        if cls is ImagePolicy:
            return make_policy(*given, **options)
        return super().__call__(*given, **options)


@dataclass(frozen=True)
class ImagePolicy(metaclass=_ByName):
    """How pictures become views of `size` pixels a side, normalised by `mean` and `std`.

    Resampling is Pillow's antialiased bicubic, or Lanczos'. `mean` and `std` are per channel, for
    values 0 to 1. `ImagePolicy(NAME, size, mean, std, ...)` is `make_policy`.
    """

    size: int
    mean: Triple
    std: Triple
    resample: Literal["bicubic", "lanczos"] = "bicubic"

    policy: ClassVar[str]
    """Its name in recipes and saved files."""
    one_square: ClassVar[bool] = False
    """Does every picture become one square of the same size?"""
    own_shape: ClassVar[bool] = False
    """Is a picture one view of its own shape, so that its tokens are as many as its patches make?
    """
    unit: ClassVar[int] = 1
    """Pixels that the sides of a picture of its own shape are rounded to."""
    line_ends: ClassVar[bool] = False
    """Does a learned vector end each row of visual tokens?"""

    # What a picture becomes, from its width and height alone.

    def grid(self, width: int, height: int) -> Grid:
        """Rows and columns of tiles, or of units of its own shape; (1, 1) for one square."""
        return 1, 1

    def sides(self, width: int, height: int) -> list[float]:
        """Pixels along each view; of a rectangle those of the square of the same area."""
        return [float(self.size)]

    def frames(self, width: int, height: int) -> list[Frame]:
        """The views in the order of their tokens."""
        return [("the picture", WHOLE)]

    def shapes(self) -> list[tuple[int, int]]:
        """Width and height of pictures that fill each grid there is, the largest last."""
        return [(self.size, self.size)]

    def least(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of this size has to keep so that scaling it shows no
        difference worth a look: twice those that it is scaled to."""
        rows, columns = self.grid(width, height)
        return 2 * columns * self.size, 2 * rows * self.size

    # Its places in the text, and the order of its visual tokens.

    def names(self) -> list[str]:
        """The tokens that name tiles; the tokenizer has to have them."""
        return []

    def label(self, number: int, images: int) -> str:
        """What stands in front of image `number` (from 0) of so many."""
        return ""

    def runs(self, width: int, height: int, tokens: int) -> tuple[int | str, ...]:
        """Numbers of placeholders of a picture of which one view has so many visual tokens, and
        between them the text that names its tiles."""
        return (tokens,)

    def arrange(self, views: Tensor, size: tuple[int, int], newline: Tensor | None) -> Tensor:
        """Visual tokens [number, width] in the order of their places, from those of the views
        [views, tokens, width]; `size` is the width and height of the picture."""
        return views.flatten(0, 1)

    def blocks(self, width: int, height: int, view: Grid) -> list[Grid]:
        """Rows and columns of the visual tokens of a picture, block after block in their order, if
        one view of it has such a grid of them."""
        return [view] * len(self.frames(width, height))

    # Pixels.

    def views(self, image: Image.Image, grid: Grid | None = None) -> list[Image.Image]:
        """RGB views before normalisation, in the order of their visual tokens.

        A second encoder follows the `grid` of the first, so that both see the same parts.
        """
        raise NotImplementedError

    def stack(self, image: Image.Image, grid: Grid | None = None) -> np.ndarray:
        """All views as the encoder takes them: float32 [views, 3, height, width]."""
        return np.stack([self.levels(view) for view in self.views(image, grid)])

    def scale(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The picture in so many pixels."""
        return image.resize((width, height), FILTERS[self.resample])

    @cached_property
    def _normalised(self) -> np.ndarray:
        """What each of the 256 levels becomes, per channel: float32 [3, 256]."""
        levels = np.arange(256, dtype=np.float64) / 255
        mean, std = (np.asarray(v, dtype=np.float64)[:, None] for v in (self.mean, self.std))
        return ((levels - mean) / std).astype(np.float32)

    @cached_property
    def _straight(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Centre and spread per channel, if (level - centre) / spread in float32 gives every value
        of the table to the last bit, which takes half the time (SigLIP's 0.5 and 0.5)."""
        mean, std = (np.asarray(v, dtype=np.float64)[:, None] for v in (self.mean, self.std))
        centre, spread = (255 * mean).astype(np.float32), (255 * std).astype(np.float32)
        # Tried on all 256 levels, once for a policy: equal bits there are equal bits everywhere.
        given = (np.arange(256, dtype=np.float32) - centre) / spread
        return (centre, spread) if np.array_equal(given, self._normalised) else None

    def levels(self, view: Image.Image, planes: np.ndarray | None = None) -> np.ndarray:
        """A view as the encoder takes it: float32 [3, height, width], in `planes` if given."""
        if planes is None:
            planes = np.empty((3, view.height, view.width), dtype=np.float32)
        if self._straight is not None:
            for plane, band, centre, spread in zip(
                planes, view.split(), *self._straight, strict=True
            ):
                np.subtract(np.asarray(band), centre, out=plane)
                np.divide(plane, spread, out=plane)
            return planes
        levels = np.asarray(view)  # [height, width, 3] uint8
        for channel in range(3):
            # Every level is in the table; without `clip` numpy would check it in a buffer.
            table, plane = self._normalised[channel], planes[channel]
            np.take(table, levels[..., channel], out=plane, mode="clip")
        return planes

    # Boxes.

    def to_frame(self, box: Box, width: int, height: int) -> Box:
        """A box in pixels of a `width` x `height` picture → its place in shares of the frame.

        The frame is the square, or the whole picture where that is shown in tiles or in its own
        shape. Under `crop` a box may leave [0, 1]; it is `boxes.format_box` that clamps.
        """
        x0, y0, x1, y1 = box
        return x0 / width, y0 / height, x1 / width, y1 / height

    def from_frame(self, box: Box, width: int, height: int) -> Box:
        """The inverse of `to_frame`: a box in shares of the frame → pixels of the picture."""
        x0, y0, x1, y1 = box
        return x0 * width, y0 * height, x1 * width, y1 * height


def make_policy(policy: str, size: int, mean: Triple, std: Triple, **options: Any) -> ImagePolicy:
    """The policy of this name. Options that only others have are of no effect, as in `ImageSpec`;
    DataError for one that none has."""
    own = {entry.name for entry in fields(POLICIES[policy])}
    for name in options.keys() - own:
        every = {entry.name for kind in POLICIES for entry in fields(POLICIES[kind])}
        if name not in every:
            remedy = suggestion(name, sorted(every))
            raise DataError(f"image policies have no option `{name}`", remedy=remedy)
    chosen = {name: value for name, value in options.items() if name in own}
    return POLICIES[policy](size, mean, std, **chosen)


def read_policy(given: ImagePolicy | Mapping[str, Any] | None) -> ImagePolicy | None:
    """An image policy, perhaps as it was saved."""
    if not isinstance(given, Mapping):
        return given
    values = dict(given) | {name: tuple(given[name]) for name in ("mean", "std")}
    if values.get("grids") is not None:
        values["grids"] = tuple(tuple(grid) for grid in values["grids"])
    return make_policy(**values)


def describe_policy(policy: ImagePolicy) -> dict[str, Any]:
    """An image policy as plain values, which `read_policy` reads; what is as usual is left out."""
    return {"policy": policy.policy} | {
        entry.name: getattr(policy, entry.name)
        for entry in fields(policy)
        if entry.default is MISSING or getattr(policy, entry.name) != entry.default
    }
