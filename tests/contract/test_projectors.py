"""What every projector promises, over the whole table and over grids of any shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from closeness import close
from lucida.core.errors import ModelError
from lucida.core.spec import ProjectorSpec
from lucida.model.projectors import PROJECTORS, make_projector, visual_tokens
from lucida.model.projectors.grid import count
from lucida.testing import check_projector

torch.set_num_threads(1)

VISION, LANGUAGE = 16, 24
SPECS = [{"kind": kind} for kind in PROJECTORS] + [
    {"kind": "mlp", "depth": 3, "hidden": 8, "activation": "relu", "norm": True},
    {"kind": "mlp", "position": True},
    {"kind": "downsample", "factor": 3},
    {"kind": "downsample", "linear": True},
    {"kind": "pixel_shuffle", "factor": 3},
    {"kind": "pool", "factor": 4, "depth": 1},
    {"kind": "transformer", "layers": 2, "heads": 4},
    {"kind": "qformer", "layers": 3, "cross_every": 1},
]
FIXED = {"kind": "expand"}, {"kind": "mlp", "position": True}


def spec_of(values: dict) -> ProjectorSpec:
    return TypeAdapter(ProjectorSpec).validate_python(values)


def shape_for(values: dict) -> tuple[int, int]:
    """The language model's width and the patches that suit a projector."""
    width = VISION if values["kind"] == "identity" else LANGUAGE
    return width, 1 if values["kind"] == "expand" else 36


def test_every_kind_of_the_specs_has_a_class():
    kinds = {option["const"] for option in find(TypeAdapter(ProjectorSpec).json_schema(), "kind")}
    assert kinds == set(PROJECTORS)


def find(schema: dict, name: str) -> list[dict]:
    return [entry["properties"][name] for entry in schema["$defs"].values()]


@pytest.mark.parametrize("values", SPECS, ids=str)
def test_contract(values):
    language, patches = shape_for(values)
    check_projector(spec_of(values), VISION, language, patches)


GRIDS = [values for values in SPECS if values not in FIXED]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(1, 9), st.integers(1, 9))
def test_the_count_is_known_beforehand_on_any_grid(values, height, width):
    """Given the grid or at its square, a count that is promised is the count that comes out."""
    spec, language = spec_of(values), shape_for(values)[0]
    features = torch.randn(2, height * width, VISION)
    try:
        promised = visual_tokens(spec, (height, width))
    except ModelError as refusal:
        assert "expected" in str(refusal) and "got" in str(refusal)
        with pytest.raises(ModelError):
            make_projector(spec, VISION, language, (height, width))
        return
    projector = make_projector(spec, VISION, language, (height, width))
    visual = projector(features)
    assert visual.shape == (2, promised, language)
    close(projector(features, (height, width)), visual)
    if height == width:
        assert visual_tokens(spec, height * width) == promised
    usual = make_projector(spec, VISION, language, 36)  # made for one grid, shown another
    assert usual(features, (height, width)).shape == visual.shape


@pytest.mark.parametrize(
    "values, patches, message",
    [
        ({"kind": "downsample"}, 37, "square grid"),
        ({"kind": "pool"}, 37, "square grid"),
        ({"kind": "c_abstractor"}, 37, "square grid"),
        ({"kind": "pixel_shuffle"}, 37, "square grid"),
        ({"kind": "mlp", "position": True}, 37, "square grid"),
        ({"kind": "pixel_shuffle", "factor": 4}, 36, "4 divides.*6 x 6"),
        ({"kind": "c_abstractor", "side": 7}, 36, "at most 6.*got 7"),
        ({"kind": "expand"}, 36, "expected 1.*got 36 patches"),
        ({"kind": "identity"}, 36, "expected 24.*got 16"),
        ({"kind": "transformer", "heads": 3}, 36, "divisor of 16.*got 3"),
        ({"kind": "perceiver", "heads": 5}, 36, "divisor of 16.*got 5"),
        ({"kind": "qformer", "heads": 32}, 36, "divisor of 16.*got 32"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused_with_both_values(values, patches, message):
    with pytest.raises(ModelError, match=f"(?s){message}"):
        make_projector(spec_of(values), VISION, LANGUAGE, patches)


def test_a_grid_of_another_size_than_the_features_is_refused():
    projector = make_projector(spec_of({"kind": "pool"}), VISION, LANGUAGE, 36)
    with pytest.raises(ModelError, match=r"4 x 8 = 32.*got 36"):
        projector(torch.zeros(1, 36, VISION), (4, 8))


def test_published_counts():
    """27² patches in twos, 32² in threes (NVILA), 32² by four (nanoVLM), 24² (LLaVA-1.5)."""
    published = [
        ({"kind": "downsample"}, 729, 196),
        ({"kind": "downsample", "factor": 3}, 1024, 121),
        ({"kind": "pixel_shuffle", "factor": 4}, 1024, 64),
        ({"kind": "mlp"}, 576, 576),
        ({"kind": "downsample", "linear": True}, 576, 144),
        ({"kind": "qformer"}, 257, 32),
    ]
    for values, patches, expected in published:
        assert visual_tokens(spec_of(values), patches) == expected
    assert count((3, 4)) == 12
