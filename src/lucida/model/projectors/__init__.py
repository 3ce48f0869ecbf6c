"""Projectors: from the vision encoder's features to the language model's width."""

from __future__ import annotations

from torch import nn

from lucida.core.registry import Table
from lucida.core.spec import ProjectorSpec

PROJECTORS = Table(
    "projector",
    {
        "linear": "lucida.model.projectors.linear:LinearProjector",
        "mlp": "lucida.model.projectors.mlp:MlpProjector",
    },
    group="lucida.projectors",
)


def make_projector(spec: ProjectorSpec, vision: int, language: int, patches: int) -> nn.Module:
    """The projector of a recipe. vision, language: widths; patches: visual tokens of an image."""
    return PROJECTORS[spec.kind](spec, vision, language, patches)
