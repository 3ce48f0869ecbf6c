"""llama.cpp's other forms: norms, blocks of patches, class tokens, marks around pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tiny
from gguf_designs import SIDE, ask_llama, built, check_equal, conversation, pictures, request

from lucida.apps.export.write import export, reasons
from lucida.apps.verbs import export as verbs
from lucida.core.errors import ModelError
from lucida.data.jinja import chat_jinja
from lucida.model.checkpoint import save
from lucida.model.conversion import gguf
from lucida.model.conversion.marks import cut_text, find_marks, free_rows, leave_out

pytest.importorskip("gguf")
CHATML = {"language": "chat-mini", "template": "chatml"}
NORMED = {"kind": "mlp", "norm": True}
DESIGNS = {
    "normed mlp": {"projector": NORMED},
    "encoder's norm": {"normed": True, "layer": -1},
    "transformer": {"projector": {"kind": "transformer", "layers": 2, "heads": 2}},
    "nothing": {"projector": {"kind": "identity"}, "width": 192},
    "shuffled": {"projector": {"kind": "pixel_shuffle"}, "template": "vicuna"},
    "shuffled after a norm": {"projector": {"kind": "pixel_shuffle", "factor": 4}, "normed": True},
    "VILA's": {"projector": {"kind": "downsample"}, **CHATML},
    "VILA's one matrix": {"projector": {"kind": "downsample", "linear": True}},
    "means": {"projector": {"kind": "pool"}},
    "CLIP, normed mlp": {"projector": NORMED, "kind": "clip"},
    "CLIP, VILA's": {"projector": {"kind": "downsample"}, "kind": "clip", **CHATML},
}


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_llama_cpp_answers_as_the_model_does(design, tmp_path):
    model, processor = built(**design)
    assert not reasons(model, processor, "gguf")
    gguf.write_gguf(model, processor, tmp_path, "f32")
    check_equal(tmp_path, model, processor)


def test_one_view_and_one_picture(tmp_path):
    """A larger picture has as many tokens where the form scales, two are refused, and words alone
    are answered."""
    model, processor = built(projector=NORMED, kind="clip", **CHATML)
    gguf.write_gguf(model, processor, tmp_path, "f32")
    small, other, _ = pictures()
    large = tiny.picture(3, 3 * SIDE, 2 * SIDE)
    text = {"messages": [{"role": "user", "content": "Is it?"}], "max_tokens": 2}
    asked = [
        request(small),
        request(large),
        request(small, other),
        request(small, words="See"),
        text,
    ]
    first, second, two, among, blind = ask_llama(tmp_path, asked)
    assert first["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]
    for refused in (two, among):
        assert "one picture, in front of the words" in refused["refused"]
    written = processor.apply_chat_template(
        text["messages"], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert blind["usage"]["prompt_tokens"] == written["input_ids"].shape[1]


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_half_precision_and_the_start_token(kind, tmp_path):
    """In `qa` the mark takes the place of the start token, which words alone still begin with."""
    model, processor = built(projector={"kind": "downsample"}, kind=kind)
    gguf.write_gguf(model, processor, tmp_path, "f16")
    check_equal(tmp_path, model, processor)
    text = {"messages": [{"role": "user", "content": "Is it?"}], "max_tokens": 2}
    asked = [(request(pictures()[0]), conversation(pictures()[0])), (text, text["messages"])]
    told = ask_llama(tmp_path, [each for each, _ in asked], processor.visual_tokens)
    for answer, (_, messages) in zip(told, asked, strict=True):
        given = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        assert answer["usage"]["prompt_tokens"] == given["input_ids"].shape[1]


TEMPLATES = ["qa", "vicuna", "llama2", "chatml", "mistral", "phi", "prismatic"]
PICTURE, WORDS = {"type": "image"}, {"type": "text", "text": "What is it?"}
TALK = [
    {"role": "user", "content": [PICTURE, WORDS]},
    {"role": "assistant", "content": [{"type": "text", "text": "A star."}]},
    {"role": "user", "content": [WORDS]},
]


@pytest.mark.parametrize("images", ["in_place", "at_start"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_neighbours_of_a_picture_are_left_out(template, images):
    """With the neighbours put back a conversation reads as it did, token by token."""
    model, processor = built("chat-mini")
    processor.template, processor.image_places = template, images
    tokenizer = processor.tokenizer
    marks = find_marks(("<a>", "<b>"), model, processor)
    arguments = (template, tokenizer, "<image>", images)
    plain, marked = chat_jinja(*arguments), chat_jinja(*arguments, media_marker=True)
    mark = "<__media_3f9a__>"

    def written(jinja: str, messages: list[dict]) -> str:
        options = {"bos_token": "<bos>", "eos_token": "<eos>", "add_generation_prompt": True}
        return render_jinja_template([messages], chat_template=jinja, **options)[0][0]

    for talk in (TALK[:1], TALK):
        joined = [
            {**turn, "content": "".join(part.get("text", mark) for part in turn["content"])}
            for turn in talk
        ]
        front, behind = written(leave_out(marked, marks), joined).split(mark)
        before, after = written(plain, talk).split("<image>")
        first, last = marks.places[0].neighbours
        assert [*cut_text(tokenizer, front), first] == cut_text(tokenizer, before)
        assert [last, *cut_text(tokenizer, behind)] == cut_text(tokenizer, after)
    for refused in (f"{mark}{mark}What?", f"See {mark} this") if images == "in_place" else ():
        with pytest.raises(TemplateError, match="one picture"):
            written(leave_out(marked, marks), [{"role": "user", "content": refused}])
    text = [{"role": "user", "content": "Is it?"}]
    assert written(leave_out(marked, marks), text) == written(plain, text)


def test_the_verb_knows_every_kind():
    told = get_args(get_type_hints(verbs.export)["quantize"])
    assert set(get_args(told[0])) == gguf.QUANTIZED.keys() | gguf.MIXES.keys()


def test_what_is_told(tmp_path):
    save(*built(projector={"kind": "downsample"}), tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "out", "gguf")
    assert "--image-min-tokens 4 --image-max-tokens 4" in done.commands
    told = "\n".join(done.notes)
    assert "give it pictures of 32 x 32 pixels" in told and "one picture" in told
    (note,) = [each for each in gguf.gguf_notes(*built(projector=NORMED)) if "epsilon" in each]
    assert "1e-06" in note


REFUSED = {
    "class token": {"kind": "clip"},
    "class token with blocks": {"kind": "clip", "projector": {"kind": "pixel_shuffle"}},
    "factor is 3: that has three matrices": {"projector": {"kind": "downsample", "factor": 3}},
    "grid has 4 x 4 patches": {
        "projector": {"kind": "downsample", "factor": 3, "linear": True},
    },
    "position is true": {"projector": {"kind": "mlp", "position": True}},
    "activation is relu": {"projector": {"kind": "mlp", "activation": "relu"}},
    "kind is perceiver": {"projector": {"kind": "perceiver", "heads": 2}},
    r"feature_layer is \[-1, -2\]": {"projector": NORMED, "layer": [-1, -2]},
    r"feature_layer is \[-1, -3\]": {
        "projector": {"kind": "mlp"},
        "layer": [-1, -3],
        "normed": True,
    },
    "has a norm of its own": {"projector": NORMED, "normed": True},
    "heads is 4 and the encoder has 2": {"projector": {"kind": "transformer", "heads": 4}},
    "template `plain` has no two tokens": {
        "projector": {"kind": "pixel_shuffle"},
        "template": "plain",
    },
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_no_form_holds_is_refused(named, tmp_path):
    model, processor = built(**REFUSED[named])
    save(model, processor, tmp_path / "run")
    with pytest.raises(ModelError, match=named.removesuffix(" with blocks")):
        export(tmp_path / "run", tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


def test_rows_that_no_text_uses():
    model, processor = built(projector={"kind": "downsample"})
    tokenizer = processor.tokenizer
    rows = len(model.language.get_input_embeddings().weight)
    image, pad = processor.image_token_id, tokenizer.pad_token_id
    assert free_rows(model, processor) == (image, pad)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|reserved_special_token_0|>"]})
    model.language.resize_token_embeddings(rows + 2)  # one without a token
    assert free_rows(model, processor) == (image, rows, rows + 1, pad)


def test_a_vocabulary_without_room_is_refused():
    model, processor = built(projector={"kind": "downsample"})
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    (why,) = reasons(model, processor, "gguf")
    assert "no two rows" in why
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_end|>"]})
    (why,) = reasons(model, processor, "gguf")
    assert "<|image_end|> is a token" in why
