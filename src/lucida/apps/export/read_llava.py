"""Importing transformers' Llava and LlavaNext."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lucida.apps.export.assemble import Choices, Imported, Parts, assemble, filled, weight_of
from lucida.apps.export.llava import AnyLlava, Llava, read_llava
from lucida.apps.export.probes import Agreement, compare, conversations
from lucida.core.errors import DataError, ModelError
from lucida.core.spec import ImagePlaces
from lucida.data.templates import TEMPLATES
from lucida.model.conversion.llava import HEAD, LANGUAGE, NEWLINE, plain_config
from lucida.model.conversion.reading import (
    image_of_processor,
    is_identity,
    projector_weights,
    spec_of_llava,
    tiles_of_processor,
)
from lucida.model.processing import LucidaProcessor


def read_transformers(folder: Path, out: Path, choices: Choices) -> Imported:
    """Make the model folder `out` of a transformers Llava or LlavaNext; ModelError as `read` has
    it."""
    if choices.vision or choices.language:
        raise ModelError(
            "this checkpoint holds all of its parts",
            given="--vision or --language",
            origin=folder,
            remedy="leave them out",
        )
    llava, processor = read_llava(folder)
    values = json.loads(processor.image_processor.to_json_string())
    state = llava.model.multi_modal_projector.state_dict()
    linear = llava.config.projector_hidden_act == "linear" and is_identity(state)
    projector = projector_weights(state, linear)
    if llava.config.model_type == "llava_next":
        image = tiles_of_processor(values, llava.config, folder)
        projector["newline"] = llava.state_dict()[NEWLINE]
    else:
        image = image_of_processor(values, folder)
    parts = Parts(
        [llava.model.vision_tower],
        [values],
        language_of(llava),
        processor.tokenizer,
        projector,
        spec_of_llava(llava.config, image, linear, folder),
        longest(llava),
    )
    other = Llava(llava, processor)

    def settle(model: Any, ours: LucidaProcessor) -> tuple[str, Agreement]:
        return settled(model, ours, other, choices.template, folder)

    return Imported(*assemble(parts, out, folder, settle))


def longest(llava: AnyLlava) -> int:
    """Positions that the language model has been made for."""
    return getattr(llava.config.text_config, "max_position_embeddings", None) or 2048


def language_of(llava: AnyLlava) -> PreTrainedModel:
    """The language model as one of its own."""
    config = plain_config(llava.config.text_config)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    own = llava.state_dict()
    state: dict[str, Tensor] = {
        f"{empty.base_model_prefix}.{name.removeprefix(LANGUAGE)}": value
        for name, value in own.items()
        if name.startswith(LANGUAGE)
    }
    state[weight_of(empty, empty.get_output_embeddings())] = own[HEAD]
    what = "the language model of this checkpoint"
    alone = filled(AutoModelForCausalLM, config, state, what)
    alone.generation_config = llava.generation_config
    return alone


def settled(
    model: Any, ours: LucidaProcessor, other: Llava, template: str | None, origin: Path
) -> tuple[str, Agreement]:
    """The template that writes as the checkpoint's own processor does, and the comparison; the
    images' places are set on the way."""
    if template:
        ours.template = template
        return template, compare(model, ours, other.logits, origin)
    ways = [(name, places) for places in get_args(ImagePlaces) for name in TEMPLATES]
    best, places = max(ways, key=lambda way: written_alike(ours, other, *way))
    if not written_alike(ours, other, best, places):
        raise ModelError(
            "no template of Lucida's writes this checkpoint's prompts",
            expected=other.processor.chat_template,
            given=", ".join(TEMPLATES),
            origin=origin,
            remedy="name the nearest with --template; tokens may then differ from its processor's",
        )
    ours.template, ours.image_places = best, places
    return best, compare(model, ours, other.logits, origin, other.inputs)


def written_alike(ours: LucidaProcessor, other: Llava, template: str, places: ImagePlaces) -> int:
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
            expected = other.inputs([conversation])["input_ids"]
        except (ValueError, TypeError, KeyError, IndexError, TemplateError):
            return 0
        if not torch.equal(given, expected):
            return 0
        alike += 1
    return alike
