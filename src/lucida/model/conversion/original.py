"""What LLaVA's own code writes: whole models, projectors alone, and LoRA adapters.

    a whole model      pytorch_model-*.bin or *.safetensors: model.layers…, model.mm_projector.0…,
                       and where it was trained model.vision_tower.vision_tower.vision_model…
    a projector        mm_projector.bin beside the configuration; the language model is elsewhere
    an adapter         adapter_config.json, adapter_model, non_lora_trainables.bin; the same

The vision encoder is named by the configuration and taken from its own folder, unless it was
trained and stands in the checkpoint. Projectors and adapters need the language model they belong
to, which the checkpoint names.

Reference: Liu et al., Improved Baselines with Visual Instruction Tuning, 2023, arXiv 2310.03744,
and the code released with it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
)

from lucida.core.errors import ModelError
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
    refuse,
    square_pixels,
    without_rotary,
)
from lucida.model.conversion.llava import llava_logits, llava_next_of
from lucida.model.conversion.pickles import load_pickle, tensors
from lucida.model.encoders.encoder import vision_config
from lucida.model.encoders.preprocessing import read_preprocessing
from lucida.model.folder import read_json, read_tensors
from lucida.model.loading import load_tokenizer
from lucida.model.parts import part_path

ENCODER = "clip_vision_model"
TRAINED = ("mm_projector.bin", "non_lora_trainables.bin")
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


class Original(Format):
    """A folder of LLaVA's own code."""

    name = "original"

    @classmethod
    def detect(cls, folder: Path) -> bool:
        """Whether a configuration names an encoder or a projector in LLaVA's way."""
        file = folder / "config.json"
        values = read_json(file) if file.is_file() else {}
        return "mm_vision_tower" in values or "mm_projector_type" in values

    def __init__(self, folder: Path, choices: Choices) -> None:
        self.folder, self.choices = folder, choices
        self.values = values = read_json(folder / "config.json")
        config = self._read_design()
        state, base = self._weights()
        lead = PROJECTOR.removesuffix(".")
        # Numbers within a Sequential, whose odd ones are activations; one matrix has no number.
        names = [f"{lead}.{2 * n}" for n in range(self.depth)] or [lead]
        given = {name: value for name, value in state.items() if name.startswith(PROJECTOR)}
        self.linears = linear_layers(given, names, folder)
        self.projector = projector_state(self.linears, one_matrix=not self.depth)
        side = self._open_encoder(
            {
                name.removeprefix(TOWER).removeprefix("vision_model."): value
                for name, value in state.items()
                if name.startswith(TOWER) and not name.endswith("position_ids")
            }
        )
        own = (folder / "tokenizer_config.json").is_file() and base is None
        path = str(folder) if own or base is None else base
        with explain_fetching(path, "--language"):
            self.tokenizer = load_tokenizer(path, config=config)
        others = (PROJECTOR, TOWER, NEWLINE)
        kept = {name: value for name, value in state.items() if not name.startswith(others)}
        self.language = language_model(config, without_rotary(kept), self.tokenizer, folder)
        self.spec["image"]["size"] = side
        if self.tiles:
            self.spec["image"]["grids"] = grids_of(self.pinpoints, side, folder)
            if NEWLINE not in state:
                raise ModelError(
                    "a checkpoint with tiles needs the vector that ends their rows",
                    expected=NEWLINE,
                    origin=folder,
                )
            self.projector["newline"] = state[NEWLINE].float()
        self.max_length = values.get("tokenizer_model_max_length") or getattr(
            config, "max_position_embeddings", 2048
        )
        self.whole: LlavaNextForConditionalGeneration | None = None

    def _read_design(self) -> PreTrainedConfig:
        """What the configuration says, and that of the language model in it; ModelError for what
        Lucida has no counterpart of."""
        values, origin = self.values, self.folder
        name = (values.get("architectures") or [None])[0]
        if name not in LANGUAGES:
            refuse("its architectures", ", ".join(LANGUAGES), name, origin)
        kind, self.template = LANGUAGES[name]
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
        self.depth = int(found[1]) if found else 0  # 0: one matrix, no sequence around it
        image = look_up(values, "image_aspect_ratio", POLICIES, origin)
        self.tiles = image["policy"] == "anyres"
        merged = values.get("mm_patch_merge_type")
        if self.tiles and merged != "spatial_unpad":
            refuse("its mm_patch_merge_type", "spatial_unpad", merged, origin)
        for name in ("mm_use_im_start_end", "s2"):
            if values.get(name):
                refuse(f"its {name}", "false", values[name], origin)
        layer = values.get("mm_vision_select_layer", -2)
        if not isinstance(layer, int):
            refuse("its mm_vision_select_layer", "one layer", layer, origin)
        if not isinstance(values.get("mm_vision_tower"), str):
            refuse("its mm_vision_tower", "a vision encoder", values.get("mm_vision_tower"), origin)
        take = look_up(values, "mm_vision_select_feature", FEATURES, origin, "patch")
        given = values.get("image_grid_pinpoints")
        self.pinpoints = read_pinpoints(given, origin) if self.tiles else []
        self.spec = {
            "vision": {"feature_layer": layer, "take": take},
            "image": dict(image),
            "projector": {"kind": "mlp", "depth": self.depth} if self.depth else {"kind": "linear"},
        }
        return config

    def _weights(self) -> tuple[dict[str, Tensor], str | None]:
        """All weights under the names of a whole model; where the language model's folder is,
        None for the checkpoint's own."""
        folder, choices = self.folder, self.choices
        self.joined: list[str] = []
        adapter = (folder / "adapter_config.json").is_file()
        whole = not adapter and holds_a_model(folder)
        beside = [name for name in TRAINED if not whole and (folder / name).is_file()]
        if adapter and "non_lora_trainables.bin" not in beside:
            raise ModelError(
                "an adapter without the projector that was trained with it",
                expected="non_lora_trainables.bin",
                origin=folder,
            )
        if not beside:
            return weights(folder, choices.allow_pickle), choices.language
        # First what needs consent, before anything large is read.
        trained = trained_beside(folder, beside[-1], choices.allow_pickle)
        path = part_path(choices.language or self._base(adapter))
        self.joined.append(f"{beside[-1]} put on the language model {path}")
        state = load_published(AutoModelForCausalLM, path, "--language").state_dict()
        if adapter:
            state, changed = merge_adapter(folder, state, choices.allow_pickle)
            self.joined.append(f"the adapter was merged into {changed} matrices")
        return state | trained, path  # trained embeddings and heads win

    def _base(self, adapter: bool) -> str:
        """The language model that a projector or an adapter belongs to, as they name it."""
        base = self.values.get("_name_or_path")
        if adapter:
            settings = read_json(self.folder / "adapter_config.json")
            base = settings.get("base_model_name_or_path") or base
        if not base:
            raise ModelError(
                "the checkpoint does not say which language model it belongs to",
                origin=self.folder,
                remedy="give its folder or Hub id with --language",
            )
        return base

    def _open_encoder(self, state: dict[str, Tensor]) -> int:
        """The vision encoder, with the checkpoint's weights where it has them; pixels per side."""
        folder, choices = self.folder, self.choices
        if len(choices.vision) > 1:
            raise ModelError(
                "this checkpoint has one vision encoder",
                expected="one --vision",
                given=len(choices.vision),
                origin=folder,
            )
        path = part_path(choices.vision[0] if choices.vision else self.values["mm_vision_tower"])
        with explain_fetching(path, "--vision"):
            config = vision_config(path)
            pixels = read_preprocessing(path, config)
        if config.model_type != ENCODER:
            raise ModelError(
                "LLaVA's own code reads the features of CLIP encoders",
                expected=ENCODER,
                given=config.model_type,
                origin=path,
            )
        if state:
            tower = fill_model(AutoModel, config, state, f"{folder}: the vision tower")
        elif self.values.get("unfreeze_mm_vision_tower"):
            raise ModelError(
                "the vision encoder was trained (unfreeze_mm_vision_tower) and is not in the"
                " weights",
                expected=f"{TOWER}…",
                origin=folder,
            )
        else:
            tower = load_published(AutoModel, path, "--vision", config)
        self.vision, self.pixels = [tower], [square_pixels(pixels, pixels.size)]
        return pixels.size

    def notes(self, template: str) -> list[str]:
        """What was put together."""
        return self.joined

    def logits(self, inputs: dict[str, Any], image_token: int) -> Tensor:
        """What its parts give; with tiles, what transformers' LlavaNext makes of them."""
        if not self.tiles:
            return super().logits(inputs, image_token)
        if self.whole is None:
            self.whole = llava_next_of(self, self.pinpoints, image_token)
        return llava_logits(self.whole, inputs)[..., : self.language.config.vocab_size]


def grids_of(pinpoints: list[list[int]], side: int, origin: Path) -> list[list[int]]:
    """Rows and columns of the grids of tiles."""
    if any(length % side for each in pinpoints for length in each):
        raise ModelError(
            "a grid of tiles is no multiple of the tile",
            expected=f"multiples of {side}",
            given=pinpoints,
            origin=origin,
        )
    return [[height // side, width // side] for height, width in pinpoints]


def read_pinpoints(given: object, origin: Path) -> list[list[int]]:
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


def merge_adapter(
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
        # In fp32, whatever the files have: in bf16 most of a small change would be rounded away.
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
