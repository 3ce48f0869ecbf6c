"""Checkpoints of transformers become equal models; others are refused with both values."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from closeness import close

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))

import tiny
from tiny_designs import make

from lucida.apps.export.read import read
from lucida.core.errors import ModelError
from lucida.model.checkpoint import load
from lucida.model.conversion import llava
from lucida.model.conversion.processors import image_of_processor

ASK = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


@pytest.fixture
def checkpoint(tmp_path):
    def written(*args, **more):
        model, processor = make(*args, **more)
        (tmp_path / "llava").mkdir()
        llava.write_llava(model, processor, tmp_path / "llava")
        return model, tmp_path / "llava"

    return written


@pytest.mark.parametrize(
    ("vision", "language", "template", "image"),
    [
        ("clip", "llama", "phi", {"policy": "letterbox", "pad": "first"}),
        ("siglip", "qwen2", "qa", {"policy": "resize", "resample": "lanczos"}),
        ("clip", "qwen3", "prismatic", {"policy": "crop"}),
    ],
)
def test_there_and_back_again(vision, language, template, image, checkpoint, tmp_path):
    model, folder = checkpoint(vision, language, template, image)
    done = read(folder, tmp_path / "back")
    assert done.agreement.logits <= 1e-5 and done.agreement.prompts >= 4
    again, processor = load(tmp_path / "back")
    kept = again.config.model_spec.image
    assert {name: getattr(kept, name) for name in image} == image
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": tiny.picture()},
                                      {"type": "text", "text": "What?"}]}],
        **ASK,
    )  # fmt: skip
    with torch.no_grad():
        ours, theirs = again(**prompt).logits, model(**prompt).logits
    words = min(ours.shape[-1], theirs.shape[-1])
    close(ours[..., :words], theirs[..., :words])


def test_images_at_the_start_are_recognised(tmp_path):
    model, processor = make(template="mistral")
    processor.image_places = "at_start"
    llava.write_llava(model, processor, tmp_path / "llava")
    done = read(tmp_path / "llava", tmp_path / "back")
    again, reader = load(tmp_path / "back")
    assert (done.template, reader.image_places) == ("mistral", "at_start")
    assert again.config.model_spec.language.images == "at_start"


PADDED = {
    "image_processor_type": "LlavaImageProcessor",
    "do_pad": True,
    "size": {"shortest_edge": 30},
    "do_center_crop": True,
    "crop_size": {"height": 30, "width": 30},
}


def test_a_processor_that_pads():
    """Squares however they are scaled; another class or another size is refused."""
    expected = {"policy": "letterbox", "pad": "first", "size": 30}
    assert image_of_processor(PADDED, "here") == expected
    plain = {"size": {"height": 30, "width": 30}, "do_center_crop": False}
    assert image_of_processor(PADDED | plain, "here") == expected
    with pytest.raises(ModelError, match=r"LlavaImageProcessor's padding.*do_pad of Idefics"):
        image_of_processor(PADDED | {"image_processor_type": "IdeficsImageProcessor"}, "here")
    with pytest.raises(ModelError, match="makes no one square"):
        image_of_processor(PADDED | {"size": {"shortest_edge": 40}}, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vipllava"}, "kind that is not read here"),
        ({"model_type": "llava_next"}, r"1 weights are missing.*image_newline"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
        ({"model_type": "lucida", "auto_map": {}}, "Lucida's own layout already.*chat"),
        ({"projector_hidden_act": "silu"}, "activation"),
    ],
)
def test_others_are_refused(change, message, checkpoint, tmp_path):
    _, folder = checkpoint()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | change))
    (folder / "checksums.json").unlink()
    with pytest.raises(ModelError, match=message):
        read(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_template_is_named(checkpoint, tmp_path):
    _, folder = checkpoint()
    with pytest.raises(ModelError, match="unknown template `vicunia`; did you mean `vicuna`"):
        read(folder, tmp_path / "out", "vicunia")


def test_pickles_are_refused(checkpoint, tmp_path):
    _, folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles of this layout are not read"):
        read(folder, tmp_path / "out")
