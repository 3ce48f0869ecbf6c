"""One set of random weights in Lucida's model and in transformers' Llava, and samples for both.

The Llava is what its users have: the whole encoder, of which it reads the layer before the last.
Lucida's encoder ends at that layer. All weights that both read stand in the same memory.

Samples are random tokens in lengths like those of real data: one picture each, its placeholders
first, then text. `vqa`: a question of 15 to 40 tokens, an answer of 2 to 5. `mix`: half of them
such, half conversations of 60 to 700 tokens (log-normal around 250), 50 to 80% of them supervised.
`caption`: 2 to 6 tokens, then 8 to 40 supervised ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from lucida.core.spec import ModelSpec
from lucida.data.collate import collate
from lucida.data.sample import IGNORED, Batch, ImageSource, Tokens, Views
from lucida.model.config import LucidaConfig
from lucida.model.configs import find_known_config
from lucida.model.conversion.llava import llava_config, llava_state
from lucida.model.encoders.encoder import VisionEncoder, new_model, truncate_config
from lucida.model.vlm import LucidaModel

FEATURE_LAYER = -2
"""LLaVA's, and the default of transformers' LlavaConfig."""


def toy_parts(grid: int = 8) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """A small encoder (`grid` x `grid` visual tokens) and language model (vocabulary of 32,000)."""
    vision = SiglipVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=16 * grid,
        patch_size=16,
    )
    text = Qwen2Config(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=32_000,
        tie_word_embeddings=True,
    )
    return vision, text


def parts(vision: str, language: str) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """The shapes of two published checkpoints."""
    return find_known_config(vision), find_known_config(language)


def lucida_model(vision: PreTrainedConfig, text: PreTrainedConfig) -> LucidaModel:
    """Lucida's model of these shapes with random weights; projector: LLaVA's of two layers."""
    shorter, layers = truncate_config(vision, FEATURE_LAYER)
    encoder = VisionEncoder(new_model(shorter), False, "patches", layers)
    patches = (vision.image_size // vision.patch_size) ** 2
    named = {"path": "random", "feature_layer": FEATURE_LAYER}
    spec = {"vision": named, "language": {"path": "random"}, "image": {"policy": "resize"}}
    config = LucidaConfig(
        vision_config=shorter,
        feature_layers=[list(encoder.named_layers)],
        text_config=text,
        spec=ModelSpec.model_validate(spec).model_dump(mode="json"),
        image_token_id=text.vocab_size - 1,
        patches=patches,
        visual_tokens=patches,
        vision_width=vision.hidden_size,
        image_size=vision.image_size,
    )
    return LucidaModel(config, encoder, AutoModelForCausalLM.from_config(text))


def llava_of(model: LucidaModel, vision: PreTrainedConfig) -> LlavaForConditionalGeneration:
    """The same weights as a Llava with the whole encoder; what only it has stays random."""
    config = llava_config(model)
    config.vision_config = vision
    config.vision_feature_layer = FEATURE_LAYER
    llava = LlavaForConditionalGeneration(config)
    loaded = llava.load_state_dict(llava_state(model), strict=False, assign=True)
    lacking = [name for name in loaded.missing_keys if ".vision_tower." not in name]
    if lacking or loaded.unexpected_keys:
        raise SystemExit(f"the models differ: {lacking[:3]}, {loaded.unexpected_keys[:3]}")
    llava.tie_weights()
    return llava


@dataclass(frozen=True, slots=True)
class Mix:
    """Lengths of questions and answers in tokens."""

    name: str
    visual: int
    vocabulary: int

    def sample(self, number: int) -> Tokens:
        """Sample of this number, always the same."""
        rng = np.random.default_rng([7, number])
        question, supervised = self.shape(rng)
        text = rng.integers(10, self.vocabulary - 10, len(supervised) + question)
        shown = np.repeat([self.vocabulary - 1, 0], [self.visual, len(text)])
        ids = np.concatenate([shown[: self.visual], text])
        wanted = np.concatenate([np.zeros(self.visual + question, bool), supervised])
        target = np.full(len(ids), IGNORED)
        # The token that is supervised is predicted one position before it.
        where = np.flatnonzero(wanted)
        target[where - 1] = ids[where]
        return Tokens(
            origin=f"{self.name} {number}",
            images=(ImageSource(f"picture {number}", str(number), _never),),
            input_ids=ids,
            branch=(np.arange(len(ids)) >= self.visual).astype(np.int64),
            position=np.arange(len(ids)),
            image=(shown > 0).astype(np.int64),
            target=target,
        )

    def shape(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Tokens of the question, and which of those behind it are supervised."""
        if self.name == "caption":
            return int(rng.integers(2, 7)), np.ones(rng.integers(8, 41), bool)
        if self.name == "vqa" or rng.random() < 0.5:
            return int(rng.integers(15, 41)), np.ones(rng.integers(2, 6), bool)
        length = int(np.clip(250 * np.exp(0.6 * rng.standard_normal()), 60, 700))
        supervised = np.arange(length) % 50 < 50 * rng.uniform(0.5, 0.8)  # turns of 50 tokens
        return int(rng.integers(15, 41)), supervised[::-1].copy()


def arithmetic(model: LucidaModel, samples: list[Tokens], language: bool) -> float:
    """Operations that a step on these samples needs: matrix products of real tokens, causal
    attention at half its square, logits at supervised positions, a frozen encoder forwards only;
    nothing computed twice. `language`: whether its weights train."""
    lengths = np.array([len(sample) for sample in samples], dtype=float)
    supervised = sum(sample.supervised for sample in samples)
    layers = model.language.base_model.layers
    width, vocabulary = model.config.text_config.hidden_size, model.config.text_config.vocab_size
    matrices = size_of(layers)
    # A multiplication and an addition for each weight and token; of attention two products of
    # length x length x width, of which the causal half counts.
    forward = 2 * (matrices * lengths.sum() + width * vocabulary * supervised)
    forward += 2 * width * len(layers) * (lengths**2).sum()
    pictures = len(samples) * model.config.patches
    seen = 2 * size_of(model.vision) * pictures
    # Backwards: once for the inputs, and once for the weights where they train.
    return forward * (3 if language else 2) + seen + 6 * size_of(model.projector) * pictures


def size_of(module: torch.nn.Module) -> int:
    """Weights of its matrices."""
    return sum(weight.numel() for weight in module.parameters() if weight.ndim == 2)


def _never() -> None:
    raise NotImplementedError("pictures of these samples are random pixels")


def picture(sample: Tokens, side: int) -> torch.Tensor:
    """Random pixels [3, side, side] of a sample, always the same."""
    drawn = torch.Generator().manual_seed(int(sample.images[0].key))
    return torch.randn(3, side, side, generator=drawn)


def packed_batch(samples: list[Tokens], side: int) -> Batch:
    """Lucida's batch: end to end, without padding."""
    batch = collate(samples, True, 0)
    batch.pixel_values = Views.read(torch.stack([picture(sample, side) for sample in samples]))
    return batch


def padded_batch(samples: list[Tokens], side: int) -> dict[str, torch.Tensor]:
    """transformers' batch: a row for each sample, padded to the longest; labels not shifted."""
    batch = collate(samples, False, 0)
    labels = torch.full_like(batch.target, IGNORED)
    labels[:, 1:] = batch.target[:, :-1]
    return {
        "input_ids": batch.input_ids,
        "attention_mask": (batch.segment > 0).long(),
        "labels": labels,
        "pixel_values": torch.stack([picture(sample, side) for sample in samples]),
    }
