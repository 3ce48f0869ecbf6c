"""Tiny models that llama.cpp can run, their answers, and those of a real llama.cpp."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import tiny
import torch
from gguf_bits import widen
from PIL import Image
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPVisionConfig,
    SiglipVisionConfig,
)

from lucida.core.spec import ModelSpec
from lucida.model.checkpoint import build
from lucida.model.parts import part_path

SIDE = 32
QUESTION = "What colour is the star?"


ENCODERS = {"siglip": SiglipVisionConfig, "clip": CLIPVisionConfig}


@lru_cache
def encoder(kind: str = "siglip", width: int = 32) -> str:
    """A random encoder as wide as llama.cpp's blocks."""
    torch.manual_seed(5)
    folder = tiny.ROOT / f"{kind}-gguf-{width}"
    shape = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 3}
    config = ENCODERS[kind](**shape, num_attention_heads=2, image_size=SIDE, patch_size=8)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return str(folder)


@lru_cache
def wide_language() -> str:
    """`base-mini` with rows of 256, by channels of zeros."""
    folder = tiny.ROOT / "wide-gguf"
    widen().save_pretrained(folder)
    AutoTokenizer.from_pretrained(part_path("lucida:base-mini")).save_pretrained(folder)
    return str(folder)


def built(
    language="base-mini",
    template="qa",
    layer=-2,
    projector=None,
    kind="siglip",
    normed=False,
    width=32,
    **more,
):
    """A model of that encoder and a language model that ships."""
    torch.manual_seed(6)
    path = encoder(kind, width)
    spec = {
        "vision": {"path": path, "feature_layer": layer, "normed": normed},
        "language": {
            "path": wide_language() if language == "wide" else f"lucida:{language}",
            "template": template,
        },
        "projector": projector or {"kind": "mlp"},
        "image": {"policy": "resize"},
    }
    model, processor = build(ModelSpec.model_validate(spec | more))
    with torch.no_grad():
        for weight in model.projector.parameters():
            weight.mul_(3)  # so that answers depend on the picture
    return model.float().eval(), processor


def pictures() -> list[Image.Image]:
    """Noise at the encoder's size, which llama.cpp does not scale."""
    return [tiny.picture(seed, SIDE, SIDE) for seed in range(3)]


def conversation(image: object) -> list[dict]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


@torch.no_grad()
def answers(model, processor) -> list[tuple[str, dict[str, float]]]:
    """Greedy answers, and log-probabilities of the likeliest first tokens."""
    found = []
    for picture in pictures():
        given = processor.apply_chat_template(
            conversation(picture), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = model.generate(**given, max_new_tokens=8, do_sample=False)[0]
        text = processor.tokenizer.decode(
            ids[given["input_ids"].shape[1] :], skip_special_tokens=True
        )
        likely = torch.log_softmax(model(**given).logits[0, -1], dim=-1).topk(3)
        names = map(processor.tokenizer.decode, likely.indices.tolist())
        found.append((text, dict(zip(names, likely.values.tolist(), strict=True))))
    return found


ASK = """
import json, sys
import xllamacpp

language, vision, asked, tokens = sys.argv[1:]
given = xllamacpp.CommonParams()
given.model.path, given.mmproj.path = language, vision
given.image_min_tokens = given.image_max_tokens = int(tokens)
given.warmup, given.n_ctx, given.n_gpu_layers, given.use_jinja = False, 512, 0, True
given.cpuparams.n_threads = given.n_parallel = 1
server = xllamacpp.Server(given)
found = []
for request in json.loads(asked):
    try:
        found.append(server.handle_chat_completions(request))
    except ValueError as refused:
        found.append({"refused": str(refused)})
print(json.dumps(found))
"""


def request(picture: Image.Image, *more: Image.Image, words: str = "") -> dict:
    """A question about a picture, or several, as OpenAI's clients ask it; words: in front."""
    content = [{"type": "text", "text": words}] if words else []
    for each in (picture, *more):
        kept = io.BytesIO()
        each.save(kept, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": address}})
    content.append({"type": "text", "text": QUESTION})
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 8,
            "temperature": 0, "logprobs": True, "top_logprobs": 8}  # fmt: skip


def ask_llama(folder: Path, requests: list[dict], tokens: int = -1) -> list[dict]:
    """What a real llama.cpp answers, in a process of its own, as it ends the process on a fault.
    tokens: of a picture, for the forms that choose."""
    pytest.importorskip("xllamacpp")
    files = [str(next(folder.glob(f"{name}-*.gguf"))) for name in ("model", "mmproj")]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *files, json.dumps(requests), str(tokens)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def llama_answers(folder: Path, tokens: int = -1) -> list[tuple[str, dict[str, float]]]:
    """The same as `answers`, of a real llama.cpp."""
    found = []
    for told in ask_llama(folder, [request(picture) for picture in pictures()], tokens):
        (choice,) = told["choices"]
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        likely = {each["token"]: each["logprob"] for each in first}
        found.append((choice["message"]["content"], likely))
    return found


def check_equal(folder: Path, model, processor, allowed: float = 0.03) -> None:
    """Greedy answers equal word by word, log-probabilities of the first token to `allowed`."""
    ours = answers(model, processor)
    assert len({tuple(likely.values()) for _, likely in ours}) == 3, "the picture matters"
    ends = ("<eos>", "<|im_end|>")  # named by nothing there
    for (text, likely), (theirs, there) in zip(
        ours, llama_answers(folder, processor.visual_tokens), strict=True
    ):
        assert theirs == text
        known = {name: value for name, value in likely.items() if name not in ends}
        assert all(
            abs(there[name] - value) < allowed for name, value in known.items() if name in there
        )
        assert known.keys() & there.keys(), (known, there)
