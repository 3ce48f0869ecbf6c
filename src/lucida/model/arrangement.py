"""How many visual tokens an image has and where they stand, from its width and height alone.

The data side keeps places by `placed`, the model fills them by `arranged`; both are asked here, so
that they cannot differ. What they answer is the policy's (`data.policies`).

Where visual tokens stand among the positions is `language.positions`. Under `mrope` each block of
them, R rows of C columns, is what a picture is to Qwen2-VL. It begins at the next free position b:
the token in row r and column c has the three parts (b, b + r, b + c), and what follows stands at
b + max(R, C). One number is kept for it, the largest part, b + max(r, c); from that the data side
counts on as everywhere (`placed`: how far each token stands behind the one before it), and the
model finds the three from there (`parts`). Worked example, 2 rows of 3 columns and a word behind:

    position    0 1 2   1 1 2   3
    temporal    0 0 0   0 0 0   3
    height      0 0 0   1 1 1   3
    width       0 1 2   0 1 2   3

Reference: Wang et al., Qwen2-VL, 2024, arXiv 2409.12191, section 2.1; transformers'
Qwen2VLModel.get_rope_index. Of `reset`: Wang et al., CogVLM, 2023, arXiv 2311.03079, section 2,
and `build_position_ids` of its code, where the first and the last visual token count as words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from lucida.core.spec import ImageSpec, Positions, ProjectorSpec
from lucida.data.pieces import Run
from lucida.data.policies import Grid, ImagePolicy, Triple, make_policy
from lucida.model.projectors import PROJECTORS, visual_tokens


@dataclass(frozen=True)
class Arrangement:
    """Visual tokens of images under a policy.

    tokens: visual tokens of one view (of pictures of their own shape, of a square of the full
    size). projector and unit_patches (patches per side of a unit of the policy's grid) decide the
    number where pictures keep their own shape. positions: as in `LanguageSpec`.
    """

    policy: ImagePolicy
    tokens: int
    projector: ProjectorSpec | None = None
    unit_patches: int = 1
    positions: Positions = "1d"

    @property
    def three_parts(self) -> bool:
        """Do positions have a part for time, for height and for width?"""
        return self.positions.startswith("mrope")

    def runs(self, width: int, height: int) -> tuple[int | str, ...]:
        """Numbers of placeholders of an image, and between them the text that names its tiles."""
        tokens = self.tokens
        if self.policy.own_shape:
            tokens = visual_tokens(self.projector, self.patches(width, height))
        return self.policy.runs(width, height, tokens)

    def placed(self, width: int, height: int) -> tuple[Run, ...]:
        """The same for the text: under positions that do not count every visual token, how far each
        of a run stands behind the one before it."""
        runs = self.runs(width, height)
        if self.positions == "1d":
            return runs
        if self.positions == "reset":
            return tuple((1, *(0,) * (r - 1)) if isinstance(r, int) else r for r in runs)
        left = iter(self.blocks(width, height))
        return tuple(steps_of(run, left) if isinstance(run, int) else run for run in runs)

    def blocks(self, width: int, height: int) -> list[Grid]:
        """Rows and columns of visual tokens, block after block, line ends being a column."""
        side = math.isqrt(self.tokens)
        view = (side, side)
        if self.policy.own_shape:
            kind = PROJECTORS[self.projector.kind]
            view = kind.grid(self.projector, self.patches(width, height))
        return self.policy.blocks(width, height, view)

    def steps(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """How far each visual token of pictures of these sizes stands behind what is in front of
        it: int64 [tokens]."""
        runs = [run for size in sizes for run in self.placed(*size) if not isinstance(run, str)]
        return np.array([s for r in runs for s in ([1] * r if isinstance(r, int) else r)], np.int64)

    def parts(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """From the position of each visual token of pictures of these sizes to its three parts:
        what is to be added, int64 [tokens, 3]."""
        found = [parts_of(block) for size in sizes for block in self.blocks(*size)]
        return np.concatenate(found) if found else np.zeros((0, 3), np.int64)

    def count(self, width: int, height: int) -> int:
        """Visual tokens of an image, the names of its tiles not counted."""
        return sum(run for run in self.runs(width, height) if isinstance(run, int))

    def patches(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of its own shape."""
        rows, columns = self.policy.grid(width, height)
        return rows * self.unit_patches, columns * self.unit_patches

    def arranged(self, views: Tensor, size: tuple[int, int], newline: Tensor | None) -> Tensor:
        """Visual tokens [number, width] of an image in their order, from those of its views
        [views, tokens, width]; `size` is the width and height of the picture."""
        return self.policy.arrange(views, size, newline)


@lru_cache(maxsize=4096)
def parts_of(block: Grid) -> np.ndarray:
    """Of a block of visual tokens, row by row, by how much each of its three parts differs from its
    position, the largest of them: int64 [tokens, 3]."""
    rows, columns = np.indices(block).reshape(2, -1)
    return np.stack([0 * rows, rows, columns], 1) - np.maximum(rows, columns)[:, None]


@lru_cache(maxsize=4096)
def steps_in(block: Grid) -> tuple[int, ...]:
    """How far each visual token of a block stands behind the one before it."""
    # The time part is 0 throughout, so its negative difference is max(row, column): the place
    # itself.
    return tuple(np.diff(-parts_of(block)[:, 0], prepend=-1).tolist())


def steps_of(run: int, left: Iterator[Grid]) -> tuple[int, ...]:
    """The same of a run of so many visual tokens; its blocks are taken from those that are left."""
    steps: tuple[int, ...] = ()
    while len(steps) < run:
        steps += steps_in(next(left))
    return steps


def policy_of(spec: ImageSpec, size: int, mean: Triple, std: Triple, unit: int = 1) -> ImagePolicy:
    """A recipe's image policy for an encoder of this size and normalisation."""
    options = spec.model_dump(exclude={"policy", "size"}) | {"unit": unit}
    if spec.grids is not None:
        options["grids"] = tuple(map(tuple, spec.grids))
    return make_policy(spec.policy, size, mean, std, **options)
