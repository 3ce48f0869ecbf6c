"""Images in several views, or of their own shapes: encoded and projected in as few calls as can be.

Views of pixels ─encode_views─▶ Views of features
                ─visual_of─▶ visual tokens of each image [tokens, width], in their order
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from lucida.data.sample import Views
from lucida.model.arrangement import Arrangement


def encode_views(encode: Callable[..., Tensor], views: Views) -> Views:
    """Features of each image; `encode` is called once for all views of one shape, with a tensor
    [views, 3, height, width] for each encoder."""
    encoders = views.encoders()
    features: list[Tensor] = [torch.empty(0)] * len(views)
    # [images][encoders]: of one image the shapes that it has for every encoder.
    shown = [tuple(shape[1:] for shape in seen) for seen in zip(*views.shapes, strict=True)]
    groups = alike(shown)
    for numbers in groups:
        if len(groups) == 1:  # in their order: nothing to copy
            pixels = views.together()
        else:
            pixels = [torch.cat([images[n] for n in numbers]) for images in encoders]
        together = encode(*pixels)  # [views of all images, places, width]
        counts = [len(encoders[0][n]) for n in numbers]
        for number, part in zip(numbers, together.split(counts), strict=True):
            features[number] = part
    return Views.of([features], views.sizes)


def visual_of(
    features: Views,
    arrangement: Arrangement,
    project: Callable[[Tensor, tuple[int, int] | None], Tensor],
    newline: Tensor | None,
) -> list[Tensor]:
    """Visual tokens of each image; `project` is called once for all views of one grid."""
    own = arrangement.policy.own_shape
    grids = [arrangement.patches(*size) if own else None for size in features.sizes]
    images = features.images()
    visual: list[Tensor] = [torch.empty(0)] * len(images)
    for numbers in alike(grids):
        projected = project(torch.cat([images[n] for n in numbers]), grids[numbers[0]])
        counts = [len(images[n]) for n in numbers]
        for number, views in zip(numbers, projected.split(counts), strict=True):
            visual[number] = arrangement.arranged(views, features.sizes[number], newline)
    return visual


def alike(kinds: Sequence[Hashable]) -> list[list[int]]:
    """The numbers of equal entries together."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for number, kind in enumerate(kinds):
        groups[kind].append(number)
    return list(groups.values())
