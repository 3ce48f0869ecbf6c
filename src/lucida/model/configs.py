"""Shapes of the published checkpoints that presets name, for planning where no weights are.

    known_config("Qwen/Qwen2.5-0.5B")      transformers' configuration, without the Hub
    encoder_shape(path)                    the same, or that of a local folder; pixels with it

Nothing is ever loaded by these: `lucida train` reads the checkpoint's own files. They stand in
`known_configs/*.json` and were written down from the published config.json and
preprocessor_config.json of each checkpoint, as far as remembered; the tests compare the numbers of
parameters with the published ones. An entry with `unsure` says what could not be confirmed.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from lucida.core.errors import ModelError, suggestion
from lucida.model.encoders.encoder import vision_config
from lucida.model.encoders.preprocessing import Preprocessing, read_preprocessing
from lucida.model.parts import part_path

FOLDER = Path(__file__).parent / "known_configs"


@functools.cache
def known() -> dict[str, dict[str, Any]]:
    """Checkpoint → what is known: `config`, for encoders `pixels`, and perhaps `unsure`."""
    entries: dict[str, dict[str, Any]] = {}
    for file in sorted(FOLDER.glob("*.json")):
        entries |= json.loads(file.read_text(encoding="utf-8"))
    return entries


def find_known_config(path: str) -> PreTrainedConfig:
    """The configuration of a known checkpoint; of a dual one (CLIP, SigLIP) its vision half."""
    if path not in known():
        raise ModelError(
            f"the shape of `{path}` is not known here",
            remedy=f"give a local folder, or one of the known: {suggestion(path, known())}",
        )
    values = dict(known()[path]["config"])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def find_known_preprocessing(path: str) -> Preprocessing:
    """Size, mean and standard deviation that a known encoder expects of its pixels."""
    if "pixels" not in known().get(path, {}):
        raise ModelError(f"no preprocessing of `{path}` is known here")
    pixels = known()[path]["pixels"]
    return Preprocessing(pixels["size"], tuple(pixels["mean"]), tuple(pixels["std"]))


def encoder_shape(path: str) -> tuple[PreTrainedConfig, Preprocessing]:
    """Configuration and preprocessing of an encoder: known, shipped, or in a local folder."""
    if path in known():
        return find_known_config(path), find_known_preprocessing(path)
    return read_encoder_shape(path)


def read_encoder_shape(path: str) -> tuple[PreTrainedConfig, Preprocessing]:
    """Configuration and preprocessing of an encoder as its own files say."""
    config = vision_config(part_path(path))
    return config, read_preprocessing(part_path(path), config)


def language_shape(path: str) -> PreTrainedConfig:
    """Configuration of a language model: known, shipped, or in a local folder."""
    return (
        find_known_config(path) if path in known() else AutoConfig.from_pretrained(part_path(path))
    )
