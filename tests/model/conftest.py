"""Shapes are checked while the tests of this folder run; and they may import `tiny`.

The configuration is left out: transformers builds its class from the signature, which the check
would hide.
"""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

CHECKED = (
    "attention",
    "encoders.encoder",
    "fuse",
    "generation",
    "masks",
    "projectors.c_abstractor",
    "projectors.downsample",
    "projectors.expand",
    "projectors.fused_mlp",
    "projectors.grid",
    "projectors.identity",
    "projectors.linear",
    "projectors.mlp",
    "projectors.perceiver",
    "projectors.pixel_shuffle",
    "projectors.pool",
    "projectors.qformer",
    "projectors.reading",
    "projectors.transformer",
    "vlm",
)

sys.path.insert(0, str(Path(__file__).parent))
install_import_hook([f"lucida.model.{module}" for module in CHECKED], "beartype.beartype")
