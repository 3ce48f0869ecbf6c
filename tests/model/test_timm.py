"""Encoders of timm: its networks as timm itself runs them; skipped where timm is not installed."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import ROOT, picture, spec

from lucida.core.errors import ModelError, PartError
from lucida.core.spec import ModelSpec, VisionSpec
from lucida.model.blueprint import skeleton
from lucida.model.checkpoint import build, load, save
from lucida.model.encoders import load_encoder, read_preprocessing
from lucida.model.encoders.encoder import vision_config
from lucida.model.encoders.timm_model import timm_package
from lucida.training.blocks import blocks

try:
    timm = timm_package()
except PartError as problem:
    pytest.skip(str(problem), allow_module_level=True)
torch.set_num_threads(1)

VITS = {
    "cls": ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 16, "num_heads": 2, "img_size": 32}),
    "registers": ("vit_small_patch14_reg4_dinov2",
                  {"depth": 3, "embed_dim": 16, "num_heads": 2, "img_size": 28}),
    "siglip": ("vit_base_patch16_siglip_224",
               {"depth": 3, "embed_dim": 16, "num_heads": 2, "img_size": 32}),
    "rotary": ("eva02_tiny_patch14_224",
               {"depth": 3, "embed_dim": 16, "num_heads": 2, "img_size": 28}),
}  # fmt: skip
STAGES = {
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [4, 6, 8, 10]}),
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10]}),
}
ALL = VITS | STAGES


@lru_cache
def network(name: str) -> torch.nn.Module:
    architecture, arguments = ALL[name]
    torch.manual_seed(4)
    return timm.create_model(architecture, num_classes=0, **arguments).eval()


@lru_cache
def folder(name: str) -> str:
    """A folder as timm's own on the Hub: config.json with what timm says, and weights."""
    architecture, arguments = ALL[name]
    made = ROOT / f"timm-{name}"
    made.mkdir(parents=True)
    side = arguments.get("img_size", 32)
    pixels = {"input_size": [3, side, side], "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7]}
    values = {"architecture": architecture, "num_classes": 0, "model_args": arguments}
    (made / "config.json").write_text(json.dumps(values | {"pretrained_cfg": pixels}))
    weights = {key: value.contiguous() for key, value in network(name).state_dict().items()}
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    return str(made)


def shown(name: str) -> torch.Tensor:
    side = ALL[name][1].get("img_size", 32)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_patches_are_those_that_timm_gives(name, layer):
    encoder = load_encoder(VisionSpec(path=folder(name), feature_layer=layer)).eval()
    expected = network(name).forward_intermediates(
        shown(name), indices=[layer if layer < 0 else layer - 1], output_fmt="NLC",
        intermediates_only=True,
    )[0]  # fmt: skip
    assert torch.equal(encoder(shown(name)), expected)
    assert len(encoder.model.timm_model.blocks) == (1 if layer == 1 else 4 + layer)
    assert "head" not in "".join(name for name, _ in encoder.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", ["cls", "registers", "siglip"])
def test_normed_and_class_token(name):
    everything = network(name).forward_features(shown(name))
    prefix = network(name).num_prefix_tokens
    normed = load_encoder(VisionSpec(path=folder(name), normed=True)).eval()(shown(name))
    assert torch.equal(normed, everything[:, prefix:])
    if prefix:
        spec = VisionSpec(path=folder(name), normed=True, take="cls_patches")
        taken = load_encoder(spec).eval()(shown(name))
        assert torch.equal(taken[:, 0], everything[:, 0])
        assert torch.equal(taken[:, 1:], everything[:, prefix:]), "registers are left out"
    else:
        with pytest.raises(ModelError, match="no class token"):
            load_encoder(VisionSpec(path=folder(name), take="cls"))


@torch.no_grad()
def test_several_layers():
    given = network("cls").forward_intermediates(
        shown("cls"), output_fmt="NLC", intermediates_only=True
    )
    spec = VisionSpec(path=folder("cls"), feature_layer=[-2, 1])
    assert torch.equal(load_encoder(spec)(shown("cls")), torch.cat([given[1], given[0]], dim=-1))


@torch.no_grad()
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("layer", [-1, -2])
def test_maps_of_stages(name, layer):
    encoder = load_encoder(VisionSpec(path=folder(name), feature_layer=layer)).eval()
    expected = network(name).forward_intermediates(shown(name), intermediates_only=True)[layer]
    assert torch.equal(encoder(shown(name)), expected.flatten(2).transpose(1, 2))
    wide = torch.cat([shown(name)] * 2, dim=-1)
    assert encoder.grid(32, 64, encoder(wide).shape[1]) == (
        32 // 2 ** (6 + layer),
        64 // 2 ** (6 + layer),
    )
    with pytest.raises(ModelError, match="final norm"):
        load_encoder(VisionSpec(path=folder(name), normed=True))
    with pytest.raises(ModelError, match="different grids"):
        load_encoder(VisionSpec(path=folder(name), feature_layer=[-1, -2]))


@torch.no_grad()
def test_other_sizes_as_timm_itself_resamples_positions():
    architecture, arguments = VITS["cls"]
    larger = timm.create_model(architecture, num_classes=0, **{**arguments, "img_size": 48}).eval()
    state = timm.models.vision_transformer.checkpoint_filter_fn(network("cls").state_dict(), larger)
    larger.load_state_dict(state)
    pixels = torch.randn(1, 3, 48, 48)
    expected = larger.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True)[-1]
    encoder = load_encoder(VisionSpec(path=folder("cls"))).eval()
    assert (encoder(pixels) - expected).abs().max() < 1e-5
    beyond = torch.nn.functional.pad(pixels, (0, 5, 0, 3))  # less than a patch: not seen
    assert torch.equal(encoder(beyond), encoder(pixels))
    assert encoder.grid(48, 80, encoder(torch.zeros(1, 3, 48, 80)).shape[1]) == (3, 5)


def test_pixels_are_timms_own():
    pixels = read_preprocessing(folder("cls"), vision_config(folder("cls")))
    assert (pixels.size, pixels.mean, pixels.std) == (32, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    for name in ("vit_tiny_patch16_224", "convnext_atto", "resnet18", "vit_base_patch16_clip_224"):
        config = vision_config(f"timm:{name}")
        theirs = timm.data.resolve_data_config(
            pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()
        )
        pixels = read_preprocessing(f"timm:{name}", config)
        assert (3, pixels.size, pixels.size) == tuple(theirs["input_size"])
        assert (pixels.mean, pixels.std) == (tuple(theirs["mean"]), tuple(theirs["std"]))


@pytest.mark.parametrize(
    ("name", "width", "patches", "parameters"),
    [("vit_tiny_patch16_224", 192, 196, 5.1), ("convnext_atto", 320, 49, 3.4),
     ("resnet18", 512, 49, 11.2), ("vit_base_patch16_siglip_384", 768, 576, 80.0)],
)  # fmt: skip
def test_known_by_name_without_weights(name, width, patches, parameters):
    parts = skeleton(ModelSpec.model_validate(
        {"vision": {"path": f"timm:{name}", "feature_layer": -2 if "vit" in name else -1},
         "projector": {"kind": "linear"}, "language": {"path": "lucida:base-mini"}}
    ))  # fmt: skip
    assert (parts.blueprint.patches, parts.blueprint.visual_tokens) == (patches, patches)
    assert next(parts.projector.parameters()).shape[1] == width
    count = sum(weight.numel() for weight in parts.vision.parameters()) / 1e6
    assert count == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize("name", ["cls", "registers", "rotary", "convnext", "resnet"])
def test_a_model_is_saved_and_loaded_again(name, tmp_path):
    design = spec({"path": folder(name), "feature_layer": -2})
    model, processor = build(design)
    save(model, processor, tmp_path / "saved")
    again, other = load(tmp_path / "saved")
    pixels = processor.pixels([picture_source()])
    assert torch.equal(pixels.values, other.pixels([picture_source()]).values)
    with torch.no_grad():
        features, others = model.encode_images(pixels), again.encode_images(pixels)
    assert torch.equal(features.values, others.values)
    assert features.images()[0].shape[1] == model.config.patches
    unused = unused_weights(again.vision, pixels.images()[0])
    assert not unused, "weights that no feature needs would stall data parallelism"


def picture_source():
    from lucida.data.images import file_source

    path = ROOT / "picture.png"
    picture().save(path)
    return file_source(path)


def unused_weights(vision: torch.nn.Module, pixels: torch.Tensor) -> list[str]:
    vision.requires_grad_(True)
    vision(pixels).sum().backward()
    return [name for name, weight in vision.named_parameters() if weight.grad is None]


def test_layers_are_found_for_training_and_recomputing():
    encoder = load_encoder(VisionSpec(path=folder("cls")))
    assert list(blocks(encoder)) == [f"model.timm_model.blocks.{n}" for n in range(3)]
    assert len(blocks(load_encoder(VisionSpec(path=folder("convnext"))))) == 4


def test_missing_weights_are_refused(tmp_path):
    for file in Path(folder("cls")).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {key: value.contiguous() for key, value in network("cls").state_dict().items()}
    del state["blocks.1.mlp.fc1.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*blocks\.1\.mlp\.fc1\.weight"):
        load_encoder(VisionSpec(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("timm:vit_tiny_patch16_22", r"did you mean `timm:vit_tiny_patch16_224`"),
        ("timm:vit_tiny_patch16_224.nosuch", r"expected .*augreg_in21k"),
        ("timm:vit_base_patch16_clip_224.openai", r"timm:vit_base_patch16_clip_quickgelu_224"),
    ],
)
def test_names_that_are_wrong(path, message):
    with pytest.raises(PartError, match=message):
        vision_config(path)


def test_a_size_that_a_fixed_network_cannot_take():
    config = vision_config("timm:beit_base_patch16_224")
    from lucida.model.encoders.encoder import make_encoder, new_model

    with torch.device("meta"):
        encoder = make_encoder(new_model(config), False, "patches")
        assert encoder(torch.zeros(1, 3, 224, 224)).shape == (1, 196, 768)
        with pytest.raises(ModelError, match=r"224 x 224.*160 x 160.*vision.size=224"):
            encoder(torch.zeros(1, 3, 160, 160))


def test_by_name_through_the_cache_of_the_hub(tmp_path, monkeypatch):
    """`timm:NAME` finds the files that the Hub keeps under timm/NAME.TAG; nothing is fetched."""
    from huggingface_hub import constants

    name = "test_vit.r160_in1k"
    there = timm.create_model(name, num_classes=0).eval()
    folder = tmp_path / f"models--timm--{name}" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    refs = folder.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    save_file(there.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    encoder = load_encoder(VisionSpec(path="timm:test_vit")).eval()
    pixels = torch.randn(1, 3, 160, 160)
    expected = there.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True)[-1]
    assert torch.equal(encoder(pixels), expected)
