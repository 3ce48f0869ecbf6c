"""Tiny parts, a tiny data set and a recipe for tests that really train: seconds on one core."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lucida.core.spec import Recipe
from lucida.training.observe import Observer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}


def write_vision(folder: Path) -> Path:
    """A SigLIP encoder: 16 px, 4 patches, width 16, dropout nowhere."""
    torch.manual_seed(1)
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    SiglipVisionModel(config).save_pretrained(folder)
    processing = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 16, "width": 16},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return folder


def write_language(folder: Path, dropout: float = 0.1, width: int = 16) -> Path:
    """A Llama with one token per byte, and attention dropout, so that randomness matters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "<bos>", "<eos>", "<image>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int = 24) -> Path:
    """LLaVA-style records: one flat picture and a question about its colour each."""
    folder.mkdir(parents=True)
    random, records = np.random.default_rng(0), []
    for number in range(count):
        name = random.choice(list(COLOURS))
        pixels = np.full((16, 16, 3), COLOURS[name], dtype=np.uint8)
        pixels[: number % 7] //= 2
        Image.fromarray(pixels).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhich colour?"},
            {"from": "gpt", "value": name},
        ]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    path = folder / "pictures.json"
    path.write_text(json.dumps(records))
    return path


def write_parts(folder: Path) -> Path:
    """Vision, language and pictures below one folder."""
    write_vision(folder / "vision")
    write_language(folder / "language")
    write_language(folder / "language-plain", dropout=0.0)
    write_pictures(folder / "pictures")
    return folder


def tiny_recipe(parts: Path, language: str = "language") -> Recipe:
    """Two stages of a few steps over the parts that `write_parts` made."""
    pictures = {"kind": "llava", "path": str(parts / "pictures" / "pictures.json")}
    stage = {
        "mixture": {"sources": {"pictures": pictures}},
        "batch": {"samples": 4},
        "checkpoint_every": 3,
        "validate_every": 4,
    }
    values = {
        "name": "tiny",
        "seed": 5,
        "precision": "fp32",
        "threads": 1,
        "model": {
            "vision": {"path": str(parts / "vision")},
            "language": {"path": str(parts / language), "max_length": 128},
        },
        "stages": [
            stage | {"name": "align", "train": {"projector": 1e-2}, "budget": {"steps": 5}},
            stage
            | {
                "name": "sft",
                "train": {"projector": 1e-3, "language": 1e-3, "*.norm": 1e-4},
                "budget": {"steps": 7},
            },
        ],
    }
    return Recipe.model_validate(values)


def adapted_recipe(parts: Path) -> Recipe:
    """The same with adapters: DoRA in the first stage, merged, and then wider LoRA with dropout."""
    values = tiny_recipe(parts).model_dump(mode="json")
    align, sft = values["stages"]
    align["lora"] = {"rate": 1e-2, "rank": 2, "dora": True, "targets": ["language.last(1)"]}
    sft["train"] = {"projector": 1e-3, "*norm": 1e-3, "vision": "frozen"}
    sft["lora"] = {"rate": 1e-2, "rank": 3, "dropout": 0.2}
    return Recipe.model_validate(values)


class Watching(Observer):
    """An observer that calls a function of the model, its processor and the steps so far."""

    def __init__(self, find: Callable[..., Mapping[str, object] | None]) -> None:
        self.find = find

    def look(self, model, processor, step, earlier):
        return self.find(model, processor, step)


def watching(find: Callable[..., Mapping[str, object] | None]) -> list[Observer]:
    return [Watching(find)]


def logits(model: torch.nn.Module, processor: object, steps: int) -> dict[str, float]:
    """What an observer might find: it asks the model as it stands."""
    logits = model(input_ids=torch.arange(5, 15)[None]).logits
    return {"logits": float(logits.double().square().mean())}
