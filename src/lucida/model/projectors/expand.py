"""One vector of an image becomes several tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lucida.core.errors import ModelError
from lucida.core.spec import ExpandProjectorSpec
from lucida.model.projectors.grid import Patches, count
from lucida.model.projectors.projector import Projector


class ExpandProjector(Projector):
    """A matrix from the one vector of an image to `tokens` times the language model's width.

    Reference: Mokady et al., ClipCap: CLIP Prefix for Image Captioning, 2021, arXiv 2111.09734,
    section 3.2 (there with an MLP).
    """

    places = False

    def __init__(
        self, spec: ExpandProjectorSpec, vision: int, language: int, patches: Patches
    ) -> None:
        super().__init__()
        self.count = spec.tokens
        self.linear = nn.Linear(vision, spec.tokens * language)

    @staticmethod
    def tokens(spec: ExpandProjectorSpec, patches: Patches) -> int:
        """As the spec says; ModelError unless an image has one vector."""
        if count(patches) != 1:
            raise ModelError(
                "the projector `expand` takes one vector of an image",
                expected=1,
                given=f"{count(patches)} patches",
                remedy="set model.vision.take=cls or mean",
            )
        return spec.tokens

    def forward(
        self, features: Float[Tensor, "images patches vision"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens."""
        return self.linear(features).reshape(len(features), self.count, -1)
