"""How many visual tokens an image has and where they stand, from its width and height alone.

The data side keeps places by `runs`, the model fills them by `arranged`; both are asked here, so
that they cannot differ.

    one square     I I I I
    split          <row_1_col_1> I I I I <row_1_col_2> I I I I \\n \\n <global-img> I I I I
      (idefics3)   the same with <fake_token_around_image> in front of each name and at the end
      (nanovlm)    <|global_image|> I I I I <row_1_col_1> I I I I <row_1_col_2> I I I I
    anyres         overview, then the tiles as one picture, a newline vector behind each row
    native         I … I, as many as the picture's own grid has
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lucida.core.spec import ImageSpec, ProjectorSpec
from lucida.data.policies import ImagePolicy
from lucida.model.projectors import visual_tokens

OVERVIEW = "<global-img>"
AROUND = "<fake_token_around_image>"
"""Stands in front of each view of a picture and behind the last one (Idefics3)."""
FIRST_OVERVIEW = "<|global_image|>"
"""nanoVLM's name of the overview."""


@dataclass(frozen=True)
class Arrangement:
    """Visual tokens of images under a policy.

    tokens: visual tokens of one view (under `native`, of a square of the full size). projector and
    unit_patches (patches per side of a unit of the policy's grid) decide the number under `native`.
    """

    policy: ImagePolicy
    tokens: int
    projector: ProjectorSpec | None = None
    unit_patches: int = 1

    def runs(self, width: int, height: int) -> tuple[int | str, ...]:
        """Numbers of placeholders of an image, and between them the text that names its tiles.

        Worked example, `split`, 4 tokens, a grid of 1 x 2: `("<row_1_col_1>", 4, "<row_1_col_2>",
        4, "\\\\n\\\\n<global-img>", 4)`; in the layout nanovlm
        `("<|global_image|>", 4, "<row_1_col_1>", 4, "<row_1_col_2>", 4)`.
        """
        if self.policy.policy == "anyres":
            rows, columns = self.kept(width, height)
            return (self.tokens + rows * (columns + 1),)
        if self.policy.policy == "native":
            return (visual_tokens(self.projector, self.patches(width, height)),)
        if self.policy.policy == "split":
            return self._split(*self.policy.grid(width, height))
        return (self.tokens,)

    def _split(self, rows: int, columns: int) -> tuple[int | str, ...]:
        tiles = [(r, c) for r in range(rows) for c in range(columns)]
        several = len(tiles) > 1
        if self.policy.layout == "nanovlm":
            names = [tile_name(*tile) for tile in tiles] if several else []
            return tuple(run for name in (FIRST_OVERVIEW, *names) for run in (name, self.tokens))
        mark = AROUND if self.policy.layout == "idefics3" else ""
        runs: list[int | str] = []
        for row, column in tiles if several else ():
            line = "\n" if row and not column else ""
            runs += [line + mark + tile_name(row, column), self.tokens]
        runs += [("\n\n" if several else "") + mark + OVERVIEW, self.tokens]
        return (*runs, mark) if mark else tuple(runs)

    def count(self, width: int, height: int) -> int:
        """Visual tokens of an image, the names of its tiles not counted."""
        return sum(run for run in self.runs(width, height) if isinstance(run, int))

    def names(self) -> list[str]:
        """The tokens that name tiles; the tokenizer has to have them."""
        if self.policy.policy != "split":
            return []
        most = self.policy.max_tiles
        tiles = [tile_name(r, c) for r in range(most) for c in range(most // (r + 1))]
        if self.policy.enlarge or self.policy.layout == "nanovlm":
            side = math.isqrt(most)
            tiles = [tile_name(r, c) for r in range(side) for c in range(side)]
        others = {"plain": [OVERVIEW], "idefics3": [OVERVIEW, AROUND], "nanovlm": [FIRST_OVERVIEW]}
        return [*tiles, *others[self.policy.layout]]

    def patches(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches of an image under `native`."""
        rows, columns = self.policy.grid(width, height)
        return rows * self.unit_patches, columns * self.unit_patches

    def kept(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tokens under `anyres` that show the picture and not the padding.

        Of padding an equal number of rows (or columns) goes from both sides; rounding is
        LLaVA-NeXT's.
        """
        side = math.isqrt(self.tokens)
        rows, columns = (side * tiles for tiles in self.policy.grid(width, height))
        if width / height > columns / rows:
            rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
        return rows, columns

    def arranged(self, views: Tensor, size: tuple[int, int], newline: Tensor | None) -> Tensor:
        """Visual tokens [number, width] of an image in their order, from those of its views
        [views, tokens, width]; `size` is the width and height of the picture."""
        if self.policy.policy != "anyres":
            return views.flatten(0, 1)
        side = math.isqrt(self.tokens)
        tiles = self.policy.grid(*size)
        merged = views[1:].unflatten(1, (side, side)).unflatten(0, tiles)
        merged = merged.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [rows, columns, width]
        rows, columns = self.kept(*size)
        above, beside = (merged.shape[0] - rows) // 2, (merged.shape[1] - columns) // 2
        seen = merged[above : above + rows, beside : beside + columns]
        ends = newline.to(seen).expand(rows, 1, -1)
        return torch.cat([views[0], torch.cat([seen, ends], dim=1).flatten(0, 1)])


def policy_of(
    spec: ImageSpec,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    unit: int = 1,
) -> ImagePolicy:
    """A recipe's image policy for an encoder of this size and normalisation."""
    grids = None if spec.grids is None else tuple(map(tuple, spec.grids))
    return ImagePolicy(
        spec.policy,
        size,
        mean,
        std,
        spec.max_tiles,
        grids,
        unit,
        pad=spec.pad,
        odd=spec.odd,
        resample=spec.resample,
        layout=spec.layout,
        enlarge=spec.enlarge,
    )


def tile_name(row: int, column: int) -> str:
    """The token in front of a tile's visual tokens; rows and columns count from 0 here."""
    return f"<row_{row + 1}_col_{column + 1}>"
