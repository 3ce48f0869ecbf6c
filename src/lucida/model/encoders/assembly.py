"""The eyes of a recipe: its encoders, loaded and joined, and what each is to be shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lucida.core.errors import ModelError
from lucida.core.spec import EncoderSpec, ModelSpec
from lucida.data.policies import ImagePolicy
from lucida.model.arrangement import policy_of
from lucida.model.config import LucidaConfig
from lucida.model.encoders.encoder import VisionEncoder, load_encoder, make_encoder, new_model
from lucida.model.encoders.fusion import FusedEncoder, joined
from lucida.model.encoders.preprocessing import read_preprocessing
from lucida.model.loading import reachable
from lucida.model.parts import part_path


@dataclass(frozen=True, slots=True)
class Eyes:
    """Encoders and the policy of each; shape of the features of one square (`native`: the largest).

    unit_patches: patches per side of a unit of the grid under `native`.
    """

    vision: VisionEncoder | FusedEncoder
    policies: tuple[ImagePolicy, ...]
    patches: int
    width: int
    unit_patches: int


@torch.no_grad()
def load_eyes(spec: ModelSpec) -> Eyes:
    """The encoders of a recipe with a vision encoder; ModelError when they cannot be fused."""
    vision = spec.vision
    # Under `native`, sides are whole blocks of a projector that takes nothing but whole blocks.
    block = spec.projector.factor if spec.projector.kind == "pixel_shuffle" else 1
    loaded = [load_eye(encoder, spec, block) for encoder in (vision, *vision.more)]
    encoders, policies = ([entry[n] for entry in loaded] for n in (0, 1))
    fused = joined(encoders, vision.fusion).eval()
    features = fused(blank(policies) if len(encoders) > 1 else blank(policies)[0])
    _, patches, width = features.shape
    return Eyes(fused, tuple(policies), patches, width, block)


def load_eye(
    encoder: EncoderSpec, spec: ModelSpec, block: int
) -> tuple[VisionEncoder, ImagePolicy]:
    """One encoder, and how it is shown pictures."""
    path = part_path(encoder.path)
    with reachable(encoder.path, "model.vision"):
        loaded = load_encoder(encoder.model_copy(update={"path": path})).eval()
        expected = read_preprocessing(path, loaded.model.config)
    size = encoder.size or spec.image.size or expected.size
    smallest = getattr(loaded.model.config, "patch_size", 1)
    if isinstance(smallest, int) and size < smallest:
        raise ModelError(
            "the image size is smaller than one patch of the encoder",
            expected=f"at least {smallest} pixels",
            given=size,
            origin=encoder.path,
            remedy="set model.image.size",
        )
    unit = 1
    if spec.image.policy == "native":
        patches = loaded(torch.zeros(1, 3, size, size)).shape[1]
        unit = loaded.stride(size, patches) * block
        if size < unit:
            raise ModelError(
                "the longest side is shorter than one block of patches",
                expected=f"at least {unit} pixels",
                given=size,
                origin=encoder.path,
                remedy="set model.image.size",
            )
    policy = policy_of(spec.image, size, expected.mean, expected.std, unit)
    return loaded, policy


def new_vision(config: LucidaConfig) -> VisionEncoder | FusedEncoder:
    """The vision encoder, or all of them fused, with random weights."""
    spec = config.model_spec.vision
    encoders = [
        make_encoder(new_model(each), encoder.normed, encoder.take, layers)
        for each, encoder, layers in zip(
            config.vision_configs, (spec, *spec.more), config.layers, strict=True
        )
    ]
    return joined(encoders, spec.fusion)


def blank(policies: list[ImagePolicy]) -> list[Tensor]:
    """A black view for each encoder, of the largest size that it can be shown."""
    first = policies[0]
    units = first.size // first.unit
    sides = [
        policy.unit * units if policy.policy == "native" else policy.size for policy in policies
    ]
    return [torch.zeros(1, 3, side, side) for side in sides]
