"""Tiny random models of the same kinds as those that a recipe names: the same configuration class,
and of an encoder the same pixels and patches, so that as many visual tokens come out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from lucida.core.errors import RunError
from lucida.data.templates import VICUNA_SYSTEM
from lucida.model.configs import encoder_shape, language_shape

WIDTH, LAYERS, HEADS = 64, 3, 4
WORDS = 1000
"""Entries of a tokenizer, most of them learned from the texts of the rehearsal, so that records are
about as long as with a published one."""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = {
    "llama": ("<s>", "</s>", "<unk>", []),
    "mistral": ("<s>", "</s>", "<unk>", []),
    "phi": ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", []),
    "qwen2": (None, "<|im_end|>", "<|endoftext|>", ["<|im_start|>"]),
}
"""Special tokens of published tokenizers by type of model: start, end, padding, others."""


def write_encoder(path: str, folder: Path) -> None:
    """An encoder like the one at `path`, with its preprocessing."""
    config, pixels = encoder_shape(path)
    small = shrink(config, heads=HEADS)
    torch.manual_seed(1)
    AutoModel.from_config(small).save_pretrained(folder)
    processing = {
        "size": {"height": pixels.size, "width": pixels.size},
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "rescale_factor": 1 / 255,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))


def write_language(path: str, folder: Path, texts: Iterable[str]) -> None:
    """A language model like the one at `path`, with a tokenizer that has learned some of `texts`
    and has the special tokens of its kind."""
    config = language_shape(path)
    tokenizer = make_tokenizer(config.model_type, path, texts)
    each = max(1, config.num_attention_heads // getattr(config, "num_key_value_heads", 1))
    small = shrink(
        config,
        heads=HEADS,
        num_key_value_heads=HEADS if each == 1 else HEADS // 2,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(small).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def shrink(config: PreTrainedConfig, heads: int, **other: object) -> PreTrainedConfig:
    """The same configuration, a few narrow layers deep. RunError for one that does not say how wide
    and deep it is."""
    values = config.to_dict()
    if missing := {"hidden_size", "num_hidden_layers", "num_attention_heads"} - values.keys():
        raise RunError(
            f"a model of type {config.model_type} cannot be made small: it has no {min(missing)}",
            remedy="name a small one of its kind yourself: model.vision.path=…",
        )
    values |= {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": heads}
    small = {"intermediate_size": 2 * WIDTH, "projection_dim": 16, "head_dim": WIDTH // heads}
    values |= {name: size for name, size in small.items() if values.get(name) is not None}
    for name in ("layer_types", "out_features", "out_indices", "stage_names"):
        values.pop(name, None)
    return AutoConfig.for_model(values.pop("model_type"), **values | other)


def make_tokenizer(kind: str, path: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer over bytes with the special tokens of a kind of model; SmolLM2, which is a Llama,
    has those of ChatML."""
    name = "qwen2" if "smollm" in path.lower() else kind
    start, end, pad, others = MARKS.get(name, MARKS["qwen2"])
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(each for each in (pad, start, end, *others) if each))
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([VICUNA_SYSTEM, *texts], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=start, eos_token=end, pad_token=pad
    )
    if others:
        tokenizer.chat_template = CHATML
    return tokenizer
