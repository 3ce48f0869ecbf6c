"""Designs with an overview and tiles are LlavaNexts, both ways, and say so beforehand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))

import tiny
from tiny_designs import make

from lucida.apps.export.read import read
from lucida.apps.export.write import check, export
from lucida.core.errors import ModelError
from lucida.data.sample import Views
from lucida.model.checkpoint import load, save
from lucida.model.conversion import llava
from lucida.model.conversion.fits import llava_next_obstacles, vllm_obstacles
from lucida.model.encoders.encoder import vision_config

TILES = {"policy": "anyres", "grids": [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]}


ASK = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


def tiled(vision="clip", language="llama", template="qa", image=TILES, **more):
    model, processor = make(vision, language, template, image=image, **more)
    processor.max_length = 600
    return model, processor


@pytest.mark.parametrize(
    ("vision", "language", "image"),
    [("clip", "llama", TILES), ("siglip", "qwen2", {"policy": "anyres", "max_tiles": 6})],
)
def test_tokens_pixels_and_logits_are_equal(vision, language, image, tmp_path):
    model, processor = tiled(vision, language, image=image)
    llava.write_llava(model, processor, tmp_path)
    found = check(model, processor, "llava-next", tmp_path)
    assert found.logits <= 1e-5 and found.pixels <= 1e-5
    assert found.prompts == 6 and found.images > 6
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == ["LlavaNextForConditionalGeneration"]


def test_there_and_back_again(tmp_path):
    model, processor = tiled()
    save(model, processor, tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "next")
    assert done.format == "llava-next" and not done.obstacles
    back = read(tmp_path / "next", tmp_path / "back")
    assert back.template == "qa" and back.agreement.logits <= 1e-5
    again, reader = load(tmp_path / "back")
    prompt = [{"role": "user", "content": [{"type": "image", "image": tiny.picture(2, 70, 20)},
                                           {"type": "text", "text": "What?"}]}]  # fmt: skip
    given, same = (each.apply_chat_template(prompt, **ASK) for each in (processor, reader))
    assert torch.equal(given["input_ids"], same["input_ids"])
    with torch.no_grad():
        ours, theirs = model(**given).logits, again(**same).logits
    assert float((ours - theirs[..., : ours.shape[-1]]).abs().max()) <= 1e-5

    folder, out = tmp_path / "next", tmp_path / "out"
    (folder / "checksums.json").unlink()
    for file, change, message in (
        ("processor_config.json", {"image_grid_pinpoints": [[16, 32]]}, "different grids"),
        ("processor_config.json", {"size": {"shortest_edge": 24}}, "no squares of the encoder"),
        ("processor_config.json", {"resample": 2}, "resampling"),
        ("config.json", {"image_grid_pinpoints": [[16, 40]]}, "different grids"),
    ):
        kept = (folder / file).read_text()
        values = json.loads(kept)
        values.get("image_processor", values).update(change)
        (folder / file).write_text(json.dumps(values))
        with pytest.raises(ModelError, match=message):
            read(folder, out)
        (folder / file).write_text(kept)
    with pytest.raises(ModelError, match="holds all of its parts"):
        read(folder, out, language="x")
    assert not out.exists()


def test_a_spoilt_newline_is_seen(tmp_path, monkeypatch):
    model, processor = tiled()
    save(model, processor, tmp_path / "run")
    written = llava.to_llava

    def spoilt(model):
        other = written(model)
        other.model.image_newline = torch.nn.Parameter(other.model.image_newline + 1)
        return other

    monkeypatch.setattr(llava, "to_llava", spoilt)
    with pytest.raises(ModelError, match="logits differ"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_reasons_are_named_beforehand():
    clip = vision_config(tiny.encoder_folder("clip"))

    def reasons(image: dict, **more: object) -> str:
        spec = tiny.spec({"path": tiny.encoder_folder("clip")}, image=image, **more)
        return " ".join(llava_next_obstacles(spec, clip, None, spec.image.size))

    plain = {"kind": "mlp"}
    assert reasons(TILES, projector=plain) == ""
    assert "LlavaNext's is anyres" in reasons({"policy": "resize"}, projector=plain)
    assert "32 pixels" in reasons({**TILES, "size": 32}, projector=plain)
    assert "attention_mask" in reasons(TILES, projector=plain, mask="image_block")
    assert "depth is 3" in reasons(TILES, projector={"kind": "mlp", "depth": 3})


def test_plan_says_so():
    from types import SimpleNamespace

    from lucida.apps.plan.estimate import exports

    def planned(image: dict, mask: str = "causal") -> dict:
        model, _ = tiled(image=image, mask=mask)
        return exports(SimpleNamespace(model=model.config.model_spec), model)

    tiles = planned(TILES)
    assert tiles["formats"] == ["llava-next", "remote-code"] and not tiles["no_llava_because"]
    assert not tiles["no_vllm_because"]["llava-next"]
    assert "several views" in " ".join(tiles["no_vllm_because"]["remote-code"])
    assert planned({"policy": "resize"})["formats"] == ["llava", "remote-code"]
    refused = planned(TILES, "image_block")
    assert refused["formats"] == ["remote-code"] and len(refused["no_llava_because"]) == 1


def test_views_of_every_kind_go_with_their_own_code(tmp_path):
    """Tiles that have names, and two encoders: pixels come back as views and are compared."""
    model, processor = tiled(image={"policy": "split"})
    save(model, processor, tmp_path / "split")
    more = [{"path": tiny.encoder_folder("clip"), "feature_layer": -2}]
    eyes = {"path": tiny.encoder_folder("dinov2-registers"), "feature_layer": -2, "more": more}
    text = {"path": tiny.language_folder("llama"), "max_length": 300}
    fused = tiny.tiny_model(eyes, text, image={"policy": "resize"}, projector={"kind": "fused_mlp"})
    save(*fused, tmp_path / "fused")
    for run in ("split", "fused"):
        done = export(tmp_path / run, tmp_path / f"{run}-out")
        assert done.format == "remote-code" and done.agreement.logits <= 1e-5
        assert isinstance(processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "image": tiny.picture()}]}], **ASK
        )["pixel_values"], Views)  # fmt: skip


def test_what_vllm_runs():
    def reasons(kind: str, projector: dict, format: str = "llava", layer: object = -2) -> str:
        vision = {"path": tiny.encoder_folder(kind), "feature_layer": layer}
        spec = tiny.spec(vision, image={"policy": "resize"}, projector=projector)
        return " ".join(vllm_obstacles(spec, format, vision_config(vision["path"])))

    mlp = {"kind": "mlp"}
    assert reasons("clip", mlp) == reasons("siglip", mlp, "llava-next") == ""
    assert "dinov2 encoders" in reasons("dinov2", mlp)
    assert "one matrix" in reasons("clip", {"kind": "linear"})
    assert "several layers" in reasons("clip", mlp, layer=[-1, -2])
    assert "none of its formats" in reasons("clip", mlp, "gguf")
    assert reasons("dinov2", {"kind": "perceiver", "heads": 2}, "remote-code") == ""
    masked = tiny.spec({"path": tiny.encoder_folder("clip")}, attention_mask="image_block")
    (why,) = vllm_obstacles(masked, "remote-code", None)
    assert "attention_mask is image_block" in why
