"""Projectors: from the vision encoder's features to the language model's width.

    features [images, patches, vision] ──projector──▶ visual tokens [images, tokens, language]

A projector is one class and one line in `PROJECTORS`:

    class MyProjector(Projector):
        def __init__(self, spec, vision: int, language: int, patches: Patches) -> None: ...
        def forward(self, features, grid=None): ...
        @staticmethod
        def tokens(spec, patches: Patches) -> int: ...

`Projector` (projector.py) says what else the rest of a design may have to know of it. `tokens`
knows without weights how many visual tokens come out; the data side keeps so many places for an
image. `patches` is a number, or (height, width) where the grid is not square (grid.py).

    mlp.py         every vector by itself
    neighbours.py  blocks of neighbouring patches become one token
    reading.py     attention: blocks over the patches, or learned vectors that read them
"""

from __future__ import annotations

from lucida.core.registry import Table
from lucida.core.spec import ProjectorSpec
from lucida.model.projectors.grid import Patches
from lucida.model.projectors.projector import Projector

PROJECTORS = Table(
    "projector",
    {
        "linear": "lucida.model.projectors.mlp:LinearProjector",
        "mlp": "lucida.model.projectors.mlp:MlpProjector",
        "fused_mlp": "lucida.model.projectors.mlp:FusedMlpProjector",
        "downsample": "lucida.model.projectors.neighbours:DownsampleProjector",
        "pixel_shuffle": "lucida.model.projectors.neighbours:PixelShuffleProjector",
        "pool": "lucida.model.projectors.neighbours:PoolProjector",
        "transformer": "lucida.model.projectors.reading:TransformerProjector",
        "perceiver": "lucida.model.projectors.reading:PerceiverProjector",
        "qformer": "lucida.model.projectors.reading:QFormerProjector",
        "c_abstractor": "lucida.model.projectors.neighbours:AbstractorProjector",
        "expand": "lucida.model.projectors.mlp:ExpandProjector",
        "identity": "lucida.model.projectors.mlp:IdentityProjector",
    },
    group="lucida.projectors",
)


def make_projector(spec: ProjectorSpec, vision: int, language: int, patches: Patches) -> Projector:
    """The projector of a recipe. vision, language: widths; patches: features of one image.

    ModelError names both values when the shapes do not fit.
    """
    visual_tokens(spec, patches)
    return PROJECTORS[spec.kind](spec, vision, language, patches)


def visual_tokens(spec: ProjectorSpec, patches: Patches) -> int:
    """How many visual tokens the projector makes of one image (or tile) of so many patches.

    patches: their number, or (height, width) of their grid; a number that a projector needs as a
    grid has to be a square. ModelError when the projector cannot take them.
    """
    return PROJECTORS[spec.kind].tokens(spec, patches)
