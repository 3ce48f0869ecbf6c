"""From a picture of any shape to what the encoder takes, and boxes into that frame and back.

    resize      one square, both sides stretched to it
    letterbox   one square that keeps the shape, padded with the mean colour: after scaling, or
                before it as LLaVA does
    crop        one square: the short side scaled to it, the middle kept
    anyres      an overview, then tiles: the best-fitting grid, padded with black (LLaVA-NeXT)
    split       tiles row by row, and an overview behind them (Idefics3) or in front (nanoVLM); a
                small picture is one square
    native      one rectangle that keeps the shape, both sides rounded to whole patches

A picture becomes one or more *views*. Which, and how many, follows from its width and height alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

from lucida.data.grids import (
    Grid,
    best_grid,
    candidates,
    limited_grid,
    longest_side,
    rounded_grid,
    split_grid,
)
from lucida.data.images import image_size
from lucida.data.sample import ImageSource

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: left, top, right, bottom."""

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

BAND = 256
"""Rows that are padded and scaled at a time: a strip padded to a square may be very large."""

MOST_SCALED = 16
"""`crop` scales the whole picture up to so many squares, and beyond that only the middle of it."""

ONE_SQUARE = ("resize", "letterbox", "crop")
"""Policies under which every picture is one square, whatever its shape."""


@dataclass(frozen=True)
class ImagePolicy:
    """How pictures become views of `size` pixels a side, normalised by `mean` and `std`.

    Resampling is Pillow's antialiased bicubic, or Lanczos'. `mean` and `std` are per channel, for
    values 0 to 1. `grids` are the grids of tiles that `anyres` chooses from (null: all of 2 to
    `max_tiles` tiles); `max_tiles` limits `split` too; `unit` is what sides are rounded to under
    `native`, in pixels, and `size` then its longest side. `pad`, `odd`, `layout` and `enlarge` are
    those of `ImageSpec`.

    Worked example: a box in a 200 x 100 picture, letterbox, size 100. The picture becomes 100 x 50
    with 25 rows of padding above, so (0, 0, 200, 100) is (0, 0.25, 1, 0.75) in the frame.

    Reference: Liu et al., LLaVA-NeXT, 2024 (`anyres`); Laurençon et al., Building and better
    understanding vision-language models, 2024, arXiv 2408.12637, section 3 (`split`).
    """

    policy: Literal["resize", "letterbox", "crop", "anyres", "split", "native"]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_tiles: int = 4
    grids: tuple[Grid, ...] | None = None
    unit: int = 1
    pad: Literal["last", "first"] = "last"
    resample: Literal["bicubic", "lanczos"] = "bicubic"
    layout: Literal["plain", "idefics3", "nanovlm"] = "plain"
    enlarge: bool = False
    odd: Literal["transformers", "torchvision"] = "transformers"

    @property
    def one_square(self) -> bool:
        """Whether every picture becomes one square of the same size."""
        return self.policy in ONE_SQUARE

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
        given = (np.arange(256, dtype=np.float32) - centre) / spread
        return (centre, spread) if np.array_equal(given, self._normalised) else None

    def label(self, number: int, images: int) -> str:
        """What stands in front of image `number` (from 0) of so many; nanoVLM numbers several."""
        return f"<image: {number}>" if self.layout == "nanovlm" and images > 1 else ""

    def grid(self, width: int, height: int) -> Grid:
        """Rows and columns of tiles; under `native`, of units. (1, 1) for one square."""
        if self.policy == "anyres":
            grids = candidates(self.max_tiles) if self.grids is None else self.grids
            return best_grid(width, height, grids, self.size)
        if self.policy == "split":
            fill = limited_grid if self.layout == "nanovlm" else split_grid
            return fill(width, height, self.size, self.max_tiles, self.enlarge)
        if self.policy == "native":
            return rounded_grid(width, height, self.size, self.unit)
        return 1, 1

    def least(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of this size has to keep so that scaling it shows no
        difference worth a look: twice those that it is scaled to."""
        if self.one_square:
            wide, high, *_ = self._placed(width, height)
        else:
            rows, columns = self.grid(width, height)
            unit = self.unit if self.policy == "native" else self.size
            wide, high = columns * unit, rows * unit
        return 2 * wide, 2 * high

    def sides(self, width: int, height: int) -> list[float]:
        """Pixels along each view of a picture; under `native`, of the square of the same area."""
        rows, columns = self.grid(width, height)
        if self.policy == "native":
            return [self.unit * (rows * columns) ** 0.5]
        tiles = rows * columns
        overview = self.policy == "anyres" or (self.policy == "split" and tiles > 1)
        return [float(self.size)] * (tiles + overview)

    def shapes(self) -> list[tuple[int, int]]:
        """Width and height of pictures that fill each grid of the policy; one square otherwise."""
        if self.policy not in ("anyres", "split"):
            return [(self.size, self.size)]
        grids = candidates(self.max_tiles) if self.grids is None else self.grids
        found = {(columns * self.size, rows * self.size) for rows, columns in (*grids, (1, 1))}
        return sorted(found)

    def square(self, image: Image.Image) -> Image.Image:
        """The RGB square of a one-square policy before normalisation, for people to look at."""
        return self.views(image)[0]

    def views(self, image: Image.Image, grid: Grid | None = None) -> list[Image.Image]:
        """RGB views before normalisation, in the order of their visual tokens.

        A second encoder follows the `grid` of the first, so that both see the same parts.
        """
        if self.one_square:
            return [self._square(image)]
        grid = grid or self.grid(*image.size)
        if self.policy == "native":
            return [self._scaled(image, grid[1] * self.unit, grid[0] * self.unit)]
        overview = (self.size, self.size)
        if self.policy == "anyres":
            whole = self._fitted(image, grid[1] * self.size, grid[0] * self.size)
            return [self._scaled(image, *overview), *tiles(whole, grid)]
        if self.layout == "nanovlm":
            whole = self._scaled(image, grid[1] * self.size, grid[0] * self.size)
            if grid == (1, 1):
                return [whole]
            return [whole.resize(overview, Image.Resampling.BILINEAR), *tiles(whole, grid)]
        # Scaled twice, as Idefics3 does it: its longest side to whole tiles, then the other one.
        longest = self.size * (grid[1] if image.width >= image.height else grid[0])
        first = self._scaled(image, *longest_side(*image.size, longest))
        whole = self._scaled(first, grid[1] * self.size, grid[0] * self.size)
        return [*tiles(whole, grid), self._scaled(whole, *overview)] if grid != (1, 1) else [whole]

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The one square as the encoder takes it: float32 [3, size, size]."""
        return self.levels(self._square(image))

    def stack(self, image: Image.Image, grid: Grid | None = None) -> np.ndarray:
        """All views as the encoder takes them: float32 [views, 3, height, width]."""
        return np.stack([self.levels(view) for view in self.views(image, grid)])

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

    def _scaled(self, image: Image.Image, width: int, height: int) -> Image.Image:
        return image.resize((width, height), FILTERS[self.resample])

    def _fitted(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The picture scaled to touch two sides of a black rectangle, in its middle."""
        left, top, new_width, new_height = fit_inside(image.size, (width, height))
        black = Image.new("RGB", (width, height))
        black.paste(self._scaled(image, new_width, new_height), (left, top))
        return black

    def _padded_first(self, image: Image.Image) -> Image.Image:
        """The picture in the middle of a square of its longer side, and that scaled: the pixels of
        LLaVA's order. Pillow scales along the rows first, so a few rows at a time do."""
        width, height = image.size
        (wide, high), (left, top), (new_width, new_height), cut = self._canvas(width, height)
        colour = tuple(int(255 * value) for value in self.mean)
        narrow = Image.new("RGB", (new_width, high), colour)
        for begin in range(0, height, BAND):
            rows = min(BAND, height - begin)
            band = Image.new("RGB", (wide, rows), colour)
            band.paste(image.crop((0, begin, width, begin + rows)), (left, 0))
            narrow.paste(self._scaled(band, new_width, rows), (0, top + begin))
        scaled = self._scaled(narrow, new_width, new_height)
        if scaled.size == (self.size, self.size):
            return scaled
        return scaled.crop((*cut, cut[0] + self.size, cut[1] + self.size))

    def _canvas(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """Of padding first: the padded picture's width and height, the place of the picture in it,
        its width and height when scaled, and how much of that is cut at the left and the top.

        Worked example, `torchvision`, size 4, a picture of 6 x 3: padded by 1 on both sides to
        6 x 5, scaled to 4 x 4 (its shorter side to 4, the other to int(4 x 6 / 5)); a picture of
        3 x 2 is not padded, scaled to 6 x 4, and loses 1 at the left and the right.
        """
        side = max(width, height)
        if self.odd == "transformers":
            middle = ((side - width) // 2, (side - height) // 2)
            return (side, side), middle, (self.size, self.size), (0, 0)
        left, top = (int((side - each) / 2) for each in (width, height))
        wide, high = width + 2 * left, height + 2 * top
        shorter = min(wide, high)
        scaled = (int(self.size * wide / shorter), int(self.size * high / shorter))
        return (wide, high), (left, top), scaled, tuple(self._half(each) for each in scaled)

    def _half(self, length: int) -> int:
        """What is cut in front of the middle `size` of a length."""
        over = length - self.size
        return round(over / 2.0) if self.odd == "torchvision" else over // 2

    def _square(self, image: Image.Image) -> Image.Image:
        if self.policy == "letterbox" and self.pad == "first":
            return self._padded_first(image)
        width, height = image.size
        new_width, new_height, left, top = self._placed(width, height)
        if self.policy == "crop":
            place = (-left, -top, self.size - left, self.size - top)
            if new_width * new_height <= MOST_SCALED * self.size**2:
                return self._scaled(image, new_width, new_height).crop(place)
            # Hardly ever: a 1 x 10000 strip would become 224 x 2240000. Only pixels whose
            # neighbours are cut off differ.
            x, y = width / new_width, height / new_height
            middle = (place[0] * x, place[1] * y, place[2] * x, place[3] * y)
            return image.resize((self.size, self.size), FILTERS[self.resample], box=middle)
        scaled = self._scaled(image, new_width, new_height)
        if (new_width, new_height) == (self.size, self.size):
            return scaled
        colour = tuple(round(255 * value) for value in self.mean)
        padded = Image.new("RGB", (self.size, self.size), colour)
        padded.paste(scaled, (left, top))
        return padded

    def to_frame(self, box: Box, width: int, height: int) -> Box:
        """A box in pixels of a `width` x `height` picture → its place in shares of the frame.

        The frame is the square, or the whole picture where that is shown in tiles or in its own
        shape. Under `crop` a box may leave [0, 1]; it is `boxes.format_box` that clamps.
        """
        x0, y0, x1, y1 = box
        if not self.one_square:
            return x0 / width, y0 / height, x1 / width, y1 / height
        x, y, left, top = self._moved(width, height)
        return (
            (x0 * x + left) / self.size,
            (y0 * y + top) / self.size,
            (x1 * x + left) / self.size,
            (y1 * y + top) / self.size,
        )

    def from_frame(self, box: Box, width: int, height: int) -> Box:
        """The inverse of `to_frame`: a box in shares of the frame → pixels of the picture."""
        x0, y0, x1, y1 = box
        if not self.one_square:
            return x0 * width, y0 * height, x1 * width, y1 * height
        x, y, left, top = self._moved(width, height)
        return (
            (x0 * self.size - left) / x,
            (y0 * self.size - top) / y,
            (x1 * self.size - left) / x,
            (y1 * self.size - top) / y,
        )

    def _moved(self, width: int, height: int) -> tuple[float, float, float, float]:
        """By how much the picture is scaled along both sides, and where its corner then stands."""
        if self.policy == "letterbox" and self.pad == "first":
            (wide, high), (left, top), (new_width, new_height), cut = self._canvas(width, height)
            x, y = new_width / wide, new_height / high
            return x, y, left * x - cut[0], top * y - cut[1]
        new_width, new_height, left, top = self._placed(width, height)
        return new_width / width, new_height / height, left, top

    def _placed(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height of the scaled picture, and where its corner stands in the square."""
        size = self.size
        if self.policy == "resize":
            return size, size, 0, 0
        side = max(width, height) if self.policy == "letterbox" else min(width, height)
        # CLIP's own processor cuts the fraction off.
        whole = int if self.policy == "crop" else round
        new_width = max(1, whole(size * width / side))
        new_height = max(1, whole(size * height / side))
        # Floor division of a negative number would shift odd crops the other way than padding.
        left = (size - new_width) // 2 if new_width <= size else -self._half(new_width)
        top = (size - new_height) // 2 if new_height <= size else -self._half(new_height)
        return new_width, new_height, left, top


@dataclass(frozen=True, slots=True)
class Squares:
    """Images of a one-square policy that are decoded and scaled, but not yet normalised: a twelfth
    of what their pixels take until those of all samples are written into one array."""

    images: tuple[Image.Image, ...]
    policy: ImagePolicy

    def __len__(self) -> int:
        return len(self.images)

    def write(self, pixels: np.ndarray) -> None:
        """The normalised images into `pixels`, float32 [images, 3, size, size]."""
        for image, planes in zip(self.images, pixels, strict=True):
            self.policy.levels(image, planes)


def squares(sources: Sequence[ImageSource], policy: ImagePolicy, scaled: bool = False) -> Squares:
    """The squares of many images. `scaled` as in `open_for_policies`."""
    images = (policy.square(open_for_policies(source, [policy], scaled)) for source in sources)
    return Squares(tuple(images), policy)


def decode(sources: Sequence[ImageSource], policy: ImagePolicy, scaled: bool = False) -> np.ndarray:
    """The squares of many images, under a one-square policy: float32 [images, 3, size, size].
    `scaled` as in `open_for_policies`."""
    pixels = np.empty((len(sources), 3, policy.size, policy.size), dtype=np.float32)
    squares(sources, policy, scaled).write(pixels)
    return pixels


def open_for_policies(
    source: ImageSource, policies: Sequence[ImagePolicy], scaled: bool = False
) -> Image.Image:
    """The picture for these policies; `scaled` allows one of fewer pixels, if they do with it."""
    if not scaled or source.smaller is None:
        return source.load()
    size = image_size(source)
    wide, high = zip(*(policy.least(*size) for policy in policies), strict=True)
    return source.smaller((max(wide), max(high)))


def fit_inside(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture scaled to touch two sides of a frame stands in its middle: left, top, width,
    height in pixels of the frame. Both sizes are (width, height)."""
    across, down = frame[0] / size[0], frame[1] / size[1]
    if across < down:
        width, height = frame[0], min(math.ceil(size[1] * across), frame[1])
    else:
        width, height = min(math.ceil(size[0] * down), frame[0]), frame[1]
    return (frame[0] - width) // 2, (frame[1] - height) // 2, width, height


def tiles(whole: Image.Image, grid: Grid) -> list[Image.Image]:
    """The tiles of a picture that divides into this grid, row by row."""
    rows, columns = grid
    wide, high = whole.width // columns, whole.height // rows
    return [
        whole.crop((column * wide, row * high, (column + 1) * wide, (row + 1) * high))
        for row in range(rows)
        for column in range(columns)
    ]
