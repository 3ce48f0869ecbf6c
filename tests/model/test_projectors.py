"""What every projector promises, over the whole table."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from lucida.core.errors import ModelError
from lucida.core.spec import MlpProjectorSpec, ProjectorSpec
from lucida.model.projectors import PROJECTORS, make_projector
from lucida.model.projectors.mlp import sinusoids

VISION, LANGUAGE, PATCHES = 6, 10, 4


def spec_of(kind: str) -> ProjectorSpec:
    return TypeAdapter(ProjectorSpec).validate_python({"kind": kind})


@pytest.mark.parametrize("kind", PROJECTORS)
def test_contract(kind):
    torch.manual_seed(0)
    projector = make_projector(spec_of(kind), VISION, LANGUAGE, PATCHES)
    features = torch.randn(3, PATCHES, VISION, requires_grad=True)
    visual = projector(features)
    assert visual.shape == (3, PATCHES, LANGUAGE) and visual.std() > 0.05
    visual.sum().backward()
    assert features.grad is not None
    assert all(weight.grad is not None for weight in projector.parameters())
    torch.testing.assert_close(projector(features[:1]), visual[:1])  # images do not mix
    torch.manual_seed(0)
    again = make_projector(spec_of(kind), VISION, LANGUAGE, PATCHES)
    assert torch.equal(again(features), visual)


def test_mlp_follows_its_spec():
    spec = MlpProjectorSpec(depth=3, hidden=8, activation="relu", norm=True, position=True)
    projector = make_projector(spec, VISION, LANGUAGE, PATCHES)
    kinds = [type(layer) for layer in projector.layers]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.out_features for layer in projector.layers[::2]] == [8, 8, LANGUAGE]
    features = torch.randn(1, PATCHES, VISION)
    moved = features[:, [1, 0, 2, 3]]
    assert (projector(moved)[:, 0] - projector(features)[:, 1]).abs().max() > 0.01
    with torch.no_grad():
        projector.position.zero_()
    torch.testing.assert_close(projector(moved)[:, 0], projector(features)[:, 1])
    with pytest.raises(ModelError, match="another grid"):
        projector(torch.randn(1, PATCHES + 1, VISION))
    single = make_projector(MlpProjectorSpec(depth=1), VISION, LANGUAGE, PATCHES)
    assert len(single.layers) == 1


def test_places_start_apart_and_neighbours_nearest():
    places = sinusoids(64, 160).view(8, 8, 160)
    assert torch.pdist(places.flatten(0, 1)).min() > 1.0
    along = [(places[3, 0] - places[3, column]).norm() for column in range(8)]
    assert along[0] == 0
    assert along[1] < min(along[2:])
    step = torch.stack([places[row, 5] - places[row, 1] for row in (2, 6)])
    torch.testing.assert_close(step[0], step[1])  # rows and columns are apart
    with pytest.raises(ModelError, match="square grid"):
        sinusoids(60, 160)


def test_an_unknown_projector_suggests_the_nearest():
    with pytest.raises(ModelError, match="did you mean `linear`"):
        PROJECTORS["lineer"]
