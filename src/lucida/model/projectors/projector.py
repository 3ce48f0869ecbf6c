"""What every projector is to the rest of a design."""

from __future__ import annotations

from typing import Any

from torch import nn

from lucida.model.projectors.grid import Patches, blocks, count


class Projector(nn.Module):
    """From features [images, patches, vision] to visual tokens [images, tokens, language].

    A projector is made as `kind(spec, vision, language, patches)` and called as
    `projector(features, grid)`, with the grid where it is not the usual one.
    """

    places = True
    """Do its visual tokens stand for places of the picture, row by row?"""
    neighbours = False
    """Does it join neighbouring patches, so that it needs their grid?"""

    @staticmethod
    def tokens(spec: Any, patches: Patches) -> int:
        """How many visual tokens come out, here one for each patch; ModelError where it cannot take
        such patches."""
        return count(patches)

    @staticmethod
    def grid(spec: Any, patches: Patches) -> tuple[int, int]:
        """Rows and columns of its visual tokens, where they stand for `places`."""
        return blocks(patches, getattr(spec, "factor", 1), "positions of rows and columns need one")

    @staticmethod
    def block(spec: Any) -> int:
        """Patches along a side of the blocks which have to cover its grid evenly."""
        return 1
