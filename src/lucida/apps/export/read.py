"""Importing: a checkpoint of another program becomes a model folder of Lucida's, compared first.

    FOLDER (transformers' Llava)  ─▶  OUT/parts/vision, OUT/parts/language, OUT (the model)

The parts are written as ordinary Hugging Face folders, so that a recipe can train on from them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM

from lucida.apps.export.llava import Llava, read_llava
from lucida.apps.export.probes import Agreement, compare, conversations
from lucida.apps.export.write import must_be_free
from lucida.core.errors import DataError, ModelError
from lucida.core.files import atomic_folder
from lucida.data.templates import TEMPLATES
from lucida.model.checkpoint import build, save
from lucida.model.conversion.llava import HEAD, LANGUAGE, load_exactly, plain_config
from lucida.model.conversion.reading import (
    is_identity,
    policy_of_processor,
    projector_weights,
    spec_of_llava,
)
from lucida.model.loading import quiet_loading

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

    from lucida.model.processing import LucidaProcessor


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a checkpoint: the template that writes its prompts, and how well it agrees."""

    template: str
    agreement: Agreement


def read(folder: Path, out: Path, template: str | None = None) -> Imported:
    """Make the model folder `out` of a transformers Llava.

    Its prompts are written by the first template that gives the tokens of the checkpoint's own
    processor; `template` names another, and then the tokens may differ (logits never). ModelError
    for another kind of checkpoint, for what Lucida has no counterpart of, or when the results
    differ; nothing is left at `out` then.
    """
    must_be_free(out)
    kind = kind_of(folder)
    if kind != "llava":
        raise ModelError(
            "this checkpoint is of a kind that is not read here",
            expected="llava",
            given=kind,
            origin=folder,
            remedy="other layouts and families (tiles, poolings) have no reader yet",
        )
    llava, processor = read_llava(folder)
    with atomic_folder(out) as aside:
        places = write_parts(llava, processor, aside / "parts")
        state = llava.model.multi_modal_projector.state_dict()
        values = processor.image_processor.to_dict()
        policy, size = policy_of_processor(values, folder)
        linear = llava.config.projector_hidden_act == "linear" and is_identity(state)
        spec = spec_of_llava(llava.config, policy, size, linear, places, folder)
        model, ours = build(spec)
        ours.max_length = longest(llava)
        with torch.no_grad():
            model.projector.load_state_dict(projector_weights(state, linear))
        model.generation_config = llava.generation_config
        name, agreement = settled(model, ours, Llava(llava, processor), template, folder)
        spec = json.loads(spec.model_dump_json())
        spec["vision"]["path"] = str(out / "parts" / "vision")
        spec["language"] |= {"path": str(out / "parts" / "language"), "template": name}
        spec["language"]["max_length"] = ours.max_length
        model.config.spec = spec
        save(model, ours, aside)
    return Imported(name, agreement)


def kind_of(folder: Path) -> str:
    """The `model_type` of a folder; ModelError when it is no checkpoint, or needs its own code."""
    if not (folder / "config.json").is_file():
        raise ModelError("this folder holds no checkpoint", expected="config.json", origin=folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "mm_vision_tower" in values or "mm_projector_type" in values:
        return "the original LLaVA's layout (llava-hf publishes the same models as llava)"
    if "arch_specifier" in values.get("model", {}):
        return "Prismatic's layout"
    if "auto_map" in values:
        raise ModelError(
            "this checkpoint needs code of its own, which is not run here",
            given=values["auto_map"],
            origin=folder,
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            "the weights are no safetensors; pickles are not read",
            origin=folder,
            remedy="convert them first (transformers: save_pretrained)",
        )
    return values.get("model_type", "nothing")


def longest(llava: LlavaForConditionalGeneration) -> int:
    """Positions that the language model has been made for."""
    return getattr(llava.config.text_config, "max_position_embeddings", None) or 2048


def write_parts(
    llava: LlavaForConditionalGeneration, processor: Any, folder: Path
) -> tuple[str, str]:
    """Vision tower and language model as folders of their own."""
    vision, language = folder / "vision", folder / "language"
    with quiet_loading():
        llava.model.vision_tower.save_pretrained(vision)
        processor.image_processor.save_pretrained(vision)
        with torch.device("meta"):
            alone = AutoModelForCausalLM.from_config(plain_config(llava.config.text_config))
        prefix = alone.base_model_prefix
        state = {
            f"{prefix}.{name.removeprefix(LANGUAGE)}": value
            for name, value in llava.state_dict().items()
            if name.startswith(LANGUAGE)
        }
        (head,) = (name for name, module in alone.named_modules() if module is heads(alone))
        state[f"{head}.weight"] = llava.state_dict()[HEAD]
        load_exactly(alone, state, "the language model of this checkpoint")
        alone.tie_weights()
        alone.generation_config = llava.generation_config
        alone.save_pretrained(language)
        processor.tokenizer.save_pretrained(language)
    return str(vision), str(language)


def heads(model: Any) -> Any:
    """The output matrix over the vocabulary."""
    return model.get_output_embeddings()


def settled(
    model: Any, ours: LucidaProcessor, other: Llava, template: str | None, origin: Path
) -> tuple[str, Agreement]:
    """The template that writes as the checkpoint's own processor does, and the comparison."""
    if template:
        ours.template = template
        return template, compare(model, ours, other, origin, tokens=False)
    best = max(TEMPLATES, key=lambda name: written_alike(ours, other, name))
    if not written_alike(ours, other, best):
        raise ModelError(
            "no template of Lucida's writes this checkpoint's prompts",
            expected=other.processor.chat_template,
            given=", ".join(TEMPLATES),
            origin=origin,
            remedy="name the nearest with --template; tokens may then differ from its processor's",
        )
    ours.template = best
    return best, compare(model, ours, other, origin)


def written_alike(ours: LucidaProcessor, other: Llava, template: str) -> int:
    """Probes that a template and the checkpoint's processor write with the same tokens; 0 when one
    of those that the template has comes out otherwise."""
    ours.template = template
    alike = 0
    for conversation in conversations():
        try:
            given = ours.apply_chat_template(conversation)["input_ids"]
        except DataError:
            continue  # the template has no such conversation
        try:
            expected = other.inputs([conversation])["input_ids"]
        except (ValueError, TypeError, KeyError, IndexError, TemplateError):
            return 0
        if not torch.equal(given, expected):
            return 0
        alike += 1
    return alike
