"""One matrix."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import LinearProjectorSpec
from lucida.model.projectors.grid import Patches, count
from lucida.model.projectors.projector import Projector


class LinearProjector(Projector):
    """A linear map of every patch by itself.

    Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 4.1.
    """

    def __init__(
        self, spec: LinearProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(vision, language)

    @staticmethod
    def tokens(spec: LinearProjectorSpec, patches: Patches) -> int:
        """One for each patch."""
        return count(patches)

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        return self.linear(features)
