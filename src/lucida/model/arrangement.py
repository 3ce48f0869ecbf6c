"""How many visual tokens an image has and where they stand, from its width and height alone.

The data side keeps places by `runs`, the model fills them by `arranged`; both are asked here, so
that they cannot differ. What they answer is the policy's (`data.policies`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lucida.core.spec import ImageSpec, ProjectorSpec
from lucida.data.policies import ImagePolicy, Triple, make_policy
from lucida.model.projectors import visual_tokens


@dataclass(frozen=True)
class Arrangement:
    """Visual tokens of images under a policy.

    tokens: visual tokens of one view (of pictures of their own shape, of a square of the full
    size). projector and unit_patches (patches per side of a unit of the policy's grid) decide the
    number where pictures keep their own shape.
    """

    policy: ImagePolicy
    tokens: int
    projector: ProjectorSpec | None = None
    unit_patches: int = 1

    def runs(self, width: int, height: int) -> tuple[int | str, ...]:
        """Numbers of placeholders of an image, and between them the text that names its tiles."""
        tokens = self.tokens
        if self.policy.own_shape:
            tokens = visual_tokens(self.projector, self.patches(width, height))
        return self.policy.runs(width, height, tokens)

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


def policy_of(spec: ImageSpec, size: int, mean: Triple, std: Triple, unit: int = 1) -> ImagePolicy:
    """A recipe's image policy for an encoder of this size and normalisation."""
    options = spec.model_dump(exclude={"policy", "size"}) | {"unit": unit}
    if spec.grids is not None:
        options["grids"] = tuple(map(tuple, spec.grids))
    return make_policy(spec.policy, size, mean, std, **options)
