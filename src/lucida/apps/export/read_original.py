"""Importing what LLaVA's own code writes: whole models, projectors alone, and LoRA adapters.

The vision encoder is named by the configuration and taken from its own folder, unless it was
trained and stands in the checkpoint. Projectors and adapters need the language model they belong
to, which the checkpoint names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
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
from lucida.apps.export.llava import llava_logits
from lucida.apps.export.probes import Agreement, compare
from lucida.core.errors import ModelError
from lucida.model.conversion import original
from lucida.model.conversion.llava import HEAD, LANGUAGE, NEWLINE, PROJECTOR, VISION
from lucida.model.conversion.original import Design
from lucida.model.encoders.encoder import vision_config
from lucida.model.encoders.preprocessing import Preprocessing, read_preprocessing
from lucida.model.folder import read_json
from lucida.model.loading import load_tokenizer, quiet_loading
from lucida.model.parts import part_path

ENCODER = "clip_vision_model"
TRAINED = ("mm_projector.bin", "non_lora_trainables.bin")


def read_original(folder: Path, out: Path, choices: Choices) -> Imported:
    """Make the model folder `out` of a folder of LLaVA's own code; ModelError as `read` has it."""
    design = original.design_of(read_json(folder / "config.json"), folder)
    state, base, notes = weights_of(folder, design, choices)
    linears = original.linears(state, design.depth, folder)
    tower, pixels = encoder(folder, design, original.tower_state(state), choices)
    language, tokenizer = language_of(folder, base, design, original.language_state(state))
    image: dict[str, Any] = {**design.image, "size": pixels.size}
    projector = projector_state(linears, one_matrix=not design.depth)
    tiles = design.image["policy"] == "anyres"
    if tiles:
        image["grids"] = grids_of(design, pixels.size, folder)
        if original.NEWLINE not in state:
            raise ModelError(
                "a checkpoint with tiles needs the vector that ends their rows",
                expected=original.NEWLINE,
                origin=folder,
            )
        projector["newline"] = state[original.NEWLINE].float()
    kind = {"kind": "mlp", "depth": design.depth} if design.depth else {"kind": "linear"}
    parts = Parts(
        [tower],
        [shown(pixels, pixels.size)],
        language,
        tokenizer,
        projector,
        {
            "vision": {"feature_layer": design.layer, "take": design.take},
            "image": image,
            "projector": kind,
        },
        design.max_length,
    )

    def settle(model: Any, processor: Any) -> tuple[str, Agreement]:
        processor.template = choices.template or design.template
        token = processor.image_token_id
        if tiles:
            whole, words = as_llava_next(parts, design, token), language.config.vocab_size

            def answered(inputs: dict[str, Any]) -> Tensor:
                return llava_logits(whole, inputs)[..., :words]
        else:
            keep = design.take == "cls_patches"
            answered = Spliced([tower], design.layer, keep, linears, language, token).logits
        return processor.template, compare(model, processor, answered, folder)

    return Imported(*assemble(parts, out, folder, settle), notes)


def weights_of(
    folder: Path, design: Design, choices: Choices
) -> tuple[dict[str, Tensor], str | None, list[str]]:
    """All weights under the names of a whole model; where the language model's folder is, None for
    the checkpoint's own; and what was put together."""
    adapter = (folder / "adapter_config.json").is_file()
    whole = not adapter and original.holds_a_model(folder)
    beside = [name for name in TRAINED if not whole and (folder / name).is_file()]
    if adapter and "non_lora_trainables.bin" not in beside:
        raise ModelError(
            "an adapter without the projector that was trained with it",
            expected="non_lora_trainables.bin",
            origin=folder,
        )
    if not beside:
        return original.weights(folder, choices.allow_pickle), choices.language, []
    # First what needs consent, before anything large is read.
    trained = original.trained_beside(folder, beside[-1], choices.allow_pickle)
    path = part_path(choices.language or base_of(folder, design, adapter))
    notes = [f"{beside[-1]} put on the language model {path}"]
    state = published(AutoModelForCausalLM, path, "--language").state_dict()
    if adapter:
        state, changed = original.merged(folder, state, choices.allow_pickle)
        notes.append(f"the adapter was merged into {changed} matrices")
    return state | trained, path, notes


def base_of(folder: Path, design: Design, adapter: bool) -> str:
    """The language model that a projector or an adapter belongs to, as they name it."""
    base = design.base
    if adapter:
        settings = read_json(folder / "adapter_config.json")
        base = settings.get("base_model_name_or_path") or base
    if not base:
        raise ModelError(
            "the checkpoint does not say which language model it belongs to",
            origin=folder,
            remedy="give its folder or Hub id with --language",
        )
    return base


def encoder(
    folder: Path, design: Design, state: dict[str, Tensor], choices: Choices
) -> tuple[PreTrainedModel, Preprocessing]:
    """The vision encoder, with the checkpoint's weights where it holds them."""
    if len(choices.vision) > 1:
        raise ModelError(
            "this checkpoint has one vision encoder",
            expected="one --vision",
            given=len(choices.vision),
            origin=folder,
        )
    path = part_path(choices.vision[0] if choices.vision else design.vision)
    with fetched(path, "--vision"):
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
        return filled(AutoModel, config, state, f"{folder}: the vision tower"), pixels
    if design.trained_tower:
        raise ModelError(
            "the vision encoder was trained (unfreeze_mm_vision_tower) and is not in the weights",
            expected=f"{original.TOWER}…",
            origin=folder,
        )
    return published(AutoModel, path, "--vision", config), pixels


def language_of(
    folder: Path, base: str | None, design: Design, state: dict[str, Tensor]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model with the checkpoint's weights, and its tokenizer."""
    config = design.language
    own = (folder / "tokenizer_config.json").is_file() and base is None
    path = str(folder) if own or base is None else base
    with fetched(path, "--language"):
        tokenizer = load_tokenizer(path, config=config)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    embedding = weight_of(empty, empty.get_input_embeddings())
    head = weight_of(empty, empty.get_output_embeddings())
    rows = len(state.get(embedding, ()))
    if rows < len(tokenizer):
        raise ModelError(
            "the checkpoint's vocabulary is smaller than its tokenizer's",
            expected=f"at least {len(tokenizer):,} rows ({path})",
            given=f"{rows:,} rows of {embedding}",
            origin=folder,
            remedy="give the folder of its language model with --language",
        )
    if head not in state and config.tie_word_embeddings:
        state[head] = state[embedding]
    elif head in state:
        config.tie_word_embeddings &= torch.equal(state[head], state[embedding])
    config.vocab_size = rows
    what = f"{folder}: the language model"
    return filled(AutoModelForCausalLM, config, state, what), tokenizer


def grids_of(design: Design, side: int, origin: Path) -> list[list[int]]:
    """Rows and columns of the grids of tiles."""
    if any(length % side for each in design.grids for length in each):
        raise ModelError(
            "a grid of tiles is no multiple of the tile",
            expected=f"multiples of {side}",
            given=design.grids,
            origin=origin,
        )
    return [[height // side, width // side] for height, width in design.grids]


def as_llava_next(parts: Parts, design: Design, token: int) -> LlavaNextForConditionalGeneration:
    """The same parts as transformers' LlavaNext, which the import is compared with."""
    (tower,), language = parts.vision, parts.language
    text = {**language.config.to_dict(), "tie_word_embeddings": False}
    rows = max(text["vocab_size"], token + 1)  # transformers looks the placeholder up as well
    missing = rows - text["vocab_size"]
    text["vocab_size"] = rows
    linears = [name.rpartition(".")[0] for name in parts.projector if name.endswith(".weight")]
    if len(linears) > 2:
        raise ModelError("tiles with a projector of more than two layers are not known here")
    config = LlavaNextConfig(
        vision_config=tower.config.to_dict(),
        text_config=text,
        image_token_index=token,
        image_grid_pinpoints=design.grids,
        vision_feature_layer=design.layer,
        vision_feature_select_strategy="default" if design.take == "patches" else "full",
        projector_hidden_act="gelu" if len(linears) == 2 else "linear",
        tie_word_embeddings=False,
    )
    state = {VISION + name: value for name, value in tower.state_dict().items()}
    for name, value in language.base_model.state_dict().items():
        state[LANGUAGE + name] = value
    state[HEAD] = language.get_output_embeddings().weight.detach()
    embedding = LANGUAGE + weight_of(language.base_model, language.get_input_embeddings())
    for name in (HEAD, embedding):
        state[name] = torch.nn.functional.pad(state[name], (0, 0, 0, missing))
    state[NEWLINE] = parts.projector["newline"]
    width = len(state[NEWLINE])
    state[f"{PROJECTOR}linear_2.weight"] = torch.eye(width)
    state[f"{PROJECTOR}linear_2.bias"] = torch.zeros(width)
    for number, name in enumerate(linears, 1):
        for kind in ("weight", "bias"):
            state[f"{PROJECTOR}linear_{number}.{kind}"] = parts.projector[f"{name}.{kind}"]
    with quiet_loading():
        return LlavaNextForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32
        ).eval()
