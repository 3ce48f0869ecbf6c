"""From picture files to the pixels of a batch, the same way under every policy.

ImageSource ─draw─▶ Drawn: views of 8 bits ─normalise─▶ Views: float32, those of a batch together
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from lucida.data.images import image_size
from lucida.data.policies import ImagePolicy
from lucida.data.sample import ImageSource, Views
from lucida.data.transport import room


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images that are decoded and scaled, but not yet normalised: a quarter of what their pixels
    take until those of all samples are written into one array.

    views[e][i]: what `policies[e]` makes of image i. sizes: width and height of the whole pictures.
    """

    views: tuple[tuple[tuple[Image.Image, ...], ...], ...]
    policies: tuple[ImagePolicy, ...]
    sizes: tuple[tuple[int, int], ...]


def draw(
    sources: Sequence[ImageSource], policies: Sequence[ImagePolicy], scaled: bool = False
) -> Drawn:
    """Images as the encoders of these policies are shown them; all see the same parts, those that
    the first one chooses. `scaled` as in `open_for_policies`."""
    seen: list[list[tuple[Image.Image, ...]]] = [[] for _ in policies]
    sizes = []
    for source in sources:
        image = open_for_policies(source, policies, scaled)
        # A JPEG that was decoded smaller has another size; grids and boxes go by that of the whole
        # picture.
        sizes.append(image_size(source) if scaled else image.size)
        grid = policies[0].grid(*sizes[-1])
        for views, policy in zip(seen, policies, strict=True):
            views.append(tuple(policy.views(image, grid)))
    return Drawn(tuple(map(tuple, seen)), tuple(policies), tuple(sizes))


def normalise(parts: Sequence[Drawn]) -> Views:
    """The pixels of all images of the parts, one part after the other; in shared memory if this is
    a worker process. The parts were drawn under the same policies."""
    policies = parts[0].policies
    drawn = [[views for part in parts for views in part.views[e]] for e in range(len(policies))]
    shapes = tuple(
        tuple((len(views), 3, views[0].height, views[0].width) for views in images)
        for images in drawn
    )
    # One block for all images of all shapes: a worker hands over one piece of shared memory, and
    # each view is written where it stays.
    values = room((sum(math.prod(shape) for images in shapes for shape in images),))
    array, end = values.numpy(), 0
    for policy, images in zip(policies, drawn, strict=True):
        for view in (view for views in images for view in views):
            begin, end = end, end + 3 * view.height * view.width
            policy.levels(view, array[begin:end].reshape(3, view.height, view.width))
    return Views(values, shapes, tuple(size for part in parts for size in part.sizes))


def open_for_policies(
    source: ImageSource, policies: Sequence[ImagePolicy], scaled: bool = False
) -> Image.Image:
    """The picture for these policies; `scaled` allows one of fewer pixels, if they do with it."""
    if not scaled or source.smaller is None:
        return source.load()
    size = image_size(source)
    wide, high = zip(*(policy.least(*size) for policy in policies), strict=True)
    return source.smaller((max(wide), max(high)))
