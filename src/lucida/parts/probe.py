"""Linear probes: what can be read off a patch by one matrix?

For each thing the features of the patch at its centre are asked for shape, colour, size and
texture, for each sign those at its centre for the word. The probe sees training scenes, the
score is on validation scenes. Labels are used for this measurement only, never for pretraining.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from lucida.parts.contrastive import as_square, to_pixels
from lucida.world import scenes
from lucida.world.scenes import Scene, Split, make_scene

Features = Callable[[torch.Tensor], torch.Tensor]
"""pixels [n, 3, s, s] → patches [n, grid * grid, width]."""


def probe_patches(features: Features, *, fit: int = 3000, score: int = 1000) -> dict[str, float]:
    """Validation accuracy in percent of each linear probe."""
    train, held_out = _collect(features, "train", fit), _collect(features, "validation", score)
    return {name: _accuracy(train[name], held_out[name]) for name in train}


def _collect(
    features: Features, split: Split, count: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found: dict[str, list[tuple[torch.Tensor, int]]] = {
        name: [] for name in ("shape", "colour", "size", "texture", "word")
    }
    for start in range(0, count, 100):
        drawn = [make_scene(5, split, k) for k in range(start, min(start + 100, count))]
        with torch.no_grad():
            patches = features(to_pixels([as_square(scene) for scene in drawn])).float().cpu()
        for scene, grid in zip(drawn, patches, strict=True):
            _note(scene, grid, found)
    return {
        name: (torch.stack([x for x, _ in rows]), torch.tensor([y for _, y in rows]))
        for name, rows in found.items()
    }


def _note(scene: Scene, patches: torch.Tensor, found: dict) -> None:
    for thing in scene.things:
        at = _patch_at(scene, patches, thing.box)
        found["shape"].append((at, scenes.SHAPES.index(thing.shape)))
        found["colour"].append((at, scenes.COLOURS.index(thing.colour)))
        found["size"].append((at, scenes.SIZES.index(thing.size)))
        found["texture"].append((at, scenes.TEXTURES.index(thing.texture)))
    if scene.sign is not None:
        at = _patch_at(scene, patches, scene.sign.box)
        found["word"].append((at, scenes.WORDS.index(scene.sign.word)))


def _patch_at(scene: Scene, patches: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    side = max(scene.width, scene.height)
    grid = round(len(patches) ** 0.5)
    x = (box[0] + box[2]) / 2 + (side - scene.width) // 2  # as `as_square` lays it
    y = (box[1] + box[3]) / 2 + (side - scene.height) // 2
    return patches[int(y * grid / side) * grid + int(x * grid / side)]


def _accuracy(
    fit: tuple[torch.Tensor, torch.Tensor], score: tuple[torch.Tensor, torch.Tensor]
) -> float:
    (inputs, labels), (held_inputs, held_labels) = fit, score
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-5
    inputs, held_inputs = (inputs - mean) / deviation, (held_inputs - mean) / deviation
    classes = int(labels.max()) + 1
    weight = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, labels) + 1e-4 * weight.square().sum()
        loss.backward()
        optimizer.step()
    right = (held_inputs @ weight + bias).argmax(1) == held_labels
    return round(100 * float(right.float().mean()), 1)
