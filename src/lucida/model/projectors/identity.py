"""No projector at all."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lucida.core.errors import ModelError
from lucida.core.spec import IdentityProjectorSpec
from lucida.model.projectors.grid import Patches, count
from lucida.model.projectors.projector import Projector


class IdentityProjector(Projector):
    """The features themselves, for a vision encoder of the language model's width."""

    def __init__(
        self, spec: IdentityProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        if vision != language:
            raise ModelError(
                "the projector `identity` needs a vision encoder as wide as the language model",
                expected=language,
                given=vision,
                remedy="choose another model.projector (linear is the nearest)",
            )

    @staticmethod
    def tokens(spec: IdentityProjectorSpec, patches: Patches) -> int:
        """One for each patch."""
        return count(patches)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """The features."""
        return features
