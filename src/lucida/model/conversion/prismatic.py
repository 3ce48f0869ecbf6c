"""What Prismatic's own training writes: config.json and checkpoints/latest-checkpoint.pt.

    FOLDER/config.json                       vision_backbone_id, llm_backbone_id, arch_specifier, …
    FOLDER/checkpoints/latest-checkpoint.pt  read with consent, tensors only:

    {"model": {"projector": {"projector.0.weight", …},
               "llm_backbone": {"llm.model.layers.0…", "llm.lm_head.weight", …},
               "vision_backbone": {"dino_featurizer.blocks.0…", …}}}     only if it was trained

Configurations, tokenizer and untrained encoders come from the folders that the published models
name on the Hub, or from those that are given.

Reference: Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865, and the code released with it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from lucida.core.errors import ModelError
from lucida.model.configs import encoder_shape, known
from lucida.model.conversion import timm
from lucida.model.conversion.format import (
    Choices,
    Format,
    explain_fetching,
    fill_model,
    language_model,
    linear_layers,
    load_published,
    look_up,
    projector_state,
    square_pixels,
    without_rotary,
)
from lucida.model.conversion.pickles import load_pickle, tensors
from lucida.model.encoders.encoder import vision_config
from lucida.model.encoders.families import family_of
from lucida.model.encoders.preprocessing import Preprocessing, read_preprocessing
from lucida.model.folder import read_text
from lucida.model.loading import load_config, load_tokenizer
from lucida.model.parts import part_path

CHECKPOINT = Path("checkpoints") / "latest-checkpoint.pt"

DINO = "facebook/dinov2-with-registers-large"
SIGLIP = "google/siglip-so400m-patch14"
VISION: dict[str, tuple[int, tuple[str, ...]]] = {
    "clip-vit-b": (224, ("openai/clip-vit-base-patch16",)),
    "clip-vit-l": (224, ("openai/clip-vit-large-patch14",)),
    "clip-vit-l-336px": (336, ("openai/clip-vit-large-patch14-336",)),
    "siglip-vit-b16-224px": (224, ("google/siglip-base-patch16-224",)),
    "siglip-vit-b16-256px": (256, ("google/siglip-base-patch16-256",)),
    "siglip-vit-b16-384px": (384, ("google/siglip-base-patch16-384",)),
    "siglip-vit-so400m": (224, (f"{SIGLIP}-224",)),
    "siglip-vit-so400m-384px": (384, (f"{SIGLIP}-384",)),
    "dinov2-vit-l": (224, (DINO,)),
    "in1k-vit-l": (224, ("",)),  # timm's augreg weights; no folder of transformers is known
    "dinoclip-vit-l-336px": (336, (DINO, "openai/clip-vit-large-patch14-336")),
    "dinosiglip-vit-so-224px": (224, (DINO, f"{SIGLIP}-224")),
    "dinosiglip-vit-so-384px": (384, (DINO, f"{SIGLIP}-384")),
}
"""Its vision ids: pixels per side, and the same encoders' names on the Hub, in its order."""

LANGUAGE: dict[str, tuple[str, str]] = {
    "vicuna-v15-7b": ("lmsys/vicuna-7b-v1.5", "vicuna"),
    "vicuna-v15-13b": ("lmsys/vicuna-13b-v1.5", "vicuna"),
    "llama2-7b-pure": ("meta-llama/Llama-2-7b-hf", "prismatic"),
    "llama2-13b-pure": ("meta-llama/Llama-2-13b-hf", "prismatic"),
    "llama2-7b-chat": ("meta-llama/Llama-2-7b-chat-hf", "prismatic_llama2"),
    "llama2-13b-chat": ("meta-llama/Llama-2-13b-chat-hf", "prismatic_llama2"),
    "mistral-v0.1-7b-pure": ("mistralai/Mistral-7B-v0.1", "prismatic"),
    "mistral-v0.1-7b-instruct": ("mistralai/Mistral-7B-Instruct-v0.1", "mistral"),
    "phi-2-3b": ("microsoft/phi-2", "phi"),
}
"""Its language ids: names on the Hub, and the template that writes their prompts."""

PROJECTORS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"},
    "gelu-mlp": {"kind": "mlp", "depth": 2, "activation": "gelu"},
    "fused-gelu-mlp": {"kind": "fused_mlp"},
}
POLICIES = {
    "resize-naive": {"policy": "resize"},
    "letterbox": {"policy": "letterbox", "pad": "first", "odd": "torchvision"},
    "resize-crop": {"policy": "crop", "odd": "torchvision"},
}

DEPTHS = {"linear": 1, "mlp": 2, "fused_mlp": 3}
"""Lucida's projectors: linear layers."""

FEATURE_LAYER = -2  # the last block but one, without the final norm
PAD = {"phi": "<|pad|>"}
"""The padding token that Prismatic adds, where it is not `<PAD>`."""
MULTIPLE = 64
"""Rows of the embedding are padded to a multiple of this."""

FEATURIZERS = (("featurizer",), ("dino_featurizer", "siglip_featurizer", "clip_featurizer"))
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # FSDP's, and checkpointing's


class Prismatic(Format):
    """A run folder of Prismatic's."""

    name = "prismatic"
    images = "at_start"

    @classmethod
    def detect(cls, folder: Path) -> bool:
        """Whether a configuration names the projector in Prismatic's way."""
        return read_config(folder) is not None

    def __init__(self, folder: Path, choices: Choices) -> None:
        values = read_config(folder)
        size, encoders = look_up(values, "vision_backbone_id", VISION, folder)
        path, self.template = look_up(values, "llm_backbone_id", LANGUAGE, folder)
        image = look_up(values, "image_resize_strategy", POLICIES, folder)
        shape = str(values["arch_specifier"]).removeprefix("no-align+")
        projector = look_up({"arch_specifier": shape}, "arch_specifier", PROJECTORS, folder)
        places = places_of(encoders, choices, folder)
        file = folder / CHECKPOINT
        groups = groups_of(load_pickle(file, choices.allow_pickle), file)
        depth = DEPTHS[projector["kind"]]
        names = ["projector"] if depth == 1 else [f"projector.{2 * n}" for n in range(depth)]
        self.linears = linear_layers(groups["projector"], names, file)
        self.projector = projector_state(self.linears, projector["kind"] == "linear")
        trained = groups.get("vision_backbone")
        self.trained = bool(trained)
        # Untrained encoders are not in the checkpoint: they come from their own folders.
        states = vision_states(trained, len(places), file) if trained else [None] * len(places)
        found = [
            encoder(place, state, size, file) for place, state in zip(places, states, strict=True)
        ]
        self.vision = [model for model, _ in found]
        self.pixels = [square_pixels(expected, size) for _, expected in found]
        self._open_language(choices.language or path, groups["llm_backbone"], file)
        self.spec = {
            "vision": {"feature_layer": FEATURE_LAYER},
            "image": {**image, "size": size},
            "projector": projector,
        }
        patches = (size // self.vision[0].config.patch_size) ** 2
        self.max_length = values.get("llm_max_length", 2048) + patches  # its own counts text

    def _open_language(self, place: str, group: dict[str, Tensor], file: Path) -> None:
        """The language model with the checkpoint's weights, its tokenizer with `<PAD>`."""
        path = part_path(place)
        with explain_fetching(path, "--language"):
            config, self.tokenizer = load_config(path), load_tokenizer(path)
        pad = PAD.get(self.template, "<PAD>")
        self.tokenizer.add_special_tokens({"pad_token": pad})
        state = without_rotary(group, "llm.")
        self.language = language_model(config, state, self.tokenizer, file, MULTIPLE)

    def notes(self, template: str) -> list[str]:
        """What this model does otherwise than Prismatic's code."""
        found = []
        if self.trained:
            found.append(
                "the checkpoint's own vision weights are used; Prismatic's loader ignores them"
            )
        if template != self.template:
            found.append(f"template {template}: Prismatic writes the prompts of {self.template}")
        return found


def read_config(folder: Path) -> dict[str, Any] | None:
    """`model` of its config.json or config.yaml; None when the folder is none of Prismatic's."""
    for name, parse in (("config.json", json.loads), ("config.yaml", yaml.safe_load)):
        file = folder / name
        if not file.is_file():
            continue
        text = read_text(file)
        try:
            values = parse(text)
        except (ValueError, RecursionError, yaml.YAMLError) as problem:
            raise ModelError(f"this is no {file.suffix[1:]}: {problem}", origin=file) from problem
        model = values.get("model") if isinstance(values, dict) else None
        return model if isinstance(model, dict) and "arch_specifier" in model else None
    return None


def places_of(named: tuple[str, ...], choices: Choices, origin: Path) -> tuple[str, ...]:
    """Where each encoder's configuration (and, untrained, its weights) are taken from."""
    given = choices.vision or named
    if len(given) != len(named) or "" in given:
        raise ModelError(
            "the encoders of this checkpoint have to be named",
            expected=f"{len(named)} of --vision, DINOv2's first where there are two",
            given=", ".join(choices.vision) or "none",
            origin=origin,
            remedy="give a folder or Hub id of the same encoder for each, in transformers' layout",
        )
    return tuple(map(part_path, given))


def groups_of(found: dict[str, Any], origin: Path) -> dict[str, dict[str, Tensor]]:
    """The modules of a checkpoint with their weights; ModelError when one that it needs lacks."""
    model = found.get("model")
    if not isinstance(model, dict):
        raise ModelError(
            "this is no checkpoint of Prismatic's",
            expected="weights under `model`",
            given=", ".join(map(str, found)) or "nothing",
            origin=origin,
        )
    groups = {name: tensors(state, f"{origin}, {name}") for name, state in model.items()}
    for name in ("projector", "llm_backbone"):
        if not groups.get(name):
            raise ModelError(
                f"the checkpoint holds no {name}",
                expected="projector and llm_backbone",
                given=", ".join(groups) or "nothing",
                origin=origin,
                remedy="take the checkpoint of the finetune stage"
                if name == "llm_backbone"
                else None,
            )
    if groups.get("downsampler"):
        raise ModelError("checkpoints with a downsampler are not known", origin=origin)
    return {name: plain_names(state) for name, state in groups.items()}


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers of training put into them."""
    result = {}
    for name, value in state.items():
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        result[name] = value
    return result


def vision_states(group: dict[str, Tensor], count: int, origin: object) -> list[dict[str, Tensor]]:
    """The weights of each encoder under timm's names, in Prismatic's order (DINOv2 first)."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in group.items():
        head, _, rest = name.partition(".")
        found.setdefault(head, {})[rest] = value
    expected = FEATURIZERS[count > 1]
    if len(found) != count or not set(found) <= set(expected):
        raise ModelError(
            "the checkpoint holds other vision encoders than its configuration names",
            expected=f"{count} of {', '.join(expected)}",
            given=", ".join(found),
            origin=origin,
        )
    return [found[name] for name in expected if name in found]


def encoder(
    path: str, state: dict[str, Tensor] | None, size: int, origin: Path
) -> tuple[PreTrainedModel, Preprocessing]:
    """An encoder as timm runs it, and what it expects of pixels: with the weights of a checkpoint,
    or with its own where there are none."""
    with explain_fetching(path, "--vision"):
        config, expected = shape(path, remembered=state is not None)
    changed = timm.as_timm_runs(config, size, path)
    init = family_of(config).init
    if state is not None:
        named = timm.from_timm(state, changed, origin)
        what = f"{origin}: the {config.model_type}"
        return fill_model(AutoModel, changed, named, what, **init), expected
    names = timm.names_of(config, path)
    headless = copy.deepcopy(config)
    for name, value in family_of(config).config.items():
        setattr(headless, name, value)
    own = load_published(AutoModel, path, "--vision", headless, **init).state_dict()
    prefix = min(family_of(config).prefix(config), 1)  # registers have no places
    grid = size // config.patch_size
    own[names.position] = timm.resample_positions(own[names.position], prefix, grid)  # as timm did
    what = f"{path}: the {config.model_type}"
    return fill_model(AutoModel, changed, own, what, **init), expected


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
