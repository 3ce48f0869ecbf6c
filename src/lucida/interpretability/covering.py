"""Parts of a picture covered, and how much less likely the answer then is: what it rests on.

    picture ─window covered─▶ policy ─▶ encoder ─▶ log p(answer)      for every window of a grid

Windows of several sizes stand at every cell, beyond the edge too, so that each cell is covered
equally often. The value of a cell is the mean drop of the windows of each size over it, and of the
sizes: a window smaller than a thing leaves its colour to be seen, a large one covers its neighbours
as well.

Reference: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2013,
arXiv 1311.2901, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFilter, ImageStat

from lucida.core.errors import DataError, suggestion
from lucida.data.policies import Box

Cover = Literal["mean", "grey", "blur"]
COVERS: tuple[Cover, ...] = get_args(Cover)
SPANS = (2, 4)
"""Cells along a side of the windows of each size."""


def make_cover(image: Image.Image, cover: Cover) -> Image.Image:
    """What stands in place of covered parts, as large as the picture: its mean colour, middle grey,
    or the picture blurred until things of an eighth of its side are gone."""
    if cover == "mean":
        colour = tuple(round(value) for value in ImageStat.Stat(image).mean)
        return Image.new("RGB", image.size, colour)
    if cover == "grey":
        return Image.new("RGB", image.size, (128, 128, 128))
    if cover == "blur":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / 8))
    raise DataError(f"unknown cover `{cover}`", remedy=suggestion(cover, COVERS))


def grid_of(width: int, height: int, cells: int) -> tuple[int, int]:
    """Rows and columns of cells: `cells` along the longer side, never smaller than a pixel."""
    side = max(width, height) / min(cells, max(width, height))  # in pixels
    return max(1, round(height / side)), max(1, round(width / side))


def list_windows(
    width: int, height: int, grid: tuple[int, int], span: int
) -> list[tuple[int, int, int, int]]:
    """Windows of `span` cells a side in pixels, row by row: from where they cover the first cell
    alone to where they cover the last one alone."""
    down, across = (
        [round(length * k / count) for k in range(count + 1)]
        for length, count in zip((height, width), grid, strict=True)
    )

    def ends(edges: list[int]) -> list[tuple[int, int]]:
        last = len(edges) - 1
        # One for each place of a window that covers a cell at all: last + span - 1.
        return [(edges[max(k, 0)], edges[min(k + span, last)]) for k in range(1 - span, last)]

    return [(x0, y0, x1, y1) for y0, y1 in ends(down) for x0, x1 in ends(across)]


def shows(seen: Box, window: tuple[int, int, int, int]) -> bool:
    """Whether a window covers anything of the part that the model is shown."""
    across = window[0] < seen[2] and window[2] > seen[0]
    return across and window[1] < seen[3] and window[3] > seen[1]


def cover_windows(
    image: Image.Image, windows: Sequence[Box], cover: Image.Image
) -> Iterator[Image.Image]:
    """The picture with one window after the other covered."""
    for window in windows:
        covered = image.copy()
        covered.paste(cover.crop(window), window[:2])
        yield covered


def average_windows(drops: np.ndarray, grid: tuple[int, int], span: int) -> np.ndarray:
    """Drops of the windows of a size [windows, *any] → the mean of those that cover each cell
    [rows, columns, *any].

    Worked example, a row of two cells and a span of 2: drops 1, 2, 3 of the windows that begin a
    row earlier, 5, 6, 7 of the others. The cells are (1 + 2 + 5 + 6) / 4 = 3.5 and
    (2 + 3 + 6 + 7) / 4 = 4.5.
    """
    rows, columns = grid
    laid = drops.reshape(rows + span - 1, columns + span - 1, *drops.shape[1:])
    parts = [laid[r : r + rows, c : c + columns] for r in range(span) for c in range(span)]
    return np.mean(parts, axis=0)
