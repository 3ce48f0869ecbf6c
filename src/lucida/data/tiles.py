"""Policies of several views, or of a picture's own shape, and the grids that they choose.

    anyres   an overview, then tiles: the best-fitting grid, padded with black (LLaVA-NeXT)
    split    tiles row by row, and an overview behind them (Idefics3) or in front (nanoVLM); a
             small picture is one square
    native   one rectangle that keeps the shape, both sides rounded to whole patches

Of their visual tokens stand in the text:

    split          <row_1_col_1> I I I I <row_1_col_2> I I I I \\n \\n <global-img> I I I I
      (idefics3)   the same with <fake_token_around_image> in front of each name and at the end
      (nanovlm)    <|global_image|> I I I I <row_1_col_1> I I I I <row_1_col_2> I I I I
    anyres         overview, then the tiles as one picture, a newline vector behind each row
    native         I … I, as many as the picture's own grid has
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from PIL import Image

from lucida.data.policies import WHOLE, Box, Frame, Grid, ImagePolicy

if TYPE_CHECKING:
    from torch import Tensor

OVERVIEW = "<global-img>"
AROUND = "<fake_token_around_image>"
"""Stands in front of each view of a picture and behind the last one (Idefics3)."""
FIRST_OVERVIEW = "<|global_image|>"
"""nanoVLM's name of the overview."""


@dataclass(frozen=True)
class AnyRes(ImagePolicy):
    """An overview, then tiles of the best-fitting of `grids` (None: of all of 2 to `max_tiles`).

    Reference: Liu et al., LLaVA-NeXT, 2024.
    """

    max_tiles: int = 4
    grids: tuple[Grid, ...] | None = None

    policy: ClassVar[str] = "anyres"
    line_ends: ClassVar[bool] = True

    @property
    def choice(self) -> tuple[Grid, ...]:
        """The grids to choose from."""
        return candidates(self.max_tiles) if self.grids is None else self.grids

    def grid(self, width: int, height: int) -> Grid:
        return best_grid(width, height, self.choice, self.size)

    def sides(self, width: int, height: int) -> list[float]:
        rows, columns = self.grid(width, height)
        return [float(self.size)] * (rows * columns + 1)

    def shapes(self) -> list[tuple[int, int]]:
        return fill_grids(self.choice, self.size)

    def views(self, image: Image.Image, grid: Grid | None = None) -> list[Image.Image]:
        rows, columns = grid = grid or self.grid(*image.size)
        whole = self.fit(image, columns * self.size, rows * self.size)
        return [self.scale(image, self.size, self.size), *tiles(whole, grid)]

    def fit(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The picture scaled to touch two sides of a black rectangle, in its middle."""
        left, top, new_width, new_height = fit_inside(image.size, (width, height))
        black = Image.new("RGB", (width, height))
        black.paste(self.scale(image, new_width, new_height), (left, top))
        return black

    def frames(self, width: int, height: int) -> list[Frame]:
        grid = self.grid(width, height)
        across, down = grid[1] * self.size, grid[0] * self.size
        left, top, wide, high = fit_inside((width, height), (across, down))

        def unpad(box: Box) -> Box:
            x0, y0, x1, y1 = box
            return (
                (x0 * across - left) / wide,
                (y0 * down - top) / high,
                (x1 * across - left) / wide,
                (y1 * down - top) / high,
            )

        tiled = frame_tiles(grid)
        return [("overview", WHOLE), *((name, unpad(box)) for name, box in tiled)]

    def runs(self, width: int, height: int, tokens: int) -> tuple[int | str, ...]:
        rows, columns = self.kept(width, height, math.isqrt(tokens))
        return (tokens + rows * (columns + 1),)

    def blocks(self, width: int, height: int, view: Grid) -> list[Grid]:
        rows, columns = self.kept(width, height, view[0])
        return [view, (rows, columns + 1)]

    def kept(self, width: int, height: int, side: int) -> tuple[int, int]:
        """Rows and columns of tokens that show the picture and not the padding; `side` is that of
        a tile.

        Of padding an equal number of rows (or columns) goes from both sides; rounding is
        LLaVA-NeXT's.
        """
        # The tokens of all tiles as one picture, of which the padded rows or columns are cut: what
        # `fit` pads in pixels, `unpad_image` of the reference cuts in tokens, rounding to 7 digits
        # before the fraction goes.
        rows, columns = (side * many for many in self.grid(width, height))
        if width / height > columns / rows:
            rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
        return rows, columns

    def arrange(self, views: Tensor, size: tuple[int, int], newline: Tensor | None) -> Tensor:
        import torch

        side = math.isqrt(views.shape[1])
        # [tiles, side * side, width] → [rows, columns, side, side, width] → [rows * side, columns *
        # side, width], so that neighbours in the picture are neighbours here, across the borders of
        # tiles.
        merged = views[1:].unflatten(1, (side, side)).unflatten(0, self.grid(*size))
        merged = merged.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [rows, columns, width]
        rows, columns = self.kept(*size, side)
        above, beside = (merged.shape[0] - rows) // 2, (merged.shape[1] - columns) // 2
        seen = merged[above : above + rows, beside : beside + columns]
        ends = newline.to(seen).expand(rows, 1, -1)
        return torch.cat([views[0], torch.cat([seen, ends], dim=1).flatten(0, 1)])


@dataclass(frozen=True)
class Split(ImagePolicy):
    """At most `max_tiles` tiles row by row, each named, and an overview. `layout`, `enlarge` as in
    `ImageSpec`.

    Reference: Laurençon et al., Building and better understanding vision-language models, 2024,
    arXiv 2408.12637, section 3.
    """

    max_tiles: int = 4
    layout: Literal["plain", "idefics3", "nanovlm"] = "plain"
    enlarge: bool = False

    policy: ClassVar[str] = "split"

    def grid(self, width: int, height: int) -> Grid:
        fill = limited_grid if self.layout == "nanovlm" else split_grid
        return fill(width, height, self.size, self.max_tiles, self.enlarge)

    def sides(self, width: int, height: int) -> list[float]:
        rows, columns = self.grid(width, height)
        return [float(self.size)] * (rows * columns + (rows * columns > 1))

    def shapes(self) -> list[tuple[int, int]]:
        return fill_grids(candidates(self.max_tiles), self.size)

    def views(self, image: Image.Image, grid: Grid | None = None) -> list[Image.Image]:
        rows, columns = grid = grid or self.grid(*image.size)
        if self.layout == "nanovlm":
            whole = self.scale(image, columns * self.size, rows * self.size)
            overview = whole.resize((self.size, self.size), Image.Resampling.BILINEAR)
            return [whole] if grid == (1, 1) else [overview, *tiles(whole, grid)]
        # Scaled twice, as Idefics3 does it: its longest side to whole tiles, then the other one.
        longest = self.size * (columns if image.width >= image.height else rows)
        first = self.scale(image, *longest_side(*image.size, longest))
        whole = self.scale(first, columns * self.size, rows * self.size)
        if grid == (1, 1):
            return [whole]
        return [*tiles(whole, grid), self.scale(whole, self.size, self.size)]

    def frames(self, width: int, height: int) -> list[Frame]:
        overview, tiled = ("overview", WHOLE), frame_tiles(self.grid(width, height))
        if len(tiled) == 1:
            return super().frames(width, height)
        return [overview, *tiled] if self.layout == "nanovlm" else [*tiled, overview]

    def names(self) -> list[str]:
        most = self.max_tiles
        # A grid that has a row r + 1 has at most most // (r + 1) columns.
        named = [name_tile(r, c) for r in range(most) for c in range(most // (r + 1))]
        if self.enlarge or self.layout == "nanovlm":
            side = math.isqrt(most)
            named = [name_tile(r, c) for r in range(side) for c in range(side)]
        others = {"plain": [OVERVIEW], "idefics3": [OVERVIEW, AROUND], "nanovlm": [FIRST_OVERVIEW]}
        return [*named, *others[self.layout]]

    def label(self, number: int, images: int) -> str:
        """nanoVLM numbers images where there are several."""
        return f"<image: {number}>" if self.layout == "nanovlm" and images > 1 else ""

    def runs(self, width: int, height: int, tokens: int) -> tuple[int | str, ...]:
        """Worked example, 4 tokens, a grid of 1 x 2: `("<row_1_col_1>", 4, "<row_1_col_2>", 4,
        "\\n\\n<global-img>", 4)`; in the layout nanovlm `("<|global_image|>", 4,
        "<row_1_col_1>", 4, "<row_1_col_2>", 4)`."""
        rows, columns = self.grid(width, height)
        places = [(r, c) for r in range(rows) for c in range(columns)]
        several = len(places) > 1
        if self.layout == "nanovlm":
            named = [name_tile(*place) for place in places] if several else []
            return tuple(run for name in (FIRST_OVERVIEW, *named) for run in (name, tokens))
        mark = AROUND if self.layout == "idefics3" else ""
        runs: list[int | str] = []
        for row, column in places if several else ():
            line = "\n" if row and not column else ""
            runs += [line + mark + name_tile(row, column), tokens]
        runs += [("\n\n" if several else "") + mark + OVERVIEW, tokens]
        return (*runs, mark) if mark else tuple(runs)


@dataclass(frozen=True)
class Native(ImagePolicy):
    """One view that keeps the shape; its sides are whole `unit`s of pixels and at most `size`."""

    unit: int = 1

    policy: ClassVar[str] = "native"
    own_shape: ClassVar[bool] = True

    def grid(self, width: int, height: int) -> Grid:
        return rounded_grid(width, height, self.size, self.unit)

    def sides(self, width: int, height: int) -> list[float]:
        rows, columns = self.grid(width, height)
        return [self.unit * (rows * columns) ** 0.5]

    def least(self, width: int, height: int) -> tuple[int, int]:
        rows, columns = self.grid(width, height)
        return 2 * columns * self.unit, 2 * rows * self.unit

    def views(self, image: Image.Image, grid: Grid | None = None) -> list[Image.Image]:
        rows, columns = grid or self.grid(*image.size)
        return [self.scale(image, columns * self.unit, rows * self.unit)]


def fill_grids(grids: tuple[Grid, ...], size: int) -> list[tuple[int, int]]:
    """Width and height of pictures that fill each grid of tiles, or one; the largest last."""
    return sorted({(columns * size, rows * size) for rows, columns in (*grids, (1, 1))})


def tiles(whole: Image.Image, grid: Grid) -> list[Image.Image]:
    """The tiles of a picture that divides into this grid, row by row."""
    rows, columns = grid
    wide, high = whole.width // columns, whole.height // rows
    return [
        whole.crop((column * wide, row * high, (column + 1) * wide, (row + 1) * high))
        for row in range(rows)
        for column in range(columns)
    ]


def frame_tiles(grid: Grid) -> list[tuple[str, Box]]:
    """The tiles of a grid as `Frame`s."""
    rows, columns = grid
    return [
        (
            f"tile in row {r + 1}, column {c + 1}",
            (c / columns, r / rows, (c + 1) / columns, (r + 1) / rows),
        )
        for r in range(rows)
        for c in range(columns)
    ]


def fit_inside(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture scaled to touch two sides of a frame stands in its middle: left, top, width,
    height in pixels of the frame. Both sizes are (width, height)."""
    across, down = frame[0] / size[0], frame[1] / size[1]
    if across < down:
        width, height = frame[0], min(math.ceil(size[1] * across), frame[1])
    else:
        width, height = min(math.ceil(size[0] * down), frame[0]), frame[1]
    return (frame[0] - width) // 2, (frame[1] - height) // 2, width, height


def name_tile(row: int, column: int) -> str:
    """The token in front of a tile's visual tokens; rows and columns count from 0 here."""
    return f"<row_{row + 1}_col_{column + 1}>"


@lru_cache
def candidates(max_tiles: int) -> tuple[Grid, ...]:
    """All grids of 2 to `max_tiles` tiles, the smallest first; the one tile when 1 is allowed."""
    every = [(r, c) for r in range(1, max_tiles + 1) for c in range(1, max_tiles // r + 1)]
    several = sorted((grid for grid in every if grid != (1, 1)), key=lambda g: (g[0] * g[1], g))
    return tuple(several) or ((1, 1),)


@lru_cache(maxsize=65536)
def best_grid(width: int, height: int, grids: tuple[Grid, ...], size: int) -> Grid:
    """The grid that keeps most pixels of the picture, and of those the one that wastes fewest.

    Kept are the pixels of the picture scaled into the grid, enlargement not counted. The first of
    equal grids wins.
    """

    def merit(grid: Grid) -> tuple[int, int]:
        rows, columns = grid
        scale = min(columns * size / width, rows * size / height)
        # Enlarging adds no pixels, so a larger grid than the picture fills keeps no more and wastes
        # more.
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - rows * columns * size * size

    return max(grids, key=merit)


@lru_cache(maxsize=65536)
def split_grid(width: int, height: int, size: int, max_tiles: int, enlarge: bool = False) -> Grid:
    """The grid of tiles of `size` pixels: as many as the picture fills, at most `max_tiles`.

    The long side decides: it takes as many whole tiles as it fills (none is invented by
    enlarging), the other side follows in proportion, rounded up. With `enlarge` the long side
    always takes the square root of `max_tiles`, as Idefics3's fixed longest side does.
    """
    most = math.isqrt(max_tiles) if enlarge else math.ceil(max(width, height) / size)
    # From as many tiles along as the picture fills, down to where those across fit into `max_tiles`
    # too.
    for along in range(min(max_tiles, most), 0, -1):
        wide, high = longest_side(width, height, along * size)
        if width >= height:
            across = math.ceil(int(along * size / (wide / high)) / size)
            grid = across, along
        else:
            across = math.ceil(int(along * size * (wide / high)) / size)
            grid = along, across
        if grid[0] * grid[1] <= max_tiles:
            return max(1, grid[0]), max(1, grid[1])
    return 1, 1


@lru_cache(maxsize=65536)
def limited_grid(width: int, height: int, size: int, max_tiles: int, enlarge: bool = False) -> Grid:
    """nanoVLM's grid: as `split_grid`, but no side takes more than the square root of `max_tiles`,
    and the short side is scaled once.

    Worked example: 100 x 30 pixels, tiles of 24, at most 9. The long side fills 5 tiles and gets 3;
    30 * 72 / 100 = 21.6 pixels are one tile: (1, 3).
    """
    long, short = max(width, height), min(width, height)
    most = math.isqrt(max_tiles)
    along = most if enlarge else min(most, math.ceil(long / size))
    across = max(1, math.ceil(short * (along * size / long) / size))
    return (across, along) if width >= height else (along, across)


def longest_side(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height scaled so that the longer is `longest`; the other is even where it can."""
    if width >= height:
        # Idefics3 rounds the shorter side up to an even number; divided and cut off in its order,
        # since `longest * height / width` rounds otherwise.
        other = int(longest / (width / height))
        return longest, max(1, min(longest, other + other % 2))
    other = int(longest * (width / height))
    return max(1, min(longest, other + other % 2)), longest


def rounded_grid(width: int, height: int, longest: int, unit: int) -> Grid:
    """Rows and columns of units nearest to the picture's own size, or that of the largest allowed.

    A picture is never enlarged but to reach one unit, and no side is longer than `longest`.
    """
    scale = min(1.0, longest / max(width, height))
    most = max(1, longest // unit)
    rows, columns = (round(side * scale / unit) for side in (height, width))
    return min(most, max(1, rows)), min(most, max(1, columns))
