"""Tiny random Hugging Face folders: encoders of every family, language models, a tokenizer."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    ResNetConfig,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

from lucida.core.spec import ModelSpec
from lucida.data.boxes import box_tokens
from lucida.model.checkpoint import build
from lucida.model.decode import write
from lucida.model.encoders.efficientnet_lite import EfficientNetLiteConfig
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

ROOT = Path(mkdtemp(prefix="lucida-tiny-"))
SIDE = 16

TRANSFORMER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SQUARE = {"image_size": SIDE, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
TEXT = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}

ENCODERS: dict[str, PreTrainedConfig] = {
    "siglip": SiglipVisionConfig(**TRANSFORMER, **SQUARE),
    "siglip-dual": SiglipConfig(
        vision_config={**TRANSFORMER, **SQUARE}, text_config={**TEXT, "intermediate_size": 8}
    ),
    "clip": CLIPVisionConfig(**TRANSFORMER, **SQUARE),
    "clip-dual": CLIPConfig(
        vision_config={**TRANSFORMER, **SQUARE}, text_config={**TEXT, "intermediate_size": 8}
    ),
    "dinov2": Dinov2Config(**TRANSFORMER, **SQUARE),
    "dinov2-registers": Dinov2WithRegistersConfig(**TRANSFORMER, **SQUARE, num_register_tokens=2),
    "vit": ViTConfig(**TRANSFORMER, **SQUARE),
    "resnet": ResNetConfig(embedding_size=8, layer_type="basic", **STAGES),
    "convnext": ConvNextConfig(**STAGES),
    "convnextv2": ConvNextV2Config(**STAGES),
    "efficientnet-lite": EfficientNetLiteConfig(
        image_size=32,
        stem_size=4,
        depths=[1, 2, 1, 1],
        hidden_sizes=[4, 6, 8, 16],
        kernels=[3, 5, 3, 1],
        strides=[1, 2, 2, 1],
        expansions=[1, 2, 2, 0],
    ),
    "dinov3": DINOv3ViTConfig(**TRANSFORMER, **SQUARE, num_register_tokens=2),
    "dinov3-convnext": DINOv3ConvNextConfig(**STAGES),
    "siglip2": Siglip2VisionConfig(**TRANSFORMER, patch_size=8, num_patches=4),
    "swin": SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        window_size=4,
    ),
}

LANGUAGE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**LANGUAGE, "num_key_value_heads": 2, "intermediate_size": 32, "head_dim": 4}
LANGUAGES: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gpt-neox": GPTNeoXConfig,
    "phi": PhiConfig,
    "opt": OPTConfig,
    "gemma": GemmaConfig,
    "gemma3": Gemma3TextConfig,
    "mistral": MistralConfig,
    "phi3": Phi3Config,
}


def tiny_tokenizer(*extra: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: every byte, a few whole words, and the usual special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<bos>", "<eos>", *extra]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=list(extra),
    )


@lru_cache
def encoder_folder(name: str) -> str:
    """A folder with a random encoder and its preprocessing."""
    torch.manual_seed(1)
    folder = ROOT / name
    model = AutoModel.from_config(ENCODERS[name])
    with torch.no_grad():
        for weight in model.parameters():  # larger than the usual start, so that layers differ
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
    size = {"height": SIDE, "width": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, "size": size}))
    return str(folder)


@lru_cache
def language_folder(name: str = "llama", tied: bool = True, tokens: tuple[str, ...] = ()) -> str:
    """A folder with a random language model and a tokenizer."""
    torch.manual_seed(2)
    folder = ROOT / f"{name}-{tied}-{len(tokens)}"
    tokenizer = tiny_tokenizer(*tokens)
    shape = (
        GROUPED if name in ("llama", "qwen2", "qwen3", "gemma", "gemma3", "mistral") else LANGUAGE
    )
    if name == "wide":  # a llama whose heads have frequencies enough for three parts
        name, shape = "llama", {**GROUPED, "head_dim": 16}
    if name in ("gpt-neox", "phi", "phi3"):
        shape = {**shape, "intermediate_size": 32}
    if name == "opt":
        shape = {**shape, "ffn_dim": 32, "word_embed_proj_dim": 16}
    config = LANGUAGES[name](
        **shape,
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def spec(
    vision: str | dict | None = "siglip",
    language: str | dict = "llama",
    mask: str = "causal",
    tied: bool = True,
    **more: object,
) -> ModelSpec:
    """A model spec over tiny parts, named or given as spec values; `more` replaces whole fields."""
    if isinstance(vision, str):
        vision = {"path": encoder_folder(vision)}
    if isinstance(language, str):
        language = {"path": language_folder(language, tied), "max_length": 120}
    values = {
        "vision": vision,
        "language": language,
        "attention_mask": mask,
        "coordinate_bins": 8,
    }
    return ModelSpec.model_validate(values | more)


def tiny_model(*args: object, **kwargs: object) -> tuple[LucidaModel, LucidaProcessor]:
    """Model and processor of `spec(...)`, always with the same projector."""
    torch.manual_seed(3)
    return build(spec(*args, **kwargs))


def picture(seed: int = 0, width: int = 20, height: int = 16) -> Image.Image:
    """Noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


BOXES = box_tokens(8)


def greedy_tokens(model, processor, prompts, max_new_tokens, *more):
    """What the model writes behind each prompt, as ids."""
    written = dict(write(model, processor, prompts, max_new_tokens, *more))
    return [written[number].ids for number in range(len(prompts))]
