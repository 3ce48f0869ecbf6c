"""The axis names that tensor shapes are written with, so that one word means one thing everywhere.

    def project(
        self, features: Float[Tensor, "images patches vision"]
    ) -> Float[Tensor, "images patches width"]: ...

Within one call, equal names must have equal sizes (jaxtyping). A test reads the source and refuses
names that do not stand here.
"""

from __future__ import annotations

AXES = {
    "rows": "rows of a batch; a row holds one sample, or several packed ones",
    "length": "positions of a row, visual tokens included",
    "segments": "samples of a batch, counted over all rows",
    "images": "images of a batch, in the order of their placeholders",
    "height": "pixels from top to bottom",
    "width": "width of the language model; of an image behind `height`: pixels from left to right",
    "patches": "feature vectors of one image",
    "tokens": "visual tokens of one image",
    "vision": "width of the vision encoder's features",
    "vocabulary": "entries of the language model's vocabulary",
    "heads": "attention heads",
    "size": "width of one attention head",
    "any": "any number of axes (written *any)",
}
"""Axis → what it counts."""
