"""Patches as a grid: its sides, its blocks of neighbours, and how many there are."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lucida.core.errors import ModelError

Patches = int | tuple[int, int]
"""A number of patches, or (height, width) of their grid."""


def count(patches: Patches) -> int:
    """The number of patches."""
    return patches if isinstance(patches, int) else patches[0] * patches[1]


def sides(patches: Patches, why: str) -> tuple[int, int]:
    """(height, width) of the grid; a bare number has to be a square. `why` begins the message."""
    if not isinstance(patches, int):
        return patches
    side = math.isqrt(patches)
    if side * side != patches or not side:
        raise ModelError(
            f"{why} a square grid of patches",
            expected=f"a square, such as {side**2} or {(side + 1) ** 2}",
            given=patches,
            remedy="take the patches without the class token (model.vision.take=patches), or choose"
            " a projector that knows no neighbours (mlp, perceiver)",
        )
    return side, side


def blocks(patches: Patches, factor: int, why: str) -> tuple[int, int]:
    """(height, width) in blocks of factor x factor patches; what is left over makes one more."""
    height, width = sides(patches, why)
    return -(-height // factor), -(-width // factor)


def into_channels(
    features: Float[Tensor, "images patches vision"], grid: tuple[int, int], factor: int
) -> Float[Tensor, "images tokens *any"]:
    """Each block of factor x factor neighbours as one long vector: its patches row by row.

    Grids that do not divide are padded with zeros at the right and the bottom. Worked example,
    factor 2, a grid of 2 x 3 patches:

        a b c        (a b d e)  (c 0 f 0)
        d e f
    """
    height, width = grid
    images, _, vision = features.shape
    below, beside = -height % factor, -width % factor
    padded = functional.pad(features.unflatten(1, (height, width)), (0, 0, 0, beside, 0, below))
    rows, columns = (height + below) // factor, (width + beside) // factor
    # [images, rows, columns, factor, factor, vision]: row by row within a block.
    cut = padded.view(images, rows, factor, columns, factor, vision).transpose(2, 3)
    return cut.reshape(images, rows * columns, factor * factor * vision)


def grid_of(
    features: Float[Tensor, "images patches vision"],
    grid: tuple[int, int] | None,
    usual: Patches,
    why: str,
) -> tuple[int, int]:
    """(height, width) of these features: as given, or as usual, or else the square they make."""
    number = features.shape[1]
    if grid is None:
        grid = sides(usual if count(usual) == number else number, why)
    if count(grid) != number:
        raise ModelError(
            "the grid and the patches of an image differ",
            expected=f"{grid[0]} x {grid[1]} = {count(grid)} patches",
            given=number,
        )
    return grid
