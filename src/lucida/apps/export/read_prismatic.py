"""Importing what Prismatic's own training writes: config.json and checkpoints/latest-checkpoint.pt.

The file holds the projector and the language model's weights, and the vision encoders' only where
they were trained. Configurations, tokenizer and untrained encoders come from the folders that the
published models name on the Hub, or from those that are given.

    FOLDER/config.json                       vision_backbone_id, llm_backbone_id, arch_specifier, …
    FOLDER/checkpoints/latest-checkpoint.pt  read with consent, tensors only
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lucida.apps.export.assemble import (
    Choices,
    Imported,
    Parts,
    Spliced,
    assemble,
    fetched,
    filled,
    projector_state,
    published,
    shown,
    weight_of,
)
from lucida.apps.export.probes import Agreement, compare
from lucida.core.errors import ModelError
from lucida.model.configs import encoder_shape, known
from lucida.model.conversion import prismatic, timm
from lucida.model.conversion.pickles import load_pickle
from lucida.model.conversion.prismatic import CHECKPOINT, Design
from lucida.model.encoders.encoder import vision_config
from lucida.model.encoders.families import family_of
from lucida.model.encoders.preprocessing import Preprocessing, read_preprocessing
from lucida.model.loading import load_config, load_tokenizer
from lucida.model.parts import part_path

FEATURE_LAYER = -2
PAD = {"phi": "<|pad|>"}
"""The padding token that Prismatic adds, where it is not `<PAD>`."""

MULTIPLE = 64
"""Rows of the embedding are padded to a multiple of this."""


def read_prismatic(folder: Path, out: Path, choices: Choices) -> Imported:
    """Make the model folder `out` of a run folder of Prismatic's; ModelError as `read` has it."""
    design = prismatic.design_of(prismatic.read_config(folder), folder)
    encoders = encoders_of(design, choices, folder)
    file = folder / CHECKPOINT
    groups = prismatic.groups_of(load_pickle(file, choices.allow_pickle), file)
    linears = prismatic.linears(groups["projector"], depth_of(design), file)
    trained = groups.get("vision_backbone")
    states = (
        [None] * len(encoders)
        if not trained
        else prismatic.vision_states(trained, len(encoders), file)
    )
    vision, pixels = [], []
    for path, state in zip(encoders, states, strict=True):
        model, expected = encoder(path, state, design.size, file)
        vision.append(model)
        pixels.append(shown(expected, design.size))
    language, tokenizer = language_of(design, choices, groups["llm_backbone"], file)
    patches = (design.size // vision[0].config.patch_size) ** 2
    parts = Parts(
        vision,
        pixels,
        language,
        tokenizer,
        projector_state(linears, design.projector["kind"] == "linear"),
        {
            "vision": {"feature_layer": FEATURE_LAYER},
            "image": {**design.image, "size": design.size},
            "projector": design.projector,
        },
        design.max_length + patches,
    )

    def settle(model: Any, processor: Any) -> tuple[str, Agreement]:
        processor.template = choices.template or design.template
        processor.image_places = "at_start"
        placeholder = processor.image_token_id
        other = Spliced(vision, FEATURE_LAYER, False, linears, language, placeholder)
        return processor.template, compare(model, processor, other.logits, folder)

    template, agreement = assemble(parts, out, folder, settle)
    return Imported(template, agreement, notes(design, template, bool(trained)))


def encoders_of(design: Design, choices: Choices, origin: Path) -> tuple[str, ...]:
    """Where each encoder's configuration (and, untrained, its weights) are taken from."""
    given = choices.vision or design.vision
    if len(given) != len(design.vision) or "" in given:
        raise ModelError(
            "the encoders of this checkpoint have to be named",
            expected=f"{len(design.vision)} of --vision, DINOv2's first where there are two",
            given=", ".join(choices.vision) or "none",
            origin=origin,
            remedy="give a folder or Hub id of the same encoder for each, in transformers' layout",
        )
    return tuple(map(part_path, given))


def encoder(
    path: str, state: dict[str, Tensor] | None, size: int, origin: Path
) -> tuple[PreTrainedModel, Preprocessing]:
    """An encoder as timm runs it, and what it expects of pixels: with the weights of a checkpoint,
    or with its own where there are none."""
    with fetched(path, "--vision"):
        config, expected = shape(path, remembered=state is not None)
    changed = timm.as_timm_runs(config, size, path)
    init = family_of(config).init
    if state is not None:
        named = timm.from_timm(state, changed, origin)
        what = f"{origin}: the {config.model_type}"
        return filled(AutoModel, changed, named, what, **init), expected
    names = timm.names_of(config, path)
    headless = copy.deepcopy(config)
    for name, value in family_of(config).config.items():
        setattr(headless, name, value)
    own = published(AutoModel, path, "--vision", headless, **init).state_dict()
    prefix = min(family_of(config).prefix(config), 1)
    grid = size // config.patch_size
    own[names.position] = timm.resampled(own[names.position], prefix, grid)
    what = f"{path}: the {config.model_type}"
    return filled(AutoModel, changed, own, what, **init), expected


def shape(path: str, remembered: bool) -> tuple[PreTrainedConfig, Preprocessing]:
    """Configuration and preprocessing of an encoder: from its folder or the Hub, and where that
    cannot be reached and no weights are needed, as they are remembered here."""
    try:
        config = vision_config(path)
        return config, read_preprocessing(path, config)
    except OSError:
        if remembered and path in known():
            return encoder_shape(path)
        raise


def language_of(
    design: Design, choices: Choices, group: dict[str, Tensor], origin: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model with the checkpoint's weights, and its tokenizer with `<PAD>`."""
    path = part_path(choices.language or design.language)
    with fetched(path, "--language"):
        config, tokenizer = load_config(path), load_tokenizer(path)
    tokenizer.add_special_tokens({"pad_token": PAD.get(design.template, "<PAD>")})
    state = prismatic.language_state(group)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    embedding = weight_of(empty, empty.get_input_embeddings())
    rows = state.get(embedding, torch.empty(0)).shape[0]
    most = -(-len(tokenizer) // MULTIPLE) * MULTIPLE
    if not len(tokenizer) <= rows <= most:
        raise ModelError(
            "the checkpoint's vocabulary is not this tokenizer's",
            expected=f"{len(tokenizer):,} to {most:,} rows ({path} with a padding token)",
            given=f"{rows:,} rows of {embedding}",
            origin=origin,
            remedy="give the folder of its language model with --language",
        )
    head = state.get(weight_of(empty, empty.get_output_embeddings()))
    config.tie_word_embeddings &= head is None or torch.equal(head, state[embedding])
    config.vocab_size, config.pad_token_id = rows, tokenizer.pad_token_id
    what = f"{origin}: the language model"
    return filled(AutoModelForCausalLM, config, state, what), tokenizer


def depth_of(design: Design) -> int:
    """Linear layers of the projector."""
    return {"linear": 1, "mlp": 2, "fused_mlp": 3}[design.projector["kind"]]


def notes(design: Design, template: str, trained: bool) -> list[str]:
    """What this model does otherwise than Prismatic's code."""
    found = []
    if trained:
        found.append(
            "the checkpoint's own vision weights are used; Prismatic's loader ignores them"
        )
    if template != design.template:
        found.append(f"template {template}: Prismatic writes the prompts of {design.template}")
    return found
