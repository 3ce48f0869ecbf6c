"""Two files for llama.cpp: the language model, and the vision encoder with its projector.

    OUT/model-f16.gguf       language model, tokenizer, chat template
    OUT/mmproj-f16.gguf      `clip`: encoder, projector, how pixels are made

What the second holds is `mmproj`'s. PyPI's `gguf` names and packs.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lucida.core.errors import ModelError, PartError
from lucida.data.boxes import box_tokens
from lucida.data.jinja import chat_jinja
from lucida.model.conversion.kquants import INSTEAD, MIXES, PACKED, form_in_mix, pack
from lucida.model.conversion.marks import ONE_PICTURE, Marks, embed_marks, find_marks, leave_out
from lucida.model.conversion.mmproj import LFM2, MLP, Shape, form_of, shape_of, vision_file

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor
    from lucida.model.vlm import LucidaModel

QUANTIZED = {
    "f32": "F32",
    "f16": "F16",
    "q8_0": "Q8_0",
    "q5_1": "Q5_1",
    "q4_1": "Q4_1",
    "q4_0": "Q4_0",
}
"""How matrices are kept -> gguf's type (`MIXES` keep them in several); vectors, and what is no
matrix, stay F32."""

LANGUAGES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""transformers' `model_type` -> gguf's architecture."""

SPLITS = {
    None: "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}
"""How a byte-level tokenizer splits text before merging (None: as GPT-2) -> llama.cpp's name."""


def gguf_package() -> ModuleType:
    """PyPI's `gguf`; PartError with what to install where it is missing."""
    try:
        return importlib.import_module("gguf")
    except ImportError as problem:
        raise PartError(
            "GGUF files are written by the package gguf, which cannot be imported here",
            given=str(problem),
            remedy="pip install 'lucida[gguf]'",
        ) from problem


def write_gguf(
    model: LucidaModel, processor: LucidaProcessor, folder: Path, quantize: str = "f16"
) -> list[Path]:
    """Write both files into a folder that exists, the language model's matrices as `quantize`;
    the encoder's stay f16 (f32 beside f32), which is what llama.cpp itself does. ModelError when
    what is read back is not what was written (see `fits` first, which says whether it can be)."""
    if quantize not in QUANTIZED.keys() | MIXES.keys():
        known = ", ".join([*QUANTIZED, *MIXES])
        raise ModelError("gguf keeps matrices in no such way", expected=known, given=quantize)
    name = "f32" if quantize == "f32" else "f16"
    files = [folder / f"model-{quantize}.gguf", folder / f"mmproj-{name}.gguf"]
    write_file(files[0], *language_file(model, processor), quantize)
    write_file(files[1], *vision_file(model, processor), name)
    return files


Metadata = Mapping[str, Any]


def write_file(
    file: Path, architecture: str, metadata: Metadata, tensors: Mapping[str, Tensor], kind: str
) -> None:
    """One file; metadata: GGUFWriter's `add_NAME` -> value, or a key with dots -> value."""
    gguf = gguf_package()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_file_type(getattr(gguf.LlamaFileType, file_type(kind)))
    if kind not in ("f32", "f16"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in metadata.items():
        if "." not in key:
            getattr(writer, f"add_{key}")(value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    wanted = {}
    layers, tied = metadata.get("block_count", 0), "output.weight" not in tensors
    for name, tensor in tensors.items():
        values = tensor.detach().float().cpu().contiguous().numpy()
        type_ = type_of(gguf, name, values, kind, layers, tied)
        if type_.name in PACKED:
            packed = pack(values, type_.name)
        else:
            packed = gguf.quants.quantize(values, type_)
        writer.add_tensor(name, packed, raw_dtype=type_)
        wanted[name] = packed
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read_back(gguf, file, wanted)


def file_type(kind: str) -> str:
    """gguf's name of a file with such matrices."""
    return "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"


def type_of(
    gguf: ModuleType, name: str, values: np.ndarray, kind: str, layers: int, tied: bool
) -> Any:
    """How a tensor is kept: vectors and the table of positions exactly, matrices as `kind` or as
    its mix says, or in half precision where their rows are no multiple of its block. layers, tied:
    of the language model, as in `form_in_mix`."""
    types = gguf.GGMLQuantizationType
    if values.ndim < 2 or name == "v.position_embd.weight":
        return types.F32
    row = values.shape[-1]
    known = form_in_mix(kind, name, layers, row, tied) if kind in MIXES else QUANTIZED[kind]
    type_ = types[known]
    block = gguf.GGML_QUANT_SIZES[type_][0]
    return types.F16 if row % block else type_


def read_back(gguf: ModuleType, file: Path, wanted: Mapping[str, np.ndarray]) -> None:
    """ModelError unless a file holds these tensors, bit by bit."""
    found = {each.name: each.data for each in gguf.GGUFReader(file).tensors}
    for name in wanted.keys() | found.keys():
        if name not in found or found[name].tobytes() != wanted[name].tobytes():
            raise ModelError(
                "what was written is not what is read back", given=name, origin=file.name
            )


def language_file(
    model: LucidaModel, processor: LucidaProcessor
) -> tuple[str, Metadata, dict[str, Tensor]]:
    """Architecture, metadata and tensors of the language model."""
    gguf = gguf_package()
    language = model.language
    config = language.config
    arch = getattr(gguf.MODEL_ARCH, LANGUAGES[config.model_type])
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads, pairs = config.num_attention_heads, config.num_key_value_heads
    tensors = {}
    for name, value in language.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embedding
        named = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if named is None:
            raise ModelError("llama.cpp has no name for a weight of this model", given=name)
        # Qwen's heads llama.cpp rotates by halves, as transformers does; Llama's (and Mistral's) in
        # pairs.
        if arch == gguf.MODEL_ARCH.LLAMA and "self_attn" in name:
            if ".q_proj." in name:
                value = pair_rotations(value, heads)
            elif ".k_proj." in name:
                value = pair_rotations(value, pairs)
        tensors[named] = value
    rows = len(tensors["token_embd.weight"])
    tokens = tokens_of(model, processor, rows)
    template = chat_jinja(
        processor.template,
        processor.tokenizer,
        processor.image_token,
        processor.image_places,
        media_marker=True,
    )
    if marks := marks_of(model, processor):
        tensors.setdefault("output.weight", tensors["token_embd.weight"])
        tensors["token_embd.weight"] = embed_marks(tensors["token_embd.weight"], marks)
        tokens, template = name_marks(tokens, marks), leave_out(template, marks)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    metadata = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "head_count": heads,
        "head_count_kv": pairs,
        "key_length": head,
        "value_length": head,
        "rope_dimension_count": head,
        "rope_freq_base": float(config.rope_parameters["rope_theta"]),
        "layer_norm_rms_eps": config.rms_norm_eps,
        "vocab_size": rows,
        **tokens,
        "chat_template": template,
    }
    return gguf.MODEL_ARCH_NAMES[arch], metadata, tensors


def pair_rotations(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order of llama.cpp's rotation, which turns neighbours (0, 1),
    (2, 3), … where transformers turns places (0, n/2), (1, n/2 + 1), … of a head of n."""
    halves = weight.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).reshape(weight.shape)


def tokens_of(model: LucidaModel, processor: LucidaProcessor, rows: int) -> dict[str, Any]:
    """The vocabulary as llama.cpp reads it: one token for each row of the embedding."""
    types = gguf_package().TokenType
    tokenizer = processor.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    known = {number: text for text, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    shown = set(box_tokens(processor.coordinate_bins))  # part of answers, so never hidden
    texts, kinds = [], []
    for number in range(rows):
        text = known.get(number)
        texts.append(f"[UNUSED{number}]" if text is None else text)  # spare rows need a name each
        if text is None:
            kinds.append(types.UNUSED)
        elif number not in added:
            kinds.append(types.NORMAL)
        else:
            control = added[number].special and text not in shown
            kinds.append(types.CONTROL if control else types.USER_DEFINED)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in backend["model"]["merges"]
    ]
    values = {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": split_of(tokenizer),
        "token_list": texts,
        "token_types": kinds,
        "token_merges": merges,
        "add_bos_token": tokenizer.bos_token_id is not None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    for name, number in (("bos", tokenizer.bos_token_id), ("pad", tokenizer.pad_token_id)):
        if number is not None and number < rows:
            values[f"{name}_token_id"] = number
    if others := find_other_ends(model, processor):
        values["eot_token_id"] = others[0]
    return values


def marks_of(model: LucidaModel, processor: LucidaProcessor) -> Marks | None:
    """How the marks of the form that holds this projector are written, None if it has none;
    ModelError where they cannot be."""
    spec = model.config.model_spec
    form = form_of(shape_of(spec), model.vision.model.config)
    marks = form.marks and find_marks(form.marks, model, processor)
    if isinstance(marks, str):
        raise ModelError(marks)
    return marks


def name_marks(tokens: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    """The vocabulary with the marks in their rows."""
    named = dict(tokens)
    for row, text in zip(marks.rows, marks.texts, strict=True):
        named["token_list"][row] = text
        named["token_types"][row] = gguf_package().TokenType.CONTROL
        if named.get("pad_token_id") == row:
            del named["pad_token_id"]
    if marks.places[0].neighbours[0] == named.get("bos_token_id"):
        named["add_bos_token"] = False  # the mark is it; without a picture the template writes it
    return named


def find_other_ends(model: LucidaModel, processor: LucidaProcessor) -> list[int]:
    """Tokens that end an answer beside the tokenizer's own end token."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return [each for each in listed if each not in (None, processor.tokenizer.eos_token_id)]


def split_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """llama.cpp's name of how a byte-level tokenizer splits text; None for one that it has not."""
    if not tokenizer.is_fast:
        return None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    first = backend["pre_tokenizer"] or {}
    steps = first["pretokenizers"] if first.get("type") == "Sequence" else [first]
    *splits, last = steps
    if backend["model"]["type"] != "BPE" or last.get("type") != "ByteLevel":
        return None
    # Text is split either by the byte level itself, as GPT-2 does, or by one step in front of it:
    # llama.cpp has names for the one and the other, none for both or neither.
    if last.get("add_prefix_space") or bool(last.get("use_regex", True)) == bool(splits):
        return None
    if not splits:
        return SPLITS[None]
    (split,) = splits if len(splits) == 1 else ({},)
    return SPLITS.get(split.get("pattern", {}).get("Regex"))


def tokenizer_obstacles(model: LucidaModel, processor: LucidaProcessor) -> list[str]:
    """What speaks against llama.cpp in a tokenizer; of marks, where the design has a form."""
    tokenizer = processor.tokenizer
    if split_of(tokenizer) is None:
        return [
            f"the tokenizer ({type(tokenizer).__name__}) splits text in a way that has no name "
            f"there: byte-level tokenizers that split as {', '.join(SPLITS.values())} are written"
        ]
    if tokenizer.eos_token_id is None:
        return ["the tokenizer has no end token: llama.cpp would never stop"]
    if model.vision is not None and isinstance(shape_of(model.config.model_spec), Shape):
        try:
            marks_of(model, processor)
        except ModelError as problem:
            return [str(problem)]
    return []


def gguf_notes(model: LucidaModel, processor: LucidaProcessor) -> list[str]:
    """What llama.cpp does otherwise than Lucida with the same weights."""
    size, policy = processor.image_policy.size, processor.image_policy.policy
    vision, spec = model.vision.model.config, model.config.model_spec
    shape = shape_of(spec)
    form = form_of(shape, vision)
    if form is LFM2:
        found = [
            f"give it pictures of {size} x {size} pixels: of others llama.cpp keeps the shape, and "
            "it cuts large ones into tiles, neither of which this model has learnt"
        ]
    else:
        found = [
            f"llama.cpp scales pictures that are not {size} x {size} pixels by its own code, so "
            f"answers about them may differ (model.image.policy is {policy})"
        ]
    if form.marks:
        found.append(f"{ONE_PICTURE}; the template refuses others (llama.cpp puts "
                     f"{' and '.join(form.marks)} around each, which stand for the tokens next to "
                     "it)")  # fmt: skip
    if (form is MLP and shape.norm) or shape.layers:
        found.append(
            f"the projector's norms have the encoder's epsilon there, {vision.layer_norm_eps:g} "
            "instead of 1e-05"
        )
    if vision.hidden_act == "gelu" or shape.matrices == 2 or shape.layers:
        found.append("llama.cpp computes GELU in its tanh form, from a table in half precision")
    if further := find_other_ends(model, processor)[1:]:
        names = ", ".join(processor.tokenizer.convert_ids_to_tokens(further))
        found.append(f"the file names two end tokens; llama.cpp has to know {names} by their text")
    return found


def note_mix(file: Path, quantize: str) -> list[str]:
    """Of a mix: how many matrices of a file are kept otherwise, as their rows are too short."""
    if quantize not in MIXES:
        return []
    kept = Counter(each.tensor_type.name for each in gguf_package().GGUFReader(file).tensors)
    others = {name: kept[name] for name in ("F16", *INSTEAD.values()) if kept[name]}
    listed = ", ".join(f"{number} as {name}" for name, number in others.items())
    matrices = sum(kept.values()) - kept["F32"]
    return [f"{quantize}: {sum(others.values())} of {matrices} matrices have rows that are no "
            f"multiple of 256 and are kept otherwise ({listed})"] if others else []  # fmt: skip


def gguf_options(model: LucidaModel, processor: LucidaProcessor) -> str:
    """What llama.cpp has to be told beside the files: how many tokens a picture has, where it would
    choose them by the picture's size."""
    form = form_of(shape_of(model.config.model_spec), model.vision.model.config)
    tokens = processor.visual_tokens
    return f" --image-min-tokens {tokens} --image-max-tokens {tokens}" if form is LFM2 else ""
