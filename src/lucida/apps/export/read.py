"""Importing: a checkpoint of another program becomes a model folder of Lucida's, compared first.

    vision encoders, language model, projector's weights   ─▶  OUT/parts/vision, vision-2, language
                                                            ─▶  OUT (the model)

The parts are written as ordinary Hugging Face folders, so that a recipe can train on from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from lucida.apps.export.probes import Agreement, compare, conversations
from lucida.core.errors import DataError, ModelError, suggestion
from lucida.core.files import atomic_folder, check_free
from lucida.core.spec import ImagePlaces, ModelSpec
from lucida.data.templates import TEMPLATES
from lucida.model.checkpoint import build, generation_defaults, save
from lucida.model.checksums import seal
from lucida.model.conversion.format import Choices, Format
from lucida.model.conversion.llava import Llava, LlavaNext
from lucida.model.conversion.original import Original
from lucida.model.conversion.prismatic import Prismatic
from lucida.model.folder import read_json
from lucida.model.loading import quiet_loading, refusing
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

FORMATS: tuple[type[Format], ...] = (Prismatic, Original, Llava, LlavaNext)
"""Layouts that are read, in the order in which a folder is held against them."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a checkpoint: the template that writes its prompts, how well the model agrees
    with it, and what differs from the program that it comes from."""

    template: str
    agreement: Agreement
    notes: list[str] = field(default_factory=list)


def read(
    folder: Path,
    out: Path,
    template: str | None = None,
    *,
    allow_pickle: bool = False,
    vision: tuple[str, ...] = (),
    language: str | None = None,
) -> Imported:
    """Make the model folder `out` of a checkpoint: transformers' Llava and LlavaNext, the original
    LLaVA's layout, Prismatic's.

    Prompts of a transformers checkpoint are written by the first template that gives the tokens of
    its own processor; `template` names another, and then the tokens may differ (logits never).
    Pickles are read with `allow_pickle` only. `vision` and `language` name folders or Hub ids of
    parts that a checkpoint does not hold. ModelError for another kind of checkpoint, for what
    Lucida has no counterpart of, or when the results differ; nothing is left at `out` then.
    """
    if template is not None and template not in TEMPLATES:
        raise ModelError(
            f"unknown template `{template}`", remedy=suggestion(template, list(TEMPLATES))
        )
    check_free(out)
    kind = format_of(folder)
    with refusing(folder, "this checkpoint cannot be read"):
        checkpoint = kind(folder, Choices(template, allow_pickle, tuple(vision), language))
        return assemble(checkpoint, out, folder, template)


def format_of(folder: Path) -> type[Format]:
    """The layout of a checkpoint; ModelError when a folder is no checkpoint, is of a kind that is
    not read, or needs its own code."""
    for kind in FORMATS[:2]:
        if kind.detect(folder):
            return kind
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError("this folder holds no checkpoint", expected="config.json", origin=folder)
    values = read_json(file)
    if values.get("model_type") == "lucida":
        raise ModelError(
            "this is Lucida's own layout already, exported or trained; there is nothing to import",
            origin=folder,
            remedy="use it as it is: `lucida chat FOLDER`, `lucida eval hf:FOLDER`",
        )
    if "auto_map" in values:
        raise ModelError(
            "this checkpoint needs code of its own, which is not run here",
            given=values["auto_map"],
            origin=folder,
            remedy="give a checkpoint in transformers' Llava layout, without `auto_map`",
        )
    found = next((kind for kind in FORMATS[2:] if kind.detect(folder)), None)
    if found is None:
        raise ModelError(
            "this checkpoint is of a kind that is not read here",
            expected="llava, llava_next, the original LLaVA's layout or Prismatic's",
            given=values.get("model_type", "nothing"),
            origin=folder,
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            "the weights are no safetensors; pickles of this layout are not read",
            origin=folder,
            remedy="convert them first (transformers: save_pretrained)",
        )
    return found


def assemble(checkpoint: Format, out: Path, origin: Path, template: str | None) -> Imported:
    """Write the model folder `out`; ModelError when it would not equal the checkpoint. Nothing is
    left at `out` then."""
    with atomic_folder(out) as aside:
        names = write_parts(checkpoint, aside / "parts")
        spec = spec_of(checkpoint, [str(aside / "parts" / name) for name in names])
        model, processor = build(spec)
        fill(model.projector, checkpoint.projector, origin)
        agreement = settle(model, processor, checkpoint, template, origin)
        chosen, images = processor.template, processor.image_places
        model.generation_config = generation_defaults(checkpoint.language, processor)
        # The folder is renamed once all is well: what is saved names where the parts will stand
        # then.
        places = [str(out / "parts" / name) for name in names]
        final = spec_of(checkpoint, places, chosen, images)
        model.config.spec = json.loads(final.model_dump_json())
        save(model, processor, aside)
    return Imported(chosen, agreement, checkpoint.notes(chosen))


def settle(
    model: LucidaModel,
    processor: LucidaProcessor,
    checkpoint: Format,
    template: str | None,
    origin: Path,
) -> Agreement:
    """Choose the template and the images' places, and compare the model with the checkpoint; where
    its processor says what is written, tokens and pixels as well, unless `template` is given."""

    def answered(inputs: dict[str, Tensor]) -> Tensor:
        return checkpoint.logits(inputs, processor.image_token_id)

    wanted = template or checkpoint.template
    if wanted is not None:
        processor.template, processor.image_places = wanted, checkpoint.images
        return compare(model, processor, answered, origin)
    pairs = [(name, places) for places in get_args(ImagePlaces) for name in TEMPLATES]
    best = max(pairs, key=lambda pair: count_written_alike(processor, checkpoint, *pair))
    if not count_written_alike(processor, checkpoint, *best):
        raise ModelError(
            "no template of Lucida's writes this checkpoint's prompts",
            expected=checkpoint.tokenizer.chat_template,
            given=", ".join(TEMPLATES),
            origin=origin,
            remedy="name the nearest with --template; tokens may then differ from its processor's",
        )
    return compare(model, processor, answered, origin, checkpoint.inputs)


def count_written_alike(
    ours: LucidaProcessor, checkpoint: Format, template: str, places: ImagePlaces
) -> int:
    """Probes that a template and the checkpoint's processor write with the same tokens; 0 when one
    of those that the template has comes out otherwise."""
    ours.template, ours.image_places = template, places
    alike = 0
    for conversation in conversations():
        try:
            given = ours.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True
            )
        except DataError:
            continue  # the template has no such conversation
        try:
            expected = checkpoint.inputs([conversation])["input_ids"]
        except (ValueError, TypeError, KeyError, IndexError, TemplateError):
            return 0
        if not torch.equal(given, expected):
            return 0
        alike += 1
    return alike


def write_parts(checkpoint: Format, folder: Path) -> list[str]:
    """Encoders and language model as folders of their own; their names, the language model last."""
    names = ["vision", *(f"vision-{n}" for n in range(2, len(checkpoint.vision) + 1)), "language"]
    with quiet_loading():
        for name, model in zip(names, (*checkpoint.vision, checkpoint.language), strict=True):
            model.save_pretrained(folder / name)
        for name, pixels in zip(names, checkpoint.pixels, strict=False):
            file = folder / name / "preprocessor_config.json"
            file.write_text(json.dumps(pixels, indent=2) + "\n", encoding="utf-8")
        checkpoint.tokenizer.save_pretrained(folder / "language")
    for name in names:
        seal(folder / name)
    return names


def spec_of(
    checkpoint: Format, folders: Sequence[str], template: str = "plain", images: str = "in_place"
) -> ModelSpec:
    """The model's spec over parts in these folders."""
    *vision, language = folders
    encoders = [{**checkpoint.spec["vision"], "path": path} for path in vision]
    values = {
        **checkpoint.spec,
        "vision": {**encoders[0], "more": encoders[1:]},
        "language": {
            "path": language,
            "template": template,
            "images": images,
            "max_length": checkpoint.max_length,
        },
    }
    return ModelSpec.model_validate(values)


@torch.no_grad()
def fill(projector: nn.Module, weights: dict[str, Tensor], origin: object) -> None:
    """Copy a projector's weights; ModelError unless every name and shape fits."""
    expected, given = (
        {name: tuple(value.shape) for name, value in state.items()}
        for state in (projector.state_dict(), weights)
    )
    if expected != given:
        raise ModelError(
            "the projector does not fit between this encoder and this language model",
            expected=expected,
            given=given,
            origin=origin,
        )
    projector.load_state_dict(weights)
