"""Which grid of tiles, or of patches, a picture of some width and height gets.

best_grid      anyres: of given grids the one that keeps most of the picture
split_grid     split: as many whole tiles along the long side as it fills, the other in proportion
rounded_grid   native: the nearest number of units on both sides
"""

from __future__ import annotations

import math
from functools import lru_cache

Grid = tuple[int, int]
"""Rows and columns."""


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
