"""Files for llama.cpp: a real one answers as the model does; what it cannot run is refused."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, SiglipVisionConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))

import tiny
from tiny_designs import make

from lucida.apps import cli
from lucida.apps.export.write import export
from lucida.core.errors import ModelError, PartError
from lucida.core.spec import ModelSpec
from lucida.data.jinja import chat_jinja
from lucida.model.checkpoint import build, save
from lucida.model.conversion import gguf

pytest.importorskip("gguf")
SIDE = 32
QUESTION = "What colour is the star?"


@lru_cache
def siglip() -> str:
    """A random SigLIP as wide as llama.cpp's blocks."""
    torch.manual_seed(5)
    folder = tiny.ROOT / "siglip-gguf"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    config = SiglipVisionConfig(**shape, num_attention_heads=2, image_size=SIDE, patch_size=8)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return str(folder)


def built(language="base-mini", template="qa", layer=-2, projector=None, **more):
    """A model of that encoder and a language model that ships."""
    torch.manual_seed(6)
    spec = {
        "vision": {"path": siglip(), "feature_layer": layer},
        "language": {"path": f"lucida:{language}", "template": template},
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

language, vision, asked = sys.argv[1:]
given = xllamacpp.CommonParams()
given.model.path, given.mmproj.path = language, vision
given.warmup, given.n_ctx, given.n_gpu_layers, given.use_jinja = False, 512, 0, True
given.cpuparams.n_threads = given.n_parallel = 1
server = xllamacpp.Server(given)
found = []
for request in json.loads(asked):
    choice = server.handle_chat_completions(request)["choices"][0]
    first = choice["logprobs"]["content"][0]["top_logprobs"]
    likely = {each["token"]: each["logprob"] for each in first}
    found.append((choice["message"]["content"], likely))
print(json.dumps(found))
"""


def llama_answers(folder: Path) -> list[tuple[str, dict[str, float]]]:
    """The same of a real llama.cpp, in a process of its own, as it ends the process on a fault."""
    pytest.importorskip("xllamacpp")
    requests = []
    for picture in pictures():
        kept = io.BytesIO()
        picture.save(kept, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}},
                   {"type": "text", "text": QUESTION}]  # fmt: skip
        requests.append({"messages": [{"role": "user", "content": content}], "max_tokens": 8,
                         "temperature": 0, "logprobs": True, "top_logprobs": 8})  # fmt: skip
    files = [str(next(folder.glob(f"{name}-*.gguf"))) for name in ("model", "mmproj")]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *files, json.dumps(requests)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"language": "chat-mini", "template": "chatml"},
        {"template": "vicuna", "projector": {"kind": "linear"}},
        {"projector": {"kind": "mlp", "hidden": 48}, "layer": [-1, -3]},
    ],
    ids=["mlp", "chatml", "one matrix", "two layers"],
)
def test_llama_cpp_answers_as_the_model_does(design, tmp_path):
    model, processor = built(**design)
    gguf.write_gguf(model, processor, tmp_path, "f32")
    ours = answers(model, processor)
    assert len({tuple(likely.values()) for _, likely in ours}) == 3, "the picture matters"
    ends = ("<eos>", "<|im_end|>")  # named by nothing there
    for (text, likely), (theirs, there) in zip(ours, llama_answers(tmp_path), strict=True):
        assert theirs == text
        known = {name: value for name, value in likely.items() if name not in ends}
        assert all(
            abs(there[name] - value) < 0.03 for name, value in known.items() if name in there
        )
        assert known.keys() & there.keys(), (known, there)


def test_end_tokens_that_the_file_cannot_name_are_told():
    model, processor = built()
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, 3, 4]
    (told,) = [note for note in gguf.gguf_notes(model, processor) if "end tokens" in note]
    assert processor.tokenizer.convert_ids_to_tokens(4) in told


@pytest.mark.parametrize(("kind", "allowed"), [("f16", 0.03), ("q8_0", 0.15), ("q4_0", 1.5)])
def test_fewer_bits_are_close(kind, allowed, tmp_path):
    model, processor = built()
    gguf.write_gguf(model, processor, tmp_path, kind)
    for (_, likely), (_, there) in zip(
        answers(model, processor), llama_answers(tmp_path), strict=True
    ):
        apart = [abs(there[name] - value) for name, value in likely.items() if name in there]
        assert apart and max(apart) < allowed


def test_fewer_bits_are_fewer_bytes(tmp_path):
    model, processor = built()
    sizes = []
    for kind in ("f32", "f16", "q8_0", "q4_0"):
        (tmp_path / kind).mkdir()
        language, vision = gguf.write_gguf(model, processor, tmp_path / kind, kind)
        sizes.append(language.stat().st_size)
        assert vision.name == ("mmproj-f32.gguf" if kind == "f32" else "mmproj-f16.gguf")
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 4 * sizes[-1]


@pytest.mark.parametrize("images", ["in_place", "at_start"])
@pytest.mark.parametrize("template", ["qa", "vicuna", "llama2", "chatml", "plain"])
def test_marks_in_the_text_stand_where_images_do(template, images):
    """The template of a file, given text with llama.cpp's marks, against Llava's, given parts."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _, processor = built("chat-mini")
    arguments = (template, processor.tokenizer, "<image>", images)
    plain, marked = chat_jinja(*arguments), chat_jinja(*arguments, media_marker=True)
    mark = "<__media_3f9a__>"

    def written(jinja: str, messages: list[dict]) -> str:
        tokens = {"bos_token": "<bos>", "eos_token": "<eos>"}
        options = {"add_generation_prompt": True, **tokens}
        texts, _ = render_jinja_template([messages], chat_template=jinja, **options)
        return texts[0]

    image, words = {"type": "image"}, lambda text: {"type": "text", "text": text}
    for parts in ([image, words("What? a__>b")], [words("First "), image, words(" and "), image]):
        joined = "".join(part.get("text", mark) for part in parts)
        expected = written(plain, [{"role": "user", "content": parts}])
        given = written(marked, [{"role": "user", "content": joined}])
        assert given.replace(mark, "<image>") == expected


def test_every_reason_is_named(tmp_path):
    projector = {"kind": "mlp", "norm": True, "depth": 3}
    save(*make("clip", "phi", mask="image_block", projector=projector), tmp_path / "run")
    with pytest.raises(ModelError) as caught:
        export(tmp_path / "run", tmp_path / "out", "gguf")
    for word in ("llama.cpp", "attention_mask", "norm", "depth is 3", "class token", "type phi"):
        assert word in str(caught.value), word
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="only the format gguf"):
        export(tmp_path / "run", tmp_path / "out", "llava", "q8_0")


def test_the_verb_says_how_it_is_run(tmp_path, capsys):
    save(*built(), tmp_path / "run")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(tmp_path / "run"), str(out), "--format", "gguf",
                  "--quantize", "q8_0"])  # fmt: skip
    printed = capsys.readouterr()
    assert not caught.value.code, printed.err
    assert f"llama-server -m {out}/model-q8_0.gguf --mmproj {out}/mmproj-f16.gguf" in printed.out
    assert "note: llama.cpp scales pictures" in printed.err


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(PartError, match=r"pip install 'lucida\[gguf\]'"):
        gguf.gguf_package()


def test_a_file_that_is_not_what_was_meant(tmp_path):
    model, processor = built()
    language, _ = gguf.write_gguf(model, processor, tmp_path, "f32")
    package = gguf.gguf_package()
    wanted = {each.name: each.data for each in package.GGUFReader(language).tensors}
    gguf.read_back(package, language, wanted)
    with pytest.raises(ModelError, match="token_embd"):
        other = wanted | {"token_embd.weight": np.zeros_like(wanted["token_embd.weight"])}
        gguf.read_back(package, language, other)
