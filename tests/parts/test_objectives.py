"""Every objective trains its encoder, looks at what it should, and nothing else."""

import copy
from functools import partial

import pytest
import torch

from lucida.model.projectors.mlp import sinusoids
from lucida.parts.objectives import CropObjective, PatchObjective, crops, patches_of
from lucida.parts.vision import VISION_PARTS, WIDTH, small_resnet


def made(name):
    torch.manual_seed(0)
    encoder = VISION_PARTS[name].encoder()
    objective = VISION_PARTS[name].objective(encoder, WIDTH)
    return encoder, objective, partial(patches_of, encoder)


@pytest.mark.parametrize("name", VISION_PARTS)
def test_every_part_of_the_encoder_gets_a_gradient(name):
    encoder, objective, encode = made(name)
    objective.loss(encode, 1, 0, 6).backward()
    missing = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # ConvNeXt's norm is of the pooled output, SigLIP's behind the layer that is distilled.
    assert all("layernorm" in key.split(".")[0] for key in missing)
    trained = [weight for weight in objective.parameters() if weight.requires_grad]
    assert any(weight.grad is not None for weight in trained) or not trained


@pytest.mark.parametrize("name", VISION_PARTS)
def test_a_batch_depends_on_seed_and_step_only(name):
    losses = []
    for _ in range(2):
        _, objective, encode = made(name)
        with torch.no_grad():
            losses.append(float(objective.loss(encode, 1, 3, 6)))
    assert losses[0] == losses[1]


def test_the_teacher_follows_slowly_and_gets_no_gradient():
    torch.manual_seed(0)
    encoder = small_resnet()
    objective = CropObjective(encoder, WIDTH)
    teacher = copy.deepcopy(objective.teacher.state_dict())
    with torch.no_grad():
        for weight in encoder.parameters():
            weight += 1
    objective.after_step(0.0)
    for key, weight in objective.teacher.named_parameters():
        assert torch.allclose(weight - teacher[key], torch.full_like(weight, 0.01), atol=1e-6)
        assert not weight.requires_grad


def test_patches_are_told_apart_by_what_the_teacher_has_there_and_by_their_places():
    """The same features, normalised and with their places, have no loss; those of other patches
    have, and so have the right ones with the places of others."""
    encoder = VISION_PARTS["siglip-vit-mini"].encoder()
    objective = PatchObjective(encoder, WIDTH, pictures=32)

    def teach(pixels):
        patches = patches_of(objective.teacher, pixels)
        normed = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, correction=0)[
            ..., None
        ]
        return normed + sinusoids(64, WIDTH)

    def misplaced(pixels):
        return teach(pixels) - sinusoids(64, WIDTH) + sinusoids(64, WIDTH).flip(0)

    assert float(objective.loss(teach, 1, 0, 4)) < 1e-4
    assert float(objective.loss(lambda pixels: teach(pixels).flip(1), 1, 0, 4)) > 0.5
    assert float(objective.loss(misplaced, 1, 0, 4)) > 0.5
    assert torch.equal(encoder.embeddings.position_embedding.weight, sinusoids(64, WIDTH))
    assert all(not weight.requires_grad for weight in objective.teacher.parameters())


def test_crops_keep_size_and_range_and_differ():
    pixels = torch.rand(5, 3, 64, 64) * 2 - 1
    draw = torch.Generator().manual_seed(0)
    one, two = crops(pixels, draw), crops(pixels, draw)
    assert one.shape == pixels.shape
    assert one.abs().max() <= 1
    assert not torch.equal(one, two)
