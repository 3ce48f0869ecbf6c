"""Images in several views, or of their own shapes: encoded and projected in as few calls as can be.

Views ─encoded─▶ features of each image [views, patches, vision]
      ─visual_of─▶ visual tokens of each image [tokens, width], in the order of their places
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from lucida.data.sample import Views
from lucida.model.arrangement import Arrangement


def encode_views(encode: Callable[[Tensor | list[Tensor]], Tensor], views: Views) -> list[Tensor]:
    """Features of each image; `encode` is called once for all views of one shape.

    It gets one tensor [views, 3, height, width], or with several encoders a list of one for each.
    """
    shapes = [tuple(image.shape[-2:] for image in seen) for seen in zip(*views.pixels, strict=True)]
    found: list[Tensor] = [torch.empty(0)] * len(views)
    for numbers in alike(shapes):
        pixels = [torch.cat([images[n] for n in numbers]) for images in views.pixels]
        features = encode(pixels if len(pixels) > 1 else pixels[0])
        counts = [len(views.pixels[0][n]) for n in numbers]
        for number, part in zip(numbers, features.split(counts), strict=True):
            found[number] = part
    return found


def visual_of(
    features: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    arrangement: Arrangement,
    project: Callable[[Tensor, tuple[int, int] | None], Tensor],
    newline: Tensor | None,
) -> list[Tensor]:
    """Visual tokens of each image; `project` is called once for all views of one grid."""
    own = arrangement.policy.own_shape
    grids = [arrangement.patches(*size) if own else None for size in sizes]
    found: list[Tensor] = [torch.empty(0)] * len(sizes)
    for numbers in alike(grids):
        projected = project(torch.cat([features[n] for n in numbers]), grids[numbers[0]])
        counts = [len(features[n]) for n in numbers]
        for number, views in zip(numbers, projected.split(counts), strict=True):
            found[number] = arrangement.arranged(views, sizes[number], newline)
    return found


def alike(kinds: Sequence[Hashable]) -> list[list[int]]:
    """The numbers of equal entries together."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for number, kind in enumerate(kinds):
        groups[kind].append(number)
    return list(groups.values())
