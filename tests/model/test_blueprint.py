"""A design is worked out once: from shapes alone it is what the loaded parts then are."""

from __future__ import annotations

import pytest
import torch
from tiny import ENCODERS, SIDE, encoder_folder, spec

from lucida.apps.plan.devices import find_device
from lucida.apps.plan.estimate import plan_recipe
from lucida.apps.weightless import weightless_processor
from lucida.core.errors import ModelError
from lucida.core.recipe import load_recipe
from lucida.core.spec import ModelSpec
from lucida.model.blueprint import make_blueprint, skeleton
from lucida.model.checkpoint import build, save
from lucida.model.encoders.fusion import load_vision

torch.set_num_threads(1)
STAGES = ("resnet", "convnext", "convnextv2", "dinov3-convnext", "swin")
TWO = {"path": encoder_folder("siglip"), "more": [{"path": encoder_folder("dinov2")}]}


def shown(blueprint, side: float):
    """Black views of this side, for each encoder."""
    return [torch.zeros(1, 3, each, each) for each in blueprint.view_sides(side)]


@torch.no_grad()
@pytest.mark.parametrize("policy", ["letterbox", "native"])
@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_as_many_and_as_wide_as_the_encoder_makes_them(name, policy):
    size = 64 if name in STAGES else 28
    image = {"policy": policy, "size": size}
    design = spec({"path": encoder_folder(name)}, image=image)
    blueprint = make_blueprint(design)
    (own,) = blueprint.policies
    features = load_vision(design.vision)(*shown(blueprint, own.sides(size, size)[0]))
    assert features.shape[1:] == (blueprint.patches, blueprint.width)
    if policy == "native":
        rows, columns = own.grid(size, size)
        assert rows * columns == blueprint.patches, "a unit is as long as the steps of the encoder"


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["channels", "tokens", "interleaved"])
def test_features_of_several_encoders(fusion):
    design = spec(TWO | {"fusion": fusion})
    blueprint = make_blueprint(design)
    features = load_vision(design.vision)(*shown(blueprint, SIDE))
    assert features.shape[1:] == (blueprint.patches, blueprint.width)


def test_nothing_is_drawn_from_the_generator():
    before = torch.get_rng_state()
    for name in ("siglip", "resnet", "swin"):
        skeleton(spec({"path": encoder_folder(name), "size": 64}))
    assert torch.equal(torch.get_rng_state(), before)


REFUSED = {
    "a perceiver's tokens stand nowhere": (
        {"image": {"policy": "anyres"}, "projector": {"kind": "perceiver", "queries": 4}},
        "anyres puts the visual tokens of tiles together",
    ),
    "neighbours of two encoders": (
        {
            "vision": TWO | {"fusion": "tokens", "more": 3 * TWO["more"]},
            "projector": {"kind": "downsample", "factor": 2},
        },
        "joins neighbours",
    ),
    "learned positions": (
        {"image": {"policy": "native"}, "projector": {"kind": "mlp", "position": True}},
        "no fixed places",
    ),
    "no patches": (
        {"image": {"policy": "native"}, "vision": {"path": TWO["path"], "take": "mean"}},
        "needs the patches of a grid",
    ),
    "less than a patch": ({"image": {"size": 4}}, "smaller than one patch"),
    "less than a block": (
        {
            "image": {"policy": "native", "size": 12},
            "projector": {"kind": "pixel_shuffle", "factor": 2},
        },
        "shorter than one block",
    ),
    "a finer grid behind a coarser": (
        {"vision": TWO | {"more": [{"path": TWO["path"], "size": 2 * SIDE}]}},
        "grid of encoder 2 is larger",
    ),
    "turns of different lengths": (
        {
            "vision": TWO
            | {"fusion": "interleaved", "more": [{"path": TWO["path"], "size": 2 * SIDE}]}
        },
        "cannot take turns",
    ),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_what_training_refuses_is_refused_without_weights(change, message):
    design = spec(**change)
    recipe = load_recipe("mini").model_copy(update={"model": design})
    with pytest.raises(ModelError, match=message) as trained:
        build(design)
    with pytest.raises(ModelError) as planned:
        plan_recipe(recipe, find_device("a100-80g"))
    with pytest.raises(ModelError) as counted:
        weightless_processor(recipe, recipe.stages[0])
    assert str(trained.value) == str(planned.value) == str(counted.value)


@pytest.mark.parametrize("policy", ["letterbox", "split", "native"])
def test_a_saved_model_has_the_blueprint_that_it_was_built_by(policy, tmp_path):
    design = spec(TWO, image={"policy": policy, "size": 32})
    save(*build(design), tmp_path)
    begun = ModelSpec.model_validate(design.model_dump() | {"from": str(tmp_path)})
    ours, theirs = make_blueprint(begun), make_blueprint(design)
    assert ours.arrangement == theirs.arrangement
    assert (ours.policies, ours.names) == (theirs.policies, theirs.names)
    assert (ours.patches, ours.width) == (theirs.patches, theirs.width)
    assert ours.view_sides(24) == theirs.view_sides(24)


DESIGNS = {
    "one square": {},
    "crop, larger": {"image": {"policy": "crop", "size": 40}},
    "tiles": {"image": {"policy": "split"}},
    "tiles as one picture": {"image": {"policy": "anyres"}},
    # 20 pixels are no whole number of blocks of 16: the largest square is one block.
    "blocks": {
        "image": {"policy": "native", "size": 28},
        "projector": {"kind": "pixel_shuffle", "factor": 2},
    },
    # The patch of a convolutional stem is no unit: its last stage is coarser.
    "stages": {"vision": {"path": encoder_folder("convnext")},
               "image": {"policy": "native", "size": 96}},
    "two": {"vision": TWO, "image": {"policy": "native", "size": 32}},
    "blind": {"vision": None},
    "gated": {"cross_attention": {"every": 2, "heads": 4}},
}  # fmt: skip


@pytest.mark.parametrize("change", DESIGNS.values(), ids=DESIGNS)
def test_the_processor_without_weights_is_that_of_the_model(change):
    design = spec(**change)
    recipe = load_recipe("mini").model_copy(update={"model": design})
    stage = recipe.stages[0]
    model, processor = build(design)
    counting = weightless_processor(recipe, stage)
    assert counting.to_dict() == processor.for_stage(recipe.resolve(stage)).to_dict()
    assert counting.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    blueprint = make_blueprint(design)
    config = model.config
    found = (blueprint.patches, blueprint.width, blueprint.visual_tokens)
    assert found == (config.patches, config.vision_width, config.visual_tokens)
    bones = {name: weight.shape for name, weight in skeleton(design).named_parameters()}
    for name, weight in model.named_parameters():
        if "embed" not in name and "lm_head" not in name:
            assert bones[name] == weight.shape
