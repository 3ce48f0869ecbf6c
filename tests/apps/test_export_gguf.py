"""Files for llama.cpp: a real one answers as the model does; what it cannot run is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gguf_bits import hold
from gguf_designs import answers, built, check_equal, llama_answers
from tiny_designs import make

from lucida.apps import cli
from lucida.apps.export.write import export
from lucida.core.errors import ModelError, PartError
from lucida.data.jinja import chat_jinja
from lucida.model.checkpoint import save
from lucida.model.conversion import gguf

pytest.importorskip("gguf")


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
    check_equal(tmp_path, model, processor)


def test_end_tokens_that_the_file_cannot_name_are_told():
    model, processor = built()
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, 3, 4]
    (told,) = [note for note in gguf.gguf_notes(model, processor) if "end tokens" in note]
    assert processor.tokenizer.convert_ids_to_tokens(4) in told


@pytest.mark.parametrize(
    ("kind", "allowed"), [("f16", 0.03), ("q8_0", 0.15), ("q4_k_m", 0.6), ("q4_0", 1.5)]
)
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
    for word in ("llama.cpp", "attention_mask", "depth is 3", "type phi"):
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


@pytest.mark.parametrize("kind", ["q4_k_m", "q5_k_m", "q6_k"])
def test_llama_cpp_reads_k_forms_as_they_are_meant(kind, tmp_path):
    """Against PyTorch with the same weights unpacked: llama.cpp rounds what it multiplies them with
    to 8 bits, 256 at a time."""
    model, processor = built("wide")
    file, _ = gguf.write_gguf(model, processor, tmp_path, kind)
    forms = {each.tensor_type.name for each in gguf.gguf_package().GGUFReader(file).tensors}
    assert forms > {gguf.MIXES[kind], "Q6_K"}
    (note,) = gguf.note_mix(file, kind)
    assert "4 of 29 matrices" in note, "attn_output, which 192 channels of heads go into"
    hold(model.language, kind)
    check_equal(tmp_path, model, processor, 0.4)


def test_what_a_mix_keeps_otherwise_is_told(tmp_path):
    save(*built(), tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "out", "gguf", "q4_k_m")
    assert any("q4_k_m: 25 of 29 matrices have rows" in note for note in done.notes)
    assert "model-q4_k_m.gguf" in done.commands
    with pytest.raises(ModelError, match=r"expected f32, .*q4_k_m.*got q3_k"):
        export(tmp_path / "run", tmp_path / "other", "gguf", "q3_k")
