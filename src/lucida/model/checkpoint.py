"""Making a model from its parts, saving it and loading it again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from lucida.core.files import ASIDE, atomic_folder, disk_errors
from lucida.core.spec import ModelSpec
from lucida.core.start import check_parts, find_start
from lucida.data.boxes import box_tokens
from lucida.model.blueprint import Blueprint, make_blueprint
from lucida.model.config import LucidaConfig
from lucida.model.configs import read_encoder_shape
from lucida.model.encoders.fusion import encoders_of, load_vision
from lucida.model.few_bits import Weights, check_weights, hold_in_few_bits
from lucida.model.folder import CONFIG
from lucida.model.language import add_tokens, load_language
from lucida.model.loading import quiet_loading, reachable, refusing
from lucida.model.parts import part_path
from lucida.model.processing import LucidaProcessor
from lucida.model.saved import check_pair
from lucida.model.vlm import LucidaModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from lucida.model.encoders import FusedEncoder, Preprocessing, VisionEncoder


def build(spec: ModelSpec) -> tuple[LucidaModel, LucidaProcessor]:
    """A new model from pretrained parts, in fp32, and the processor that belongs to it.

    Encoder and language model are loaded; the projector is new, drawn from torch's global generator
    (seed it first). Under `from` all of it is loaded, or its language model alone where the spec
    has no vision. What trains is decided by stages. ModelError and PartError name the part that
    cannot be loaded or does not fit, RecipeError what differs from the design of a saved model.
    """
    check_parts(spec)
    if spec.start is not None:
        model, processor = load(find_start(spec.start))
        if spec.vision is not None:
            return model, ask_as(spec, model, processor)
        language, tokenizer = model.language, processor.tokenizer
    else:
        with reachable(spec.language.path, "model.language.path"):
            path = part_path(spec.language.path)
            language, tokenizer = load_language(path, spec.language.quantize)
    blueprint = make_blueprint(spec, find_shape)
    processor = make_processor(blueprint, language, tokenizer)
    vision = None if spec.vision is None else load_vision(spec.vision)
    config = LucidaConfig(
        **describe_vision(blueprint, vision),
        text_config=language.config,
        spec=spec.model_dump(mode="json") | {"from": None},
        image_token_id=tokenizer.image_token_id,
        image_size=processor.image_policy.size,
        unit=processor.image_policy.unit,
    )
    model = LucidaModel(config, vision, language).eval()
    model.generation_config = generation_defaults(language, processor)
    return model, processor


def ask_as(spec: ModelSpec, model: LucidaModel, processor: LucidaProcessor) -> LucidaProcessor:
    """Set a saved model and its processor to ask as the spec says; gives the processor."""
    language = spec.language
    model.config.spec = spec.model_dump(mode="json") | {"from": None}
    processor.template = language.template
    processor.image_places, processor.max_length = language.images, language.max_length
    # A saved model keeps these settings as its own; the language model in it was made without any.
    model.language.generation_config = model.generation_config
    model.generation_config = generation_defaults(model.language, processor)
    return processor


def find_shape(path: str) -> tuple[PreTrainedConfig, Preprocessing]:
    """What an encoder's own files say of it; PartError when it is not at hand."""
    with reachable(path, "model.vision"):
        return read_encoder_shape(path)


def describe_vision(
    blueprint: Blueprint, vision: VisionEncoder | FusedEncoder | None
) -> dict[str, Any]:
    """What the configuration says about the loaded encoders and what comes out of them."""
    if vision is None:
        return {"vision_config": None}
    first, *more = encoders_of(vision)
    return {
        "vision_config": first.model.config,
        "more_vision": [encoder.model.config.to_dict() for encoder in more],
        "feature_layers": [list(encoder.named_layers) for encoder in (first, *more)],
        "patches": blueprint.patches,
        "visual_tokens": blueprint.visual_tokens,
        "vision_width": blueprint.width,
        "unit_patches": blueprint.arrangement.unit_patches,
    }


def make_processor(
    blueprint: Blueprint, language: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LucidaProcessor:
    """The processor of a design. The tokenizer, and where it outgrows it the language model's
    embedding, get the tokens of images, tiles and boxes."""
    spec, policies = blueprint.spec, blueprint.policies
    name_tiles(tokenizer, blueprint.names)
    placeholder = add_tokens(language, tokenizer, box_tokens(spec.coordinate_bins))
    return LucidaProcessor(
        tokenizer,
        image_token=placeholder,
        image_policy=policies[0],
        more_policies=policies[1:],
        template=spec.language.template,
        image_places=spec.language.images,
        positions=spec.language.positions,
        visual_tokens=blueprint.visual_tokens,
        projector=spec.projector,
        unit_patches=blueprint.arrangement.unit_patches,
        coordinate_bins=spec.coordinate_bins,
        max_length=spec.language.max_length,
    )


def name_tiles(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
    """Make sure that the tokenizer has the names of tiles as special tokens."""
    known = tokenizer.get_vocab()
    new = [name for name in names if name not in known]
    if new:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": new}, replace_extra_special_tokens=False
        )


def generation_defaults(language: PreTrainedModel, processor: LucidaProcessor) -> GenerationConfig:
    """The language model's own settings, this template's end, and never a placeholder."""
    tokenizer = processor.tokenizer
    settings = GenerationConfig.from_dict(language.generation_config.to_dict())
    settings.pad_token_id = tokenizer.pad_token_id
    ends = settings.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    settings.eos_token_id = list(dict.fromkeys([*ends, *processor.end_tokens()]))
    settings.suppress_tokens = [tokenizer.image_token_id]
    return settings


def save(model: LucidaModel, processor: LucidaProcessor, folder: str | Path) -> None:
    """Write model and processor into `folder` in the transformers layout: safetensors, JSON, and
    `checksums.json`. ModelError when they do not fit each other.

    Everything is written aside and flushed first, then renamed into place file by file,
    `config.json` last: a folder with a `config.json` is whole. Other files of the folder (a run's
    recipe, its metrics) stay as they are. RunError when the disk is full or not writable.
    """
    folder = Path(folder)
    check_pair(processor, model.config, "saving")
    # The name marks it as a leftover, should the process die (`files.remove_unfinished`).
    staged = folder / f".model{ASIDE}staged"
    try:
        with atomic_folder(staged) as aside, quiet_loading():
            model.save_pretrained(aside)
            processor.save_pretrained(aside)
        with disk_errors(folder):
            names = sorted(path.name for path in staged.iterdir())
            names.sort(key=lambda name: name == CONFIG)
            # From here until the last rename the folder says that it is not whole.
            (folder / CONFIG).unlink(missing_ok=True)
            for stale in folder.glob("model*.safetensors*"):
                if stale.name not in names:
                    stale.unlink()
            for name in names:
                (staged / name).replace(folder / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: Weights | None = None,
) -> tuple[LucidaModel, LucidaProcessor]:
    """A saved model and its processor from a run folder or any folder or Hub id that holds one.

    weights: hold the language model's matrices in fewer bits (`few_bits`), to be asked only.

    ModelError, which names the file, unless they are whole, as they were saved, and fit each other;
    no code of a folder is ever run.
    """
    check_weights(weights)
    with quiet_loading(), refusing(path):
        model = LucidaModel.from_pretrained(path, dtype=dtype, use_safetensors=True)
        processor = LucidaProcessor.from_pretrained(path)
    model.to(device).eval()
    hold_in_few_bits(model, weights)
    return model, processor
