"""How the tiny vision encoders are made from nothing, each with its kind of supervision."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lucida.core.spec import OptimSpec
from lucida.parts.card import write_card
from lucida.parts.fitting import Fitting
from lucida.parts.objectives import (
    CaptionObjective,
    CropObjective,
    LabelObjective,
    Objective,
    PatchObjective,
    PhraseObjective,
    patches_of,
)
from lucida.parts.probe import probe_patches
from lucida.training.optim import make_optimizer
from lucida.training.precision import Precision, choose_unscaled

WIDTH, SIDE = 160, 64


@dataclass(frozen=True)
class VisionPart:
    """One way to make a vision encoder. data: what it saw, in words. pictures: of each step."""

    what: str
    data: str
    encoder: Callable[[], nn.Module]
    objective: Callable[[nn.Module, int], Objective]
    steps: int
    pictures: int = 64
    optim: Literal["adamw", "muon"] = "adamw"
    rate: float = 2e-3


def small_resnet() -> ResNetModel:
    """Two stages of two blocks, 8 x 8 patches of width 160: 0.9 million parameters."""
    sizes = {"embedding_size": 32, "hidden_sizes": [64, WIDTH], "depths": [2, 2]}
    return ResNetModel(ResNetConfig(**sizes, layer_type="basic"))


def small_convnext() -> ConvNextModel:
    """Two stages of two blocks behind a 4 x 4 stem, 8 x 8 patches of width 160."""
    return ConvNextModel(
        ConvNextConfig(num_stages=2, hidden_sizes=[80, WIDTH], depths=[2, 3], patch_size=4)
    )


def small_vit() -> SiglipVisionModel:
    """SigLIP's own transformer: five layers over 8 x 8 patches of 8 pixels, width 160, without the
    head that pools them: 1.3 million parameters."""
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=5,
            num_attention_heads=5,
            image_size=SIDE,
            patch_size=8,
            vision_use_head=False,
        )
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
    "siglip-vit-mini": VisionPart(
        "vision encoder (SigLIP's transformer), distilled from the patches of siglip-mini",
        "pictures",
        small_vit,
        PatchObjective,
        2000,
        pictures=32,
        optim="muon",
        rate=3e-3,
    ),
}


def build_vision(
    name: str,
    folder: Path,
    *,
    steps: int | None = None,
    pictures: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict:
    """Pretrain an encoder of `VISION_PARTS`, write a Hugging Face folder (fp16 safetensors) and its
    card, and return the card.

    On one CPU core `siglip-mini` takes about 20 minutes, the others 8 to 18.
    """
    part = VISION_PARTS[name]
    steps, pictures = steps or part.steps, pictures or part.pictures
    torch.manual_seed(seed)
    encoder = part.encoder().to(device)
    objective = part.objective(encoder, WIDTH).to(device)
    started = time.time()
    precision = choose_unscaled(torch.device(device))
    loss = _pretrain(name, part, encoder, objective, steps, pictures, seed, precision)
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
build_siglip_vit = partial(build_vision, "siglip-vit-mini")


def _pretrain(
    name: str,
    part: VisionPart,
    encoder: nn.Module,
    objective: Objective,
    steps: int,
    pictures: int,
    seed: int,
    precision: Precision,
) -> float:
    both = nn.ModuleList([encoder, objective])
    trained = {n: (p, part.rate) for n, p in both.named_parameters() if p.requires_grad}
    spec = OptimSpec(kind=part.optim, weight_decay=0.02, beta2=0.98)

    def loss_of(step: int) -> torch.Tensor:
        def encode(pixels: torch.Tensor) -> torch.Tensor:
            with precision.autocast():
                return patches_of(encoder, pixels)

        return objective.loss(encode, seed + 1, step, pictures)

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 200)
        return warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))

    def after(step: int) -> None:
        objective.after_step(step / steps)

    optimizer = make_optimizer(trained, spec, both, precision.dtype)
    with Fitting(name, steps) as fitting:
        fitting.fit(both, optimizer, range(steps), loss_of, rate, after, clip=None)
    return fitting.loss


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
