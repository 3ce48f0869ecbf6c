"""A projector rewritten for llama.cpp is the same function, its matrices multiplied in PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm
from transformers import ResNetConfig

from closeness import close
from lucida.core.spec import ModelSpec
from lucida.model.conversion.fits import gguf_obstacles
from lucida.model.conversion.mmproj import INTERNVL, LFM2, MLP, projector_tensors, shape_of
from lucida.model.projectors import make_projector
from lucida.model.projectors.grid import into_channels

VISION, LANGUAGE, SIDE = 8, 12, 4
PROJECTORS = [
    ({"kind": "linear"}, MLP),
    ({"kind": "mlp"}, MLP),
    ({"kind": "mlp", "norm": True, "hidden": 20}, MLP),
    ({"kind": "mlp", "norm": True, "depth": 1}, INTERNVL),
    ({"kind": "pixel_shuffle", "factor": 4}, LFM2),
    ({"kind": "downsample"}, LFM2),
    ({"kind": "downsample"}, INTERNVL),
    ({"kind": "downsample", "factor": 2, "linear": True}, LFM2),
    ({"kind": "pool", "factor": 2}, LFM2),
    ({"kind": "pool", "factor": 2, "depth": 1}, LFM2),
]


@pytest.mark.parametrize(("projector", "form"), PROJECTORS)
def test_the_rewritten_projector_gives_the_same_tokens(projector, form):
    torch.manual_seed(0)
    spec = ModelSpec.model_validate(
        {"vision": {"path": "a"}, "language": {"path": "b"}, "projector": projector}
    )
    module = make_projector(spec.projector, VISION, LANGUAGE, SIDE**2).double()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    features = torch.randn(2, SIDE**2, VISION, dtype=torch.float64)
    shape = shape_of(spec)
    tensors = projector_tensors(module, form, shape, [3], LANGUAGE)
    given = into_channels(features, (SIDE, SIDE), shape.factor)
    if shape.norm:
        scale, shift = (tensors[f"{form.norm}.{name}"] for name in ("weight", "bias"))
        given = layer_norm(given, given.shape[-1:], scale, shift)
    first, second = ((tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in form.matrices)
    hidden = gelu(given @ first[0].T + first[1])
    close(hidden @ second[0].T + second[1], module(features))
    assert len(tensors) == 4 + 2 * shape.norm


def test_encoders_without_a_form_are_named_and_nothing_else_is_asked_of_them():
    spec = ModelSpec.model_validate(
        {"vision": {"path": "v"}, "language": {"path": "l"}, "projector": {"kind": "mlp"}}
    )
    (found,) = gguf_obstacles(spec, ResNetConfig(), None)
    assert found.startswith("resnet encoders have no names there")
