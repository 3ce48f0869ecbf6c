"""One matrix."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.spec import LinearProjectorSpec


class LinearProjector(nn.Module):
    """A linear map of every patch by itself.

    Reference: Liu et al., Visual Instruction Tuning, 2023, arXiv 2304.08485, section 4.1.
    """

    def __init__(self, spec: LinearProjectorSpec, vision: int, language: int, patches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vision, language)

    def forward(
        self, features: Float[Tensor, "images patches vision"]
    ) -> Float[Tensor, "images patches width"]:
        """Visual tokens, one for each patch."""
        return self.linear(features)
