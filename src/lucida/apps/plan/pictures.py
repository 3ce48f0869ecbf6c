"""What pictures become under a recipe's image policy: visual tokens and views, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lucida.core.spec import Recipe
from lucida.data.policies import candidates

if TYPE_CHECKING:
    from lucida.model.arrangement import Arrangement
    from lucida.model.configs import Skeleton


@dataclass(frozen=True)
class Pictures:
    """arrangement: of the recipe; side: pixels of a square (0 for a blind model); marker: gated
    layers read the pictures, and the text keeps one place for each."""

    arrangement: Arrangement
    side: int
    marker: bool = False

    def places(self, width: int, height: int) -> tuple[int, list[str]]:
        """Placeholders of a picture in the text, and the names of its tiles between them."""
        if self.marker:
            return 1, []
        runs = self.arrangement.runs(width, height)
        names = [run for run in runs if isinstance(run, str)]
        return sum(run for run in runs if isinstance(run, int)), names

    def sides(self, width: int, height: int) -> list[float]:
        """Pixels along each view of a picture; under `native`, of the square of the same area."""
        policy = self.arrangement.policy
        rows, columns = policy.grid(width, height)
        if policy.policy == "native":
            return [policy.unit * (rows * columns) ** 0.5]
        tiles = rows * columns
        overview = policy.policy == "anyres" or (policy.policy == "split" and tiles > 1)
        return [float(self.side)] * (tiles + overview)

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Width and height of pictures that fill each grid of the policy; one square otherwise."""
        policy, size = self.arrangement.policy, self.arrangement.policy.size
        if policy.policy not in ("anyres", "split"):
            return [(size, size)]
        grids = candidates(policy.max_tiles) if policy.grids is None else policy.grids
        found = {(columns * size, rows * size) for rows, columns in (*grids, (1, 1))}
        return sorted(found)

    @property
    def most_tokens(self) -> int:
        """Placeholders of a picture at most."""
        return max(self.places(*shape)[0] for shape in self.shapes)

    @property
    def most_views(self) -> int:
        """Views of a picture at most."""
        return max(len(self.sides(*shape)) for shape in self.shapes)


def pictures_of(recipe: Recipe, model: Skeleton) -> Pictures:
    """The pictures of a recipe whose skeleton this is."""
    from lucida.model.arrangement import Arrangement, policy_of
    from lucida.model.configs import encoder_shapes

    spec = recipe.model
    block = spec.projector.factor if spec.projector.kind == "pixel_shuffle" else 1
    side, unit = 1, 1
    if spec.vision is not None:
        config, pixels = encoder_shapes(spec)[0]
        side = spec.vision.size or spec.image.size or pixels.size
        patch = getattr(config, "patch_size", None)
        if spec.image.policy == "native":
            along = patch if isinstance(patch, int) else round(side / max(1, model.patches) ** 0.5)
            unit = along * block
    policy = policy_of(spec.image, side, (0.5,) * 3, (0.5,) * 3, unit)
    tokens = 0 if spec.vision is None else model.visual_tokens
    arranged = Arrangement(policy, tokens, spec.projector, block)
    return Pictures(arranged, 0 if spec.vision is None else side, spec.cross_attention is not None)


def encoder_sides(recipe: Recipe, pictures: Pictures, side: float) -> tuple[int, ...]:
    """Pixels along what each encoder sees of a view whose side the first sees; none when blind."""
    from lucida.model.configs import encoder_shapes

    vision, unit = recipe.model.vision, pictures.arrangement.policy.unit
    if vision is None:
        return ()
    first = pictures.arrangement.policy.size
    found = []
    shapes = encoder_shapes(recipe.model)
    for encoder, (config, pixels) in zip((vision, *vision.more), shapes, strict=True):
        own = encoder.size or recipe.model.image.size or pixels.size
        if recipe.model.image.policy == "native":
            patch = getattr(config, "patch_size", None)
            step = patch * pictures.arrangement.unit_patches if isinstance(patch, int) else unit
            own = max(1, round(side / first * own / step)) * step
        found.append(own)
    return tuple(found)
