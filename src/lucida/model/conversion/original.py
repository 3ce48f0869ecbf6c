"""What the configurations of LLaVA's own code mean, its names for weights, and its three layouts.

    a whole model      pytorch_model-*.bin or *.safetensors: model.layers…, model.mm_projector.0…,
                       and where it was trained model.vision_tower.vision_tower.vision_model…
    a projector        mm_projector.bin beside the configuration; the language model is elsewhere
    an adapter         adapter_config.json, adapter_model, non_lora_trainables.bin; the same

Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023, arXiv 2310.03744,
and the code released with it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from lucida.core.errors import ModelError, suggestion
from lucida.model.conversion.pickles import load_pickle, tensors
from lucida.model.conversion.reading import linear_layers, refuse
from lucida.model.folder import read_json, read_tensors

LANGUAGES = {
    "LlavaLlamaForCausalLM": ("llama", "vicuna"),
    "LlavaMistralForCausalLM": ("mistral", "mistral"),
    "LlavaQwenForCausalLM": ("qwen2", "chatml"),
}
"""Its classes: transformers' type of the language model, and the template of its prompts."""

POLICIES: dict[Any, dict[str, str]] = {
    None: {"policy": "crop"},
    "square": {"policy": "crop"},
    "pad": {"policy": "letterbox", "pad": "first"},
    "anyres": {"policy": "anyres"},
}
FEATURES = {"patch": "patches", "cls_patch": "cls_patches"}

PROJECTOR, NEWLINE = "model.mm_projector.", "model.image_newline"
TOWER = "model.vision_tower.vision_tower."
OWN = re.compile(
    r"mm_|tune_mm|use_mm|freeze_mm|unfreeze_mm|image_|vision_tower|tokenizer_|_name_or_path|"
    r"architectures$|model_type$|transformers_version$|torch_dtype$|dtype$|auto_map$|s2"
)
"""Keys of its configurations that say nothing about the language model."""


@dataclass(frozen=True, slots=True)
class Design:
    """What a checkpoint says about itself, in Lucida's words.

    vision: where its encoder is published. depth: linear layers of the projector, 0 for one matrix
    without a sequence around it. image: values of the image policy. language: configuration of the
    language model, and where the checkpoint says that it started from. grids: rows and columns for
    `anyres`, in pixels.
    """

    vision: str
    layer: int
    take: str
    depth: int
    image: dict[str, str]
    grids: list[list[int]]
    trained_tower: bool
    language: PreTrainedConfig
    base: str | None
    template: str
    max_length: int


def design_of(values: dict[str, Any], origin: Path) -> Design:
    """The design behind a config.json; ModelError for what Lucida has no counterpart of."""
    kind, template = language_kind(values, origin)
    own = {name: value for name, value in values.items() if not OWN.match(name)}
    try:
        config = AutoConfig.for_model(kind, **own)
    except (StrictDataclassError, TypeError, ValueError) as problem:
        raise ModelError(
            f"this is no configuration of a {kind}: {problem}", origin=origin / "config.json"
        ) from problem
    shape = values.get("mm_projector_type", "linear")
    found = re.fullmatch(r"mlp([1-8])x_gelu", shape)
    if shape != "linear" and found is None:
        refuse("its mm_projector_type", "linear, mlp2x_gelu, mlp3x_gelu, …", shape, origin)
    image = known(values, "image_aspect_ratio", POLICIES, None, origin)
    tiles = image["policy"] == "anyres"
    if tiles and values.get("mm_patch_merge_type") != "spatial_unpad":
        merged = values.get("mm_patch_merge_type")
        refuse("its mm_patch_merge_type", "spatial_unpad", merged, origin)
    for name in ("mm_use_im_start_end", "s2"):
        if values.get(name):
            refuse(f"its {name}", "false", values[name], origin)
    layer = values.get("mm_vision_select_layer", -2)
    if not isinstance(layer, int):
        refuse("its mm_vision_select_layer", "one layer", layer, origin)
    if not isinstance(values.get("mm_vision_tower"), str):
        refuse("its mm_vision_tower", "a vision encoder", values.get("mm_vision_tower"), origin)
    return Design(
        vision=values["mm_vision_tower"],
        layer=layer,
        take=known(values, "mm_vision_select_feature", FEATURES, "patch", origin),
        depth=int(found[1]) if found else 0,
        image=image,
        grids=pinpoints(values.get("image_grid_pinpoints"), origin) if tiles else [],
        trained_tower=bool(values.get("unfreeze_mm_vision_tower")),
        language=config,
        base=values.get("_name_or_path"),
        template=template,
        max_length=values.get("tokenizer_model_max_length")
        or getattr(config, "max_position_embeddings", 2048),
    )


def language_kind(values: dict[str, Any], origin: Path) -> tuple[str, str]:
    """Type of the language model and template, by the class that the configuration names."""
    name = (values.get("architectures") or [None])[0]
    if name not in LANGUAGES:
        refuse("its architectures", ", ".join(LANGUAGES), name, origin)
    return LANGUAGES[name]


def known(
    values: dict[str, Any], name: str, table: dict[Any, Any], usual: str | None, origin: Path
) -> Any:
    """What a table says of a configuration's value."""
    given = values.get(name, usual)
    if given not in table:
        choices = [each for each in table if each]
        near = suggestion(str(given), choices)
        refuse(f"its {name}", ", ".join(choices), given, origin, near)
    return table[given]


def pinpoints(given: object, origin: Path) -> list[list[int]]:
    """Heights and widths of the grids that `anyres` chooses from; the configuration has widths
    first, as a list or as text."""
    try:
        found = ast.literal_eval(given) if isinstance(given, str) else given
        return [[int(height), int(width)] for width, height in found]
    except (ValueError, SyntaxError, TypeError):
        refuse("its image_grid_pinpoints", "pairs of width and height", given, origin)


def holds_a_model(folder: Path) -> bool:
    """Whether the weights of a whole model stand in a folder."""
    return any(any(folder.glob(kind)) for kind in ("model*.safetensors*", "pytorch_model*.bin*"))


def weights(folder: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """All weights of a folder by name, safetensors where there are any; nothing is copied.

    ModelError when a file that the index names is missing or damaged.
    """
    names = sorted(file.name for file in folder.glob("model*.safetensors"))
    kind = "model.safetensors"
    if not names:
        names = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
        kind = "pytorch_model.bin"
    index = folder / f"{kind}.index.json"
    if index.is_file():
        mapped = read_json(index, "weight_map")["weight_map"]
        names = sorted(set(mapped.values()))
    if not names:
        raise ModelError(
            "this folder holds no weights",
            expected="model*.safetensors or pytorch_model*.bin, mm_projector.bin, or an adapter",
            given=", ".join(sorted(file.name for file in folder.iterdir())[:8]),
            origin=folder,
        )
    found: dict[str, Tensor] = {}
    for name in names:
        found |= weights_of(folder / name, allow_pickle)
    if index.is_file() and mapped.keys() - found.keys():
        missing = sorted(mapped.keys() - found.keys())
        raise ModelError(
            f"{len(missing)} weights that the index names are in no file: {missing[0]}",
            origin=folder,
        )
    return found


def weights_of(file: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The weights of one file."""
    if file.suffix != ".safetensors":
        return tensors(load_pickle(file, allow_pickle), file)
    return read_tensors(file)


def either(folder: Path, *names: str) -> Path:
    """The first of these files that is there, or the first."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def trained_beside(folder: Path, name: str, allow_pickle: bool) -> dict[str, Tensor]:
    """Weights that were trained in full, under the names of a whole model: those of
    `mm_projector.bin` and `non_lora_trainables.bin` have prefixes of what wrapped them."""
    result = {}
    for given, value in weights_of(folder / name, allow_pickle).items():
        for prefix in ("base_model.", "model.model.", "model."):
            given = given.removeprefix(prefix)
        result[given if given.startswith("lm_head") else f"model.{given}"] = value
    return result


def merged(
    folder: Path, state: dict[str, Tensor], allow_pickle: bool
) -> tuple[dict[str, Tensor], int]:
    """The weights with a LoRA adapter added, W + B A alpha / r, and how many matrices it changed.

    Reference: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021,
    arXiv 2106.09685, section 4.1.
    """
    settings = read_json(folder / "adapter_config.json", "r", "lora_alpha")
    for name, usual in (("peft_type", "LORA"), ("use_dora", False), ("fan_in_fan_out", False)):
        if settings.get(name, usual) != usual:
            refuse(f"its adapter's {name}", usual, settings[name], folder)
    for name in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if settings.get(name):
            refuse(f"its adapter's {name}", "none", settings[name], folder)
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    file = either(folder, "adapter_model.safetensors", "adapter_model.bin")
    given = weights_of(file, allow_pickle)
    result, changed = dict(state), 0
    for name in [each for each in given if each.endswith(".lora_A.weight")]:
        down = given.pop(name)
        up = given.pop(name.replace("lora_A", "lora_B"), None)
        target = name.removeprefix("base_model.model.").replace("lora_A.", "")
        shape = None if target not in state else tuple(state[target].shape)
        if up is None or shape != (up.shape[0], down.shape[1]) or len(down) != up.shape[1]:
            raise ModelError(
                f"the adapter does not fit its language model at {target}",
                expected=shape,
                given=None if up is None else (up.shape[0], down.shape[1]),
                origin=file,
            )
        result[target] = state[target].float() + scale * (up.float() @ down.float())
        changed += 1
    if given or not changed:
        raise ModelError(
            "the adapter holds other weights than LoRA's",
            expected="lora_A and lora_B",
            given=next(iter(given), "none at all"),
            origin=file,
        )
    return result, changed


def tower_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision encoder's weights in a checkpoint, under transformers' names."""
    return {
        name.removeprefix(TOWER).removeprefix("vision_model."): value
        for name, value in state.items()
        if name.startswith(TOWER) and not name.endswith("position_ids")
    }


def language_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model's weights."""
    others = (PROJECTOR, TOWER, NEWLINE)
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(others) and not name.endswith("rotary_emb.inv_freq")
    }


def linears(state: dict[str, Tensor], depth: int, origin: Path) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of the projector's linear layers; ModelError when they are not all there."""
    lead = PROJECTOR.removesuffix(".")
    names = [f"{lead}.{2 * n}" for n in range(depth)] or [lead]
    given = {name: value for name, value in state.items() if name.startswith(PROJECTOR)}
    return linear_layers(given, names, origin)
