"""What Prismatic's configurations mean, and its names for weights.

    {"model": {"projector": {"projector.0.weight", …},
               "llm_backbone": {"llm.model.layers.0…", "llm.lm_head.weight", …},
               "vision_backbone": {"dino_featurizer.blocks.0…", …}}}     only if it was trained

Reference: Karamcheti et al., Prismatic VLMs, 2024, arXiv 2402.07865, and the code released with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from lucida.core.errors import ModelError, suggestion
from lucida.model.conversion.pickles import tensors
from lucida.model.conversion.reading import linear_layers
from lucida.model.folder import read_text

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

FEATURIZERS = (("featurizer",), ("dino_featurizer", "siglip_featurizer", "clip_featurizer"))
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True, slots=True)
class Design:
    """What a checkpoint of Prismatic's says about itself, in Lucida's words.

    vision: encoders on the Hub, "" where none is known. image: values of the image policy.
    max_length: tokens of text.
    """

    vision: tuple[str, ...]
    size: int
    language: str
    template: str
    projector: dict[str, Any]
    image: dict[str, str]
    max_length: int


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


def design_of(values: dict[str, Any], origin: object) -> Design:
    """The design behind a configuration; ModelError for what is not known, with the nearest."""
    vision, language = (
        known(values, name, table, origin)
        for name, table in (("vision_backbone_id", VISION), ("llm_backbone_id", LANGUAGE))
    )
    image = known(values, "image_resize_strategy", POLICIES, origin)
    shape = str(values["arch_specifier"]).removeprefix("no-align+")
    projector = known({"arch_specifier": shape}, "arch_specifier", PROJECTORS, origin)
    size, encoders = vision
    return Design(encoders, size, *language, projector, image, values.get("llm_max_length", 2048))


def known(values: dict[str, Any], name: str, table: dict[str, Any], origin: object) -> Any:
    """What a table says of a configuration's value."""
    given = values.get(name)
    if given not in table:
        raise ModelError(
            f"the configuration's {name} is not known",
            given=given,
            origin=origin,
            remedy=suggestion(str(given), table),
        )
    return table[given]


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


def language_state(group: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model's weights under transformers' names. Tables of rotary frequencies, which
    older versions of transformers saved, are computed."""
    return {
        name.removeprefix("llm."): value
        for name, value in group.items()
        if not name.endswith("rotary_emb.inv_freq")
    }


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


def linears(group: dict[str, Tensor], depth: int, origin: object) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of the projector's linear layers; ModelError unless there are `depth`."""
    names = ["projector"] if depth == 1 else [f"projector.{2 * n}" for n in range(depth)]
    return linear_layers(group, names, origin)
