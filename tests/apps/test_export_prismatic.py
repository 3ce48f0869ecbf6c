"""Checkpoints in Prismatic's layout become models that compute what its code computes."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))

import tiny
from plain_prismatic import checkpoint

from lucida.apps import cli
from lucida.apps.export.read import read
from lucida.core.errors import ModelError
from lucida.model.checkpoint import build, load

FILE = Path("checkpoints") / "latest-checkpoint.pt"


ASK = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


def language(name: str = "llama") -> str:
    return tiny.language_folder(name, False)


def taken(original, out: Path, **more: object):
    options = {"allow_pickle": True, "vision": original.encoders, "language": original.language}
    return read(original.folder, out, **(options | more))


DESIGNS = {
    "fused, all trained": {"vision_id": "dinosiglip-vit-so-384px", "size": 384, "patch": 94},
    "fused, encoders from their folders": {"trained": False, "as_yaml": True},
    "dino and clip, mistral": {
        "vision_id": "dinoclip-vit-l-336px",
        "kinds": ("dino", "clip"),
        "size": 336,
        "patch": 84,
        "llm_id": "mistral-v0.1-7b-pure",
    },
    "clip, two layers": {
        "vision_id": "clip-vit-l-336px",
        "kinds": ("clip",),
        "arch": "gelu-mlp",
        "size": 336,
        "patch": 84,
        "policy": "letterbox",
        "llm_id": "vicuna-v15-7b",
    },
    "siglip, one matrix": {
        "vision_id": "siglip-vit-b16-224px",
        "kinds": ("siglip",),
        "arch": "linear",
        "trained": False,
        "llm_id": "phi-2-3b",
    },
    "imagenet": {"vision_id": "in1k-vit-l", "kinds": ("in1k",), "arch": "no-align+gelu-mlp",
                 "llm_id": "llama2-7b-chat", "policy": "letterbox"},
}  # fmt: skip

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
LLAMA2 = (
    "<<SYS>\nYou are a helpful language and vision assistant. You are able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using "
    "natural language.\n<</SYS>>\n\n"
)
PROMPTS = {
    "vicuna-v15-7b": VICUNA + "USER: What colour? ASSISTANT:",
    "llama2-7b-chat": f"[INST] {LLAMA2}What colour? [/INST]",
    "mistral-v0.1-7b-instruct": "[INST] What colour? [/INST]",
    "phi-2-3b": "Input: What colour?\nOutput:",
}
"""What stands behind the start token and the image; the others are Prismatic's for base models."""


SLOW = ("dino and clip, mistral", "imagenet")


@pytest.mark.parametrize(
    "design",
    [
        pytest.param(design, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, design in DESIGNS.items()
    ],
)
@torch.no_grad()
def test_logits_are_those_of_its_own_forward(design, tmp_path):
    name = "mistral" if "mistral" in design.get("llm_id", "") else "llama"
    original = checkpoint(tmp_path, language(name), **design)
    done = taken(original, tmp_path / "out")
    assert done.agreement.logits <= 1e-5
    model, processor = load(tmp_path / "out")
    picture = tiny.picture(4, 51, 32)
    prompt = PROMPTS.get(design.get("llm_id"), "In: What colour?\nOut:")
    ids, expected = original.logits(picture, prompt)
    given = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": picture},
                                      {"type": "text", "text": "What colour?"}]}],
        **ASK,
    )  # fmt: skip
    places = given["input_ids"][0] == processor.image_token_id
    assert given["input_ids"][0][~places].tolist() == ids, "its prompt, its tokens"
    assert places.tolist() == [False] + [True] * int(places.sum()) + [False] * (len(ids) - 1)
    logits = model(**given).logits[0, :, : expected.shape[-1]]
    assert expected.shape[-1] == 320, "padded to a multiple of 64"
    assert float((logits - expected).abs().max()) <= 1e-5
    build(model.config.model_spec)  # a recipe can train on from the parts


@pytest.mark.slow
def test_the_test_sees_a_wrong_weight(tmp_path):
    original = checkpoint(tmp_path, language())
    file = original.folder / FILE
    found = torch.load(file, weights_only=True)
    found["model"]["vision_backbone"]["siglip_featurizer.blocks.1.mlp.fc1.bias"] += 0.1
    torch.save(found, file)
    taken(original, tmp_path / "out")
    model, processor = load(tmp_path / "out")
    picture = tiny.picture(4, 50, 32)
    prompt = [{"role": "user", "content": [{"type": "image", "image": picture},
                                           {"type": "text", "text": "What?"}]}]  # fmt: skip
    with torch.no_grad():
        logits = model(**processor.apply_chat_template(prompt, **ASK)).logits[0]
    expected = original.logits(picture, "In: What?\nOut:")[1]
    assert float((logits[:, :320] - expected).abs().max()) > 1e-4


def test_what_differs_is_told(tmp_path):
    original = checkpoint(tmp_path, language(), llm_id="vicuna-v15-7b", policy="letterbox")
    done = taken(original, tmp_path / "out")
    told = " ".join(done.notes)
    assert done.template == "vicuna"
    assert "loader ignores" in told
    assert "prompts of vicuna" not in told
    done = taken(original, tmp_path / "other", template="qa")
    assert done.template == "qa" and "prompts of vicuna" in " ".join(done.notes)


def spoilt_file(original, change) -> None:
    file = original.folder / FILE
    found = torch.load(file, weights_only=True)
    change(found["model"])
    torch.save(found, file)


def spoilt_config(original, **values: object) -> None:
    file = original.folder / "config.json"
    given = json.loads(file.read_text())
    given["model"] |= values
    file.write_text(json.dumps(given))


def smaller_vocabulary(model: dict) -> None:
    for name in ("model.embed_tokens", "lm_head"):
        name = f"llm.{name}.weight"
        model["llm_backbone"][name] = model["llm_backbone"][name][:256].clone()


def narrower_projector(model: dict) -> None:
    model["projector"]["projector.0.weight"] = model["projector"]["projector.0.weight"][:, :16]


def of_another_depth(model: dict) -> None:
    del model["llm_backbone"]["llm.model.layers.1.mlp.up_proj.weight"]


FILES = {
    "no projector": (lambda m: m.pop("projector"), r"holds no projector"),
    "no language model": (lambda m: m.pop("llm_backbone"), r"no llm_backbone.*finetune stage"),
    "an empty projector": (lambda m: m["projector"].clear(), r"holds no projector"),
    "another projector": (
        lambda m: [m["projector"].pop(f"projector.4.{kind}") for kind in ("weight", "bias")],
        r"not those of the kind",
    ),
    "a narrower projector": (narrower_projector, r"projector does not fit"),
    "another vocabulary": (smaller_vocabulary, r"vocabulary.*expected 260 to 320.*got 256 rows"),
    "a layer less": (of_another_depth, r"language model lacks 1 weights: .*up_proj"),
    "another encoder": (
        lambda m: m["vision_backbone"].update({"sam_featurizer.x": torch.ones(1)}),
        r"other vision encoders.*sam_featurizer",
    ),
    "another grid": (
        lambda m: m["vision_backbone"].update({"dino_featurizer.pos_embed": torch.ones(1, 25, 16)}),
        r"another grid.*expected 17 places.*got 25",
    ),
    "a strange weight": (
        lambda m: m["vision_backbone"].update({"dino_featurizer.blocks.0.lora": torch.ones(1)}),
        r"has no place for 1 weights: blocks.0.lora",
    ),
    "no tensor": (
        lambda m: m["projector"].update({"projector.0.bias": 3}),
        r"no weights.*projector.0.bias: int",
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One checkpoint for many tests; each spoils a copy of a file and puts it back."""
    original = checkpoint(tmp_path_factory.mktemp("prismatic"), language())
    files = [original.folder / FILE, original.folder / "config.json"]
    kept = {file: file.read_bytes() for file in files}

    def restored():
        for file, content in kept.items():
            file.write_bytes(content)
        return original

    return restored


def refused(original, tmp_path, message, **more):
    with pytest.raises(ModelError, match=message):
        taken(original, tmp_path / "out", **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", FILES.values(), ids=FILES)
def test_what_the_file_lacks_is_named(case, plain, tmp_path):
    original = plain()
    spoilt_file(original, case[0])
    refused(original, tmp_path, "(?s)" + case[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arch_specifier": "no-align+fused-gelu-mpl"}, "did you mean `fused-gelu-mlp`"),
        ({"vision_backbone_id": "sam-vit-h"}, "vision_backbone_id is not known.*sam-vit-h"),
        ({"llm_backbone_id": "bloom"}, "llm_backbone_id is not known"),
        ({"image_resize_strategy": "corner-pad"}, "image_resize_strategy is not known"),
        ({"vision_backbone_id": "dinov2-vit-l"}, "expected 1 of --vision"),
        ({"arch_specifier": "gelu-mlp"}, "not those of the kind"),
    ],
)
def test_configurations_that_are_not_known(values, message, plain, tmp_path):
    original = plain()
    spoilt_config(original, **values)
    refused(original, tmp_path, message)


def test_a_pickle_needs_consent(plain, tmp_path, capsys):
    original = plain()
    refused(original, tmp_path, "pickles are not read unless you say so.*--allow-pickle",
            allow_pickle=False)  # fmt: skip
    arguments = ["import", str(original.folder), str(tmp_path / "out")]
    for path in original.encoders:
        arguments += ["--vision", path]
    arguments += ["--language", original.language]
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 1 and "--allow-pickle" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--allow-pickle"])
    assert not caught.value.code and "template prismatic" in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /nonexistent/evil",)


def test_code_in_a_pickle_is_never_run(plain, tmp_path):
    original = plain()
    torch.save({"model": Evil()}, original.folder / FILE)
    refused(original, tmp_path, r"asks for code to be run.*posix\.system")
    (original.folder / FILE).write_bytes(pickle.dumps({"model": Evil()}))
    refused(original, tmp_path, r"asks for code to be run|damaged")


@pytest.mark.parametrize("kept", [0, 1, 100, -1000])
def test_a_file_that_was_cut_off(kept, plain, tmp_path):
    original = plain()
    file = original.folder / FILE
    file.write_bytes(file.read_bytes()[:kept])
    refused(original, tmp_path, "damaged or cut off")


def test_files_that_hold_something_else(plain, tmp_path):
    original = plain()
    torch.save([1, 2], original.folder / FILE)
    refused(original, tmp_path, "no weights by name.*list")
    torch.save({"state_dict": {}}, original.folder / FILE)
    refused(original, tmp_path, "weights under `model`.*got state_dict")
    (original.folder / FILE).unlink()
    refused(original, tmp_path, "file of weights is missing")


def test_parts_that_cannot_be_had(plain, tmp_path):
    original = plain()
    refused(original, tmp_path, "cannot be had.*--vision",
            vision=[str(tmp_path / "nothing"), original.encoders[1]])  # fmt: skip
    refused(original, tmp_path, "cannot be had.*--language", language=str(tmp_path / "nothing"))
    refused(original, tmp_path, "expected 2 of --vision", vision=original.encoders[:1])
    other = tiny.encoder_folder("resnet")
    refused(original, tmp_path, "timm.*resnet", vision=[other, original.encoders[1]])
