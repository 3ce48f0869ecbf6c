"""How the tiny vision encoders are made from nothing, each with its kind of supervision."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel

from lucida.core.progress import Progress
from lucida.parts.card import write_card
from lucida.parts.objectives import (
    CaptionObjective,
    CropObjective,
    LabelObjective,
    Objective,
    PhraseObjective,
)
from lucida.parts.probe import probe_patches
from lucida.train.precision import Precision, choose_unscaled

WIDTH, SIDE = 160, 64


@dataclass(frozen=True)
class VisionPart:
    """One way to make a vision encoder. data: what it saw, in words."""

    what: str
    data: str
    encoder: Callable[[], nn.Module]
    objective: Callable[[nn.Module, int], Objective]
    steps: int


def small_resnet() -> ResNetModel:
    """Two stages of two blocks, 8 x 8 patches of width 160: 0.9 million parameters."""
    sizes = {"embedding_size": 32, "hidden_sizes": [64, WIDTH], "depths": [2, 2]}
    return ResNetModel(ResNetConfig(**sizes, layer_type="basic"))


def small_convnext() -> ConvNextModel:
    """Two stages of two blocks behind a 4 x 4 stem, 8 x 8 patches of width 160."""
    return ConvNextModel(
        ConvNextConfig(num_stages=2, hidden_sizes=[80, WIDTH], depths=[2, 3], patch_size=4)
    )


VISION_PARTS = {
    "siglip-mini": VisionPart(
        "vision encoder (ResNet), sigmoid contrastive on patches and caption phrases (no labels)",
        "pictures with captions, one phrase a thing",
        small_resnet,
        PhraseObjective,
        5000,
    ),
    "clip-mini": VisionPart(
        "vision encoder (ResNet), softmax contrastive on whole pictures and captions (no labels)",
        "pictures with captions",
        small_resnet,
        CaptionObjective,
        2500,
    ),
    "convnext-mini": VisionPart(
        "vision encoder (ConvNeXt), sigmoid contrastive on patches and caption phrases (no labels)",
        "pictures with captions, one phrase a thing",
        small_convnext,
        PhraseObjective,
        1500,
    ),
    "supervised-mini": VisionPart(
        "vision encoder (ResNet), classification of the shapes in a picture",
        "pictures with the names of their shapes",
        small_resnet,
        LabelObjective,
        2500,
    ),
    "dino-mini": VisionPart(
        "vision encoder (ResNet), self-distillation between crops (images only)",
        "pictures",
        small_resnet,
        CropObjective,
        1500,
    ),
}


def build_vision(
    name: str,
    folder: Path,
    *,
    steps: int | None = None,
    pictures: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> dict:
    """Pretrain an encoder of `VISION_PARTS`, write a Hugging Face folder (fp16 safetensors) and its
    card, and return the card.

    On one CPU core `siglip-mini` takes about 20 minutes, the others 8 to 18.
    """
    part = VISION_PARTS[name]
    steps = steps or part.steps
    torch.manual_seed(seed)
    encoder = part.encoder().to(device)
    objective = part.objective(encoder, WIDTH).to(device)
    started = time.time()
    precision = choose_unscaled(torch.device(device))
    loss = _pretrain(name, encoder, objective, steps, pictures, seed, precision)
    seconds = time.time() - started
    encoder.eval()
    measures = probe_patches(lambda pixels: patches_of(encoder, pixels.to(device)))
    folder.mkdir(parents=True, exist_ok=True)
    encoder.half().cpu().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessor(), indent=2) + "\n")
    return write_card(
        folder,
        what=part.what,
        made=f"lucida parts build {name} --out DIR --steps {steps} --seed {seed}",
        data={"pictures": steps * pictures, "split": "train", "what": part.data},
        parameters=sum(p.numel() for p in encoder.parameters()),
        seconds=round(seconds),
        final_loss=round(loss, 4),
        measured={f"probe {name} %": value for name, value in measures.items()},
    )


build_siglip = partial(build_vision, "siglip-mini")
build_clip = partial(build_vision, "clip-mini")
build_convnext = partial(build_vision, "convnext-mini")
build_supervised = partial(build_vision, "supervised-mini")
build_dino = partial(build_vision, "dino-mini")


def patches_of(encoder: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """[n, 3, s, s] → [n, (s/8)², width], row by row."""
    return encoder(pixels).last_hidden_state.flatten(2).transpose(1, 2)


def _pretrain(
    name: str,
    encoder: nn.Module,
    objective: Objective,
    steps: int,
    pictures: int,
    seed: int,
    precision: Precision,
) -> float:
    trained = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=2e-3, weight_decay=0.02, betas=(0.9, 0.98), fused=True
    )

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with precision.autocast():
            return patches_of(encoder, pixels)

    running = 0.0
    with Progress(name, steps, "step") as progress:
        for step in range(steps):
            warm = min(1.0, (step + 1) / 200)
            factor = warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * factor
            loss = objective.loss(encode, seed + 1, step, pictures)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step(step / steps)
            running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
            progress.advance(1, loss=running)
    return running


def _preprocessor() -> dict:
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
