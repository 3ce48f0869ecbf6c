"""What a tiny vision encoder can be pretrained for: five kinds of supervision, one protocol.

    siglip, convnext   phrases of captions matched with patches, every pair yes or no
    clip               whole captions matched with whole pictures, softmax over the batch
    supervised         which kinds of things are there, from labels
    dino               no words at all: two crops of a picture should say the same
    siglip-vit         the patches of siglip-mini: a transformer learns to see what it sees

They differ in what their features carry, as their full-scale namesakes do: that is what ablations
of the visual representation are about. An objective is thrown away after pretraining.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetModel, SiglipVisionModel

from lucida.model.parts import part_path
from lucida.model.projectors.mlp import sinusoids
from lucida.parts.contrastive import (
    VOCABULARY,
    PhraseMatcher,
    as_square,
    contrastive_loss,
    make_batch,
    phrases_hot,
    to_pixels,
    words_of,
)
from lucida.world import scenes
from lucida.world.phrases import caption_phrases
from lucida.world.scenes import make_scene


class Encode(Protocol):
    """pixels [n, 3, s, s] → patches [n, patches, width]."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor: ...


class Objective(nn.Module, ABC):
    """Trained beside an encoder; `loss` makes its own batch from (seed, step)."""

    @abstractmethod
    def loss(self, encode: Encode, seed: int, step: int, size: int) -> torch.Tensor:
        """Loss of batch number `step` of `size` pictures."""

    def after_step(self, done: float) -> None:
        """Called after every update with the share of training that is done."""


class PhraseObjective(Objective):
    """SigLIP with phrases and patches; see `contrastive`."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.matcher = PhraseMatcher(width)

    def loss(self, encode: Encode, seed: int, step: int, size: int) -> torch.Tensor:
        device = self.matcher.bias.device
        batch = make_batch(seed, step, size)
        patches = encode(batch.pixels.to(device)).float()
        logits = self.matcher(patches, batch.asked.to(device))
        return contrastive_loss(logits, batch.truth().to(device))


class CaptionObjective(Objective):
    """CLIP: the mean of the patches against the caption as one bag of phrases.

    Two captions of a batch may fit one picture; as in CLIP, only its own counts as right.

    Reference: Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, arXiv 2103.00020, section 2.3.
    """

    def __init__(self, encoder: nn.Module, width: int, dim: int = 128):
        super().__init__()
        self.picture = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim, bias=False))
        self.phrase = nn.Sequential(
            nn.Linear(len(VOCABULARY), 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def loss(self, encode: Encode, seed: int, step: int, size: int) -> torch.Tensor:
        device = self.scale.device
        drawn = [make_scene(seed, "train", step * size + row) for row in range(size)]
        phrases = [[words_of(phrase) for phrase in caption_phrases(scene)] for scene in drawn]
        owner = torch.tensor([row for row, each in enumerate(phrases) for _ in each])
        hot = phrases_hot([words for each in phrases for words in each]).to(device)
        told = self.phrase(hot)
        # A caption is the sum of its phrases: [captions, dim].
        caption = told.new_zeros(size, told.shape[1]).index_add(0, owner.to(device), told)
        seen = encode(to_pixels([as_square(scene) for scene in drawn]).to(device)).float().mean(1)
        logits = F.normalize(self.picture(seen), dim=-1) @ F.normalize(caption, dim=-1).T
        logits = logits * self.scale.exp().clamp(max=100.0)
        own = torch.arange(size, device=device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class LabelObjective(Objective):
    """Classification: which shapes are in the picture, each yes or no. Colours, places and words
    are never asked for, so nothing rewards keeping them."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(scenes.SHAPES)))

    def loss(self, encode: Encode, seed: int, step: int, size: int) -> torch.Tensor:
        device = self.head[1].weight.device
        drawn = [make_scene(seed, "train", step * size + row) for row in range(size)]
        there = [{thing.shape for thing in scene.things} for scene in drawn]
        labels = torch.tensor([[float(s in shapes) for s in scenes.SHAPES] for shapes in there])
        patches = encode(to_pixels([as_square(scene) for scene in drawn]).to(device)).float()
        # A soft maximum over patches: one that shows the shape is enough.
        logits = self.head(patches).logsumexp(1) - math.log(patches.shape[1])
        return F.binary_cross_entropy_with_logits(logits, labels.to(device))


class CropObjective(Objective):
    """DINO: the student's view of one crop should match the teacher's of another, images only.

    The teacher is a moving average of the student; its outputs are centred and sharpened so that
    saying always the same does not pay.

    Reference: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021,
    arXiv 2104.14294, section 3.1.
    """

    def __init__(self, encoder: nn.Module, width: int, prototypes: int = 256):
        super().__init__()
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64)
        )
        self.prototypes = nn.utils.parametrizations.weight_norm(
            nn.Linear(64, prototypes, bias=False)
        )
        self.student = [encoder]  # in a list: its weights are the caller's, not this module's
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(prototypes))

    def loss(self, encode: Encode, seed: int, step: int, size: int) -> torch.Tensor:
        device = self.centre.device
        drawn = [make_scene(seed, "train", step * size + row) for row in range(size)]
        pixels = to_pixels([as_square(scene) for scene in drawn])
        draw = torch.Generator().manual_seed(scenes.scene_rng(seed, 78, step).randrange(2**31))
        views = [crops(pixels, draw).to(device) for _ in range(2)]
        said = [self.vote(self.head, encode(view)) / 0.1 for view in views]
        with torch.no_grad():
            raw = [
                self.vote(self.teacher_head, self.teacher(view).last_hidden_state.flatten(2).mT)
                for view in views
            ]
            # Centring alone would make all prototypes alike, sharpening alone one for all; together
            # neither.
            meant = [((each - self.centre) / 0.04).softmax(-1) for each in raw]
            self.centre.lerp_(torch.cat(raw).mean(0), 0.1)
        pairs = ((said[0], meant[1]), (said[1], meant[0]))
        return sum(-(m * s.log_softmax(-1)).sum(-1).mean() for s, m in pairs) / 2

    def vote(self, head: nn.Module, patches: torch.Tensor) -> torch.Tensor:
        """Scores of the prototypes [n, prototypes]."""
        return self.prototypes(F.normalize(head(patches.float().mean(1)), dim=-1))

    @torch.no_grad()
    def after_step(self, done: float) -> None:
        keep = 1 - 0.01 * (1 + math.cos(math.pi * done)) / 2  # 0.99, rising to 1
        pairs = [(self.teacher, self.student[0]), (self.teacher_head, self.head)]
        for slow, fast in pairs:
            for kept, new in zip(
                slow.state_dict().values(), fast.state_dict().values(), strict=True
            ):
                if kept.is_floating_point():
                    kept.lerp_(new.to(kept.dtype), 1 - keep)


class PatchObjective(Objective):
    """Distillation: every patch should have the features which `siglip-mini` has there, brought to
    mean 0 and deviation 1 in each patch, and on top of them its place, as sines and cosines.

    What a projector with norm and positions makes of the teacher's features comes out of the
    student as it is, so that LLaVA's plain projector is enough. Channels count by what they vary in
    the teacher, so that what is faint in it counts as the rest. The student begins with places and
    means, which pass through its layers: only what differs from picture to picture is learnt.

    A transformer without convolutions sees little in the minutes that contrastive pretraining has
    here; told patch by patch it learns the same features.

    Reference: Wei et al., Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via
    Feature Distillation, 2022, arXiv 2205.14141, section 3.1 (normalised targets for each token).
    """

    def __init__(self, encoder: SiglipVisionModel, width: int, pictures: int = 512):
        super().__init__()
        folder = part_path("lucida:siglip-mini")
        teacher = ResNetModel.from_pretrained(folder, dtype=torch.float32)
        self.teacher = teacher.eval().requires_grad_(False)
        with torch.no_grad():
            known = self.seen(training_pixels(0, 0, pictures))
        self.register_buffer("deviation", known.std((0, 1)).clamp(min=1e-3))
        self.register_buffer("places", sinusoids(known.shape[1], width))
        with torch.no_grad():
            encoder.embeddings.position_embedding.weight.copy_(self.places)
            encoder.embeddings.patch_embedding.bias.copy_(known.mean((0, 1)))

    def seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """The teacher's features [n, patches, width], each patch by itself normalised."""
        patches = patches_of(self.teacher, pixels)
        return F.layer_norm(patches, patches.shape[-1:])

    def loss(self, encode: Encode, seed: int, step: int, size: int) -> torch.Tensor:
        pixels = training_pixels(seed, step, size).to(self.deviation.device)
        with torch.no_grad():
            meant = self.seen(pixels) + self.places
        return ((encode(pixels).float() - meant) / self.deviation).square().mean()


def patches_of(encoder: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What comes out of the encoder's last layer, before any norm: [n, 3, s, s] → [n, patches,
    width], row by row."""
    state = encoder(pixels, output_hidden_states=True).hidden_states[-1]
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state


def training_pixels(seed: int, step: int, size: int) -> torch.Tensor:
    """The pictures of batch number `step`: float32 [size, 3, 64, 64]."""
    drawn = [make_scene(seed, "train", step * size + row) for row in range(size)]
    return to_pixels([as_square(scene) for scene in drawn])


def crops(pixels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """A random part of each picture (40 to 100% of its area) at full size, half of them mirrored,
    brightness and contrast changed a little. pixels [n, 3, s, s]."""
    count = len(pixels)
    # Of a side, which is the root of the area's.
    scale = (0.4 + 0.6 * torch.rand(count, generator=draw)).sqrt()
    shift = (2 * torch.rand(count, 2, generator=draw) - 1) * (1 - scale)[:, None]
    mirror = 1 - 2 * torch.randint(0, 2, (count,), generator=draw).float()
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    cut = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    light = 0.2 * (2 * torch.rand(2, count, 1, 1, 1, generator=draw) - 1)
    return (cut * (1 + light[0]) + light[1]).clamp(-1, 1)
