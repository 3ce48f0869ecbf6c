"""Shapes of the published checkpoints that presets name, for planning where no weights are.

    known_config("Qwen/Qwen2.5-0.5B")      transformers' configuration, without the Hub
    skeleton(spec)                         vision, projector and language without any memory

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

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from lucida.core.errors import ModelError, suggestion
from lucida.core.spec import EncoderSpec, ModelSpec
from lucida.core.start import check_start
from lucida.model.config import LucidaConfig
from lucida.model.cross_attention import GatedCrossAttention
from lucida.model.encoders.encoder import (
    VisionEncoder,
    make_encoder,
    new_model,
    truncate_config,
    vision_config,
)
from lucida.model.encoders.families import family_of
from lucida.model.encoders.fusion import joined
from lucida.model.encoders.preprocessing import Preprocessing, read_preprocessing
from lucida.model.encoders.timm_model import TimmConfig
from lucida.model.folder import PROCESSOR_CONFIG, read_json
from lucida.model.loading import refusing
from lucida.model.parts import part_path
from lucida.model.projectors import make_projector, visual_tokens
from lucida.model.vlm import LucidaModel

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
    config = vision_config(part_path(path))
    return config, read_preprocessing(part_path(path), config)


def language_shape(path: str) -> PreTrainedConfig:
    """Configuration of a language model: known, shipped, or in a local folder."""
    return (
        find_known_config(path) if path in known() else AutoConfig.from_pretrained(part_path(path))
    )


class Skeleton(nn.Module):
    """Parts under the names that they have in a `LucidaModel`, so that `plan_stage` can be asked
    what a stage of a full-scale recipe trains. `visual_tokens` are of one tile or image."""

    def __init__(
        self,
        vision: nn.Module | None,
        projector: nn.Module | None,
        language: nn.Module,
        cross_attention: nn.Module | None = None,
        **facts: Any,
    ) -> None:
        super().__init__()
        self.vision, self.projector, self.language = vision, projector, language
        self.cross_attention = cross_attention
        self.patches: int = facts["patches"]
        self.visual_tokens: int = facts["visual_tokens"]


def skeleton(spec: ModelSpec) -> Skeleton:
    """The parts of a design on the meta device: shapes and names, no weights, no memory.

    Encoders are cut at their feature layer, as they are when they are loaded. Tokens that Lucida
    adds for images and boxes are not counted. ModelError names a part whose shape is unknown, or
    parts that do not fit together; RecipeError what differs from the model that it goes on from.
    """
    if spec.start is not None:
        return saved_skeleton(spec)
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(language_shape(spec.language.path))
        if spec.vision is None:
            return Skeleton(None, None, language, patches=0, visual_tokens=0)
        found = [
            _encoder(each, each.size or spec.image.size)
            for each in (spec.vision, *spec.vision.more)
        ]
        side_by_side = spec.vision.fusion == "channels"
        width = sum(each[1] for each in found) if side_by_side else found[0][1]
        patches = found[0][2] if side_by_side else sum(each[2] for each in found)
        target = language.get_input_embeddings().weight.shape[1]
        projector = make_projector(spec.projector, width, target, patches)
        gated = None
        if spec.cross_attention is not None:
            gated = GatedCrossAttention(spec.cross_attention, language)
        parts = [each[0] for each in found]
    vision = joined(parts, spec.vision.fusion)
    tokens = visual_tokens(spec.projector, patches)
    return Skeleton(vision, projector, language, gated, patches=patches, visual_tokens=tokens)


def saved_config(folder: Path) -> LucidaConfig:
    """The configuration of a saved model."""
    with refusing(folder):
        return LucidaConfig.from_pretrained(folder)


def saved_skeleton(spec: ModelSpec) -> Skeleton:
    """The same of a model that is saved already, or of its language model alone."""
    config = saved_config(check_start(spec))
    with torch.device("meta"):
        if spec.vision is None:
            language = AutoModelForCausalLM.from_config(config.text_config)
            return Skeleton(None, None, language, patches=0, visual_tokens=0)
        model = LucidaModel(config)
    patches = config.patches
    tokens = visual_tokens(spec.projector, patches)
    parts = model.vision, model.projector, model.language, model.cross_attention
    return Skeleton(*parts, patches=patches, visual_tokens=tokens)


def encoder_shapes(spec: ModelSpec) -> list[tuple[PreTrainedConfig, Preprocessing]]:
    """Configuration and preprocessing of every encoder of a design; of a saved model those that it
    was saved with."""
    vision = spec.vision
    if vision is None:
        return []
    if spec.start is None:
        return [encoder_shape(each.path) for each in (vision, *vision.more)]
    folder = check_start(spec)
    values = read_json(folder / PROCESSOR_CONFIG, "image_policy")
    policies = [values["image_policy"], *values.get("more_policies", [])]
    pixels = [Preprocessing(each["size"], each["mean"], each["std"]) for each in policies]
    return list(zip(saved_config(folder).vision_configs, pixels, strict=True))


def _encoder(spec: EncoderSpec, size: int | None) -> tuple[VisionEncoder, int, int]:
    """One encoder with its width and its patches for an image of its own or the recipe's size."""
    config, pixels = encoder_shape(spec.path)
    shorter, layers = truncate_config(config, spec.feature_layer)
    model = new_model(shorter)
    encoder = make_encoder(model, spec.normed, spec.take, layers)
    side = size or pixels.size
    if isinstance(config, TimmConfig):
        with torch.no_grad():
            _, taken, width = encoder(torch.zeros(1, 3, side, side, device="meta")).shape
        return encoder, width, taken
    if family_of(config).stages:
        shape = model(torch.zeros(1, 3, side, side, device="meta")).last_hidden_state.shape
        width, patches = shape[1], shape[2] * shape[3]
    else:
        width, patches = config.hidden_size, (side // config.patch_size) ** 2
    taken = {"patches": patches, "cls_patches": patches + 1, "cls": 1, "mean": 1}[spec.take]
    return encoder, width * len(layers), taken
