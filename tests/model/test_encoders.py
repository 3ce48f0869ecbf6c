"""Features mean what transformers' hidden states mean, for every family in the table."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from tiny import ENCODERS, SIDE, encoder_folder
from transformers import AutoModel, ViTMAEConfig

from lucida.core.errors import ModelError, PartError
from lucida.core.spec import VisionSpec
from lucida.model.encoders import load_encoder, read_preprocessing
from lucida.model.encoders.encoder import cut_into_patches, depth_of, vision_config
from lucida.model.encoders.families import FAMILIES, family_of
from lucida.model.loading import quiet_loading

torch.set_num_threads(1)
PREFIX = {"clip": 1, "clip-dual": 1, "dinov2": 1, "dinov2-registers": 3, "vit": 1, "dinov3": 3}
FLAG = {"siglip", "siglip-dual", "clip", "clip-dual", "vit"}
NORM = {"siglip": "post_layernorm", "siglip-dual": "post_layernorm", "clip": "post_layernorm",
        "clip-dual": "post_layernorm", "siglip2": "post_layernorm", "dinov3": "norm"}  # fmt: skip
CONVOLUTIONAL = {
    "resnet", "convnext", "convnextv2", "dinov3-convnext", "swin", "efficientnet-lite",
}  # fmt: skip


def whole(name: str) -> torch.nn.Module:
    """The encoder as transformers loads it, with all its layers."""
    path = encoder_folder(name)
    with quiet_loading():
        return AutoModel.from_pretrained(path, config=vision_config(path)).eval()


def images(side: int = SIDE) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def states(name: str, shown: torch.Tensor, **options: object) -> tuple[torch.Tensor, ...]:
    """Hidden states of the whole encoder as transformers gives them, maps as rows of places."""
    if name == "siglip2":
        output = whole(name)(**cut_into_patches(shown, 8), output_hidden_states=True)
        return output.hidden_states
    output = whole(name)(shown, output_hidden_states=True, **options)
    if name not in CONVOLUTIONAL:
        return output.hidden_states
    maps = output.reshaped_hidden_states if name == "swin" else output.hidden_states
    return tuple(state.flatten(2).transpose(1, 2) for state in maps)


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_features_are_the_hidden_states_of_their_layer(name, layer):
    shown = images(32 if name in CONVOLUTIONAL else SIDE)
    encoder = load_encoder(VisionSpec(path=encoder_folder(name), feature_layer=layer)).eval()
    expected = states(name, shown)[layer]
    features = encoder(shown)
    assert torch.equal(features, expected[:, PREFIX.get(name, 0) :])
    if name == "swin":  # its stages are taken off, its configuration stays whole
        assert len(encoder.model.encoder.layers) == (layer if layer > 0 else 4 + layer)
        return
    keep = layer if layer > 0 else depth_of(whole(name).config) + 1 + layer
    assert depth_of(encoder.model.config) == keep, "the layers above are not there"


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in CONVOLUTIONAL])
def test_normed_and_class_token(name):
    path = encoder_folder(name)
    shown = cut_into_patches(images(), 8) if name == "siglip2" else {"pixel_values": images()}
    output = whole(name)(**shown, output_hidden_states=True)
    norm = getattr(whole(name), NORM.get(name, "layernorm"))
    expected = norm(output.hidden_states[-1])
    if "clip" not in name:  # CLIP norms its pooled token only
        assert torch.equal(expected, output.last_hidden_state)
    prefix = PREFIX.get(name, 0)
    features = load_encoder(VisionSpec(path=path, normed=True)).eval()(images())
    assert torch.equal(features, expected[:, prefix:])
    if prefix:
        spec = VisionSpec(path=path, normed=True, take="cls_patches")
        features = load_encoder(spec).eval()(images())
        assert torch.equal(features[:, 0], expected[:, 0])
        assert torch.equal(features[:, 1:], expected[:, prefix:])
        spec = VisionSpec(path=path, normed=True, take="cls")
        assert torch.equal(load_encoder(spec).eval()(images()), expected[:, :1])
    else:
        with pytest.raises(ModelError, match="class token"):
            load_encoder(VisionSpec(path=path, take="cls"))
        with pytest.raises(ModelError, match="class token"):
            load_encoder(VisionSpec(path=path, take="cls_patches"))


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_another_resolution(name):
    side = 32 if name == "swin" else 2 * SIDE
    for width in (side, side + 16):
        shown = torch.randn(2, 3, side, width, generator=torch.Generator().manual_seed(0))
        options = {"interpolate_pos_encoding": True} if name in FLAG else {}
        expected = states(name, shown, **options)[-1]
        encoder = load_encoder(VisionSpec(path=encoder_folder(name))).eval()
        features = encoder(shown)
        assert torch.equal(features, expected[:, PREFIX.get(name, 0) :])
        if name not in CONVOLUTIONAL:
            assert features.shape[1] == side * width // 64
            assert encoder.grid(side, width, features.shape[1]) == (side // 8, width // 8)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in CONVOLUTIONAL])
@pytest.mark.parametrize("layers", [[-1, -3], [1, 2], [2, -1]])
def test_several_layers_stand_side_by_side(name, layers):
    prefix = PREFIX.get(name, 0)
    expected = [states(name, images())[layer][:, prefix:] for layer in layers]
    spec = VisionSpec(path=encoder_folder(name), feature_layer=layers)
    encoder = load_encoder(spec).eval()
    assert torch.equal(encoder(images()), torch.cat(expected, dim=-1))
    deepest = max(layer if layer > 0 else 4 + layer for layer in layers)
    assert depth_of(encoder.model.config) == deepest
    mean = load_encoder(spec.model_copy(update={"take": "mean"})).eval()(images())
    assert torch.equal(mean, torch.cat(expected, dim=-1).mean(1, keepdim=True))


def test_layers_that_cannot_be_joined():
    with pytest.raises(ModelError, match="different grids"):
        load_encoder(VisionSpec(path=encoder_folder("resnet"), feature_layer=[-1, -2]))
    with pytest.raises(ModelError, match="named twice"):
        load_encoder(VisionSpec(path=encoder_folder("vit"), feature_layer=[-1, 3]))
    with pytest.raises(ValueError, match="each of them once"):
        VisionSpec(path="x", feature_layer=[])
    with pytest.raises(ModelError, match="last stage only"):
        load_encoder(VisionSpec(path=encoder_folder("swin"), feature_layer=-2, normed=True))


@torch.no_grad()
def test_swin_normed_is_its_last_hidden_state():
    shown = images(32)
    features = load_encoder(VisionSpec(path=encoder_folder("swin"), normed=True)).eval()(shown)
    assert torch.equal(features, whole("swin")(shown).last_hidden_state)


@torch.no_grad()
def test_clip_is_quick_gelu_as_its_checkpoint_says():
    config = vision_config(encoder_folder("clip"))
    assert config.hidden_act == "quick_gelu"
    encoder = load_encoder(VisionSpec(path=encoder_folder("clip")))
    assert "Quick" in type(encoder.model.encoder.layers[0].mlp.activation_fn).__name__


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, r"not installed.*lucida\[timm\]"),
        ("import torchvision_for_another_torch", "torchvision for torch"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision for torch"),
    ],
    ids=["no timm", "no torchvision", "another torchvision"],
)
def test_what_timm_lacks_is_named(code, message, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    if code is None:
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        (tmp_path / "timm.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PartError, match=f"(?s){message}"):
        load_encoder(VisionSpec(path="timm:vit_base_patch16_224"))
    assert sys.modules.get("timm") is None


def test_unused_pooling_heads_are_left_out():
    names = {
        name for name, _ in load_encoder(VisionSpec(path=encoder_folder("siglip"))).named_modules()
    }
    assert not any("head" in name for name in names)
    assert load_encoder(VisionSpec(path=encoder_folder("vit"))).model.pooler is None


def test_layers_that_do_not_exist():
    for layer in (0, 4, -4):
        with pytest.raises(ModelError, match="feature layer does not exist"):
            load_encoder(VisionSpec(path=encoder_folder("siglip"), feature_layer=layer))
    with pytest.raises(ModelError, match="no final norm"):
        load_encoder(VisionSpec(path=encoder_folder("resnet"), normed=True))


def test_unknown_family_names_the_nearest():
    with pytest.raises(ModelError, match="did you mean `vit`"):
        family_of(ViTMAEConfig())
    assert set(FAMILIES) >= {"siglip_vision_model", "clip_vision_model", "dinov2", "resnet"}


def test_preprocessing_is_read_and_never_guessed(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder("siglip"), folder)
    config = vision_config(str(folder))
    found = read_preprocessing(str(folder), config)
    assert (found.size, found.mean, found.std) == (SIDE, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"size": {"shortest_edge": 20}, "crop_size": 12}))
    assert read_preprocessing(str(folder), config).size == 12
    del values["size"]
    file.write_text(json.dumps(values))
    assert read_preprocessing(str(folder), config).size == SIDE  # the encoder's own
    values["image_std"] = None
    file.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="image_std"):
        read_preprocessing(str(folder), config)
    file.unlink()
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        read_preprocessing(str(folder), config)


def test_missing_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder("siglip"), folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("fc1.weight"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are missing"):
        load_encoder(VisionSpec(path=str(folder)))
