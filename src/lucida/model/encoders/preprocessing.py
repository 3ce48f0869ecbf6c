"""What an encoder expects of its pixels, read from the JSON beside its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig
from transformers.utils import cached_file

from lucida.core.errors import ModelError
from lucida.model.encoders.timm_model import TimmConfig
from lucida.model.folder import are_channels, read_json

FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Pixels per side of the encoder's own square, and the normalisation per RGB channel."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_preprocessing(path: str, config: PreTrainedConfig) -> Preprocessing:
    """Mean, standard deviation and size of the encoder at `path` (folder or Hub id).

    No default is ever guessed: a wrong mean costs accuracy and shows nowhere. ModelError when the
    file or one of its values is missing.
    """
    if isinstance(config, TimmConfig):
        return of_timm(path, config)
    values = find_values(path)
    mean, std = values.get("image_mean"), values.get("image_std")
    if mean is None or std is None:
        raise ModelError(
            "the image preprocessing names no image_mean and image_std",
            origin=path,
            given=sorted(values),
            remedy="write them into preprocessor_config.json (the values used in pretraining)",
        )
    if not are_channels(mean, -math.inf) or not are_channels(std, 0):
        raise ModelError(
            "image_mean and image_std are three numbers each, image_std above zero",
            given=f"{mean}, {std}",
            origin=path,
        )
    return Preprocessing(side(path, values, config), tuple(mean), tuple(std))


def of_timm(path: str, config: TimmConfig) -> Preprocessing:
    """What timm says about the pictures of one of its networks."""
    pixels = config.pixels
    if "mean" not in pixels or "std" not in pixels:
        raise ModelError(
            "timm names no mean and std of this network's pictures",
            origin=path,
            given=sorted(pixels),
            remedy="write them into pretrained_cfg of its config.json",
        )
    return Preprocessing(config.image_size, tuple(pixels["mean"]), tuple(pixels["std"]))


def find_values(path: str) -> dict:
    """The first JSON of `FILES` that describes image processing."""
    for name in FILES:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            values = read_json(Path(file))
            values = values.get("image_processor", values)
            if isinstance(values, dict) and "image_mean" in values:
                return values
    raise ModelError(
        "no description of the image preprocessing",
        origin=path,
        expected=" or ".join(FILES),
        remedy='add preprocessor_config.json with "image_mean", "image_std" and "size"',
    )


def side(path: str, values: dict, config: PreTrainedConfig) -> int:
    """Pixels per side: what the processor crops or resizes to, else the encoder's own size."""
    for key in ("crop_size", "size"):  # what comes last is what the encoder gets
        size = values.get(key)
        if isinstance(size, int):
            return size
        if isinstance(size, dict):
            if size.get("height") is not None and size.get("height") == size.get("width"):
                return size["height"]
            if size.get("shortest_edge") is not None:
                return size["shortest_edge"]
    own = getattr(config, "image_size", None)
    if isinstance(own, int):
        return own
    raise ModelError(
        "no square size of the encoder's images is known",
        origin=path,
        given={key: values.get(key) for key in ("crop_size", "size")},
        remedy="set model.image.size in the recipe, or size in preprocessor_config.json",
    )
