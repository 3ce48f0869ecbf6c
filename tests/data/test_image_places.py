"""Images right behind the start token: Prismatic's prompts, written out plainly, and properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_templates import IMAGE, MISTRAL_TEMPLATE, QWEN25_TEMPLATE, sample, supervised, written
from tiny_tokenizer import LLAMA_TEMPLATE, bytes_tokenizer

from lucida.core.errors import DataError
from lucida.core.recipe import load_recipe, presets
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.data.templates import PRISMATIC_SYSTEM, VICUNA_SYSTEM

BUILDERS = {
    "vicuna": ("USER: {} ASSISTANT:", "{}<eos>", f"{VICUNA_SYSTEM} "),
    "mistral": ("[INST] {} [/INST]", "{}<eos>", ""),
    "phi": ("Input: {}\nOutput:", "{}\n<eos>", ""),
    "prismatic": ("In: {}\nOut:", "{}<eos>", ""),
    "prismatic_llama2": (
        "[INST] {} [/INST]",
        "{}<eos>",
        f"<<SYS>\n{PRISMATIC_SYSTEM}\n<</SYS>>\n\n",
    ),
}
"""Prismatic's: a question, an answer, and the system text, which Llama-2's has inside [INST]."""

texts = st.text(st.characters(codec="ascii"), min_size=1).filter(str.strip).map(str.strip)


def as_prismatic(template: str, said: list[str], images: int) -> str:
    """The text of a whole conversation: its code puts visual tokens behind the first token."""
    human, model, system = BUILDERS[template]
    text = ""
    for number, message in enumerate(said):
        if number % 2:
            text += " " + model.format(message)
        elif number == 0 and template == "prismatic_llama2":
            text += human.format(system + message)
        else:
            text += (system if number == 0 else "") + human.format(message)
    return "<bos>" + images * "<image>" + text


@pytest.mark.parametrize("template", BUILDERS)
@settings(max_examples=25, deadline=None)
@given(said=st.lists(texts, min_size=2, max_size=6), images=st.integers(0, 2))
def test_prompts_are_prismatics(template, said, images):
    tokenizer = bytes_tokenizer()
    said = said[: len(said) // 2 * 2]
    asked = sample(*said, images=images)
    tokens = written(tokenizer, template, asked, images="at_start")
    assert tokenizer.decode(tokens.input_ids) == as_prismatic(template, said, images)
    ends = BUILDERS[template][1]
    assert supervised(tokenizer, tokens) == "".join(" " + ends.format(a) for a in said[1::2])
    prompt = written(tokenizer, template, asked, True, images="at_start")
    assert tokenizer.decode(prompt.input_ids) == as_prismatic(template, said[:-1], images)
    assert np.array_equal(tokens.position, np.arange(len(tokens)))


@pytest.mark.parametrize(
    ("template", "jinja"),
    [
        ("llama2", None),
        ("tokenizer", LLAMA_TEMPLATE),
        ("tokenizer", MISTRAL_TEMPLATE),
        ("tokenizer", QWEN25_TEMPLATE),
        ("chatml", None),
        ("qa", None),
        ("plain", None),
    ],
)
def test_every_template_begins_with_start_token_and_images(template, jinja):
    """Also where the template itself writes the start token, once, and without images as ever."""
    eos = "<|im_end|>" if jinja == QWEN25_TEMPLATE else "<eos>"
    bos = jinja != QWEN25_TEMPLATE
    tokenizer = bytes_tokenizer(bos=bos, template=jinja, eos=eos)
    said = ("What?", "A kite.")
    shown = written(tokenizer, template, sample(*said, images=2), images="at_start")
    bare = written(tokenizer, template, sample(*said), images="at_start")
    ids = shown.input_ids.tolist()
    first = int(bos)
    assert shown.image[first : first + 2].tolist() == [1, 2] and not shown.image[first + 2 :].any()
    assert ids[:first] + ids[first + 2 :] == bare.input_ids.tolist()
    usual = written(tokenizer, template, sample(*said))
    assert np.array_equal(bare.input_ids, usual.input_ids)


def test_images_leave_the_words_as_if_they_had_not_been_there():
    tokenizer = bytes_tokenizer()
    turns = (
        Turn("user", ("What? ", ImagePart(1), "\n")),
        Turn("assistant", ("A kite.",)),
        Turn("user", ("And ", ImagePart(0), "here?")),
        Turn("assistant", ("Up.",)),
    )
    given = Sample("record 3", (IMAGE, replace(IMAGE, key="q")), (), (turns,))
    tokens = written(tokenizer, "mistral", given, images="at_start")
    assert tokenizer.decode(tokens.input_ids) == (
        "<bos><image><image>[INST] What? [/INST] A kite.<eos>[INST] And here? [/INST] Up.<eos>"
    )
    assert [source.key for source in tokens.images] == ["q", "p"]


def test_documents_keep_their_images_among_their_words():
    tokenizer = bytes_tokenizer()
    page = Sample("page 3", (IMAGE,), (), ((Turn("text", ("a.", ImagePart(0), "b.")),),))
    tokens = written(tokenizer, "vicuna", page, images="at_start")
    assert tokenizer.decode(tokens.input_ids) == "<bos>a.<image>b.<eos>"


@pytest.mark.parametrize("template", ["vicuna", "llama2", "mistral", "prismatic", "qa", "plain"])
def test_a_question_is_written_alike_alone_and_beside_others(template):
    tokenizer = bytes_tokenizer()
    stem = (Turn("user", (ImagePart(0), "Look.") if template != "plain" else (ImagePart(0),)),)
    asked = [(Turn("user", (q,)), Turn("assistant", (a,))) for q, a in ("ab", "cd", "ef")]
    together = written(
        tokenizer, template, Sample("r", (IMAGE,), stem, tuple(asked)), images="at_start"
    )
    shared = tokenizer.decode(together.input_ids[together.branch == 0])
    assert shared.startswith("<bos><image>")
    if template == "vicuna":
        assert shared.endswith("USER: Look."), "what all branches begin with is written once"
    for number, branch in enumerate(asked, start=1):
        alone = Sample("r", (IMAGE,), stem, (branch,))
        whole, prompt = (
            written(tokenizer, template, alone, asking, "at_start") for asking in (False, True)
        )
        mine = (together.branch == 0) | (together.branch == number)
        for name in ("input_ids", "position", "image"):
            assert np.array_equal(getattr(together, name)[mine], getattr(whole, name))
        assert np.array_equal(whole.input_ids[: len(prompt)], prompt.input_ids)


def test_what_all_branches_begin_with_is_shared_without_words_in_the_stem():
    tokenizer = bytes_tokenizer()
    asked = [(Turn("user", (q,)), Turn("assistant", (a,))) for q, a in ("ab", "cd")]
    given = Sample("r", (IMAGE,), (Turn("user", (ImagePart(0),)),), tuple(asked))
    tokens = written(tokenizer, "vicuna", given, images="at_start")
    stem = tokenizer.decode(tokens.input_ids[tokens.branch == 0])
    assert stem == f"<bos><image>{VICUNA_SYSTEM} USER:"
    answered = (Turn("user", (ImagePart(0),)), Turn("assistant", ("Seen.",)))
    later = Sample("r", (IMAGE,), answered, tuple(asked))
    tokens = written(tokenizer, "mistral", later, images="at_start")
    assert tokenizer.decode(tokens.input_ids).startswith("<bos><image>[INST] [/INST] Seen.<eos>")


def test_images_that_cannot_go_there_are_refused():
    tokenizer = bytes_tokenizer()
    shown = (Turn("user", (ImagePart(0), "a")), Turn("assistant", ("b",)))
    other = (Turn("user", ("c",)), Turn("assistant", ("d",)))
    given = Sample("record 3", (IMAGE,), (), (shown, other))
    with pytest.raises(DataError, match=r"record 3.*one of several branches.*in_place"):
        written(tokenizer, "mistral", given, images="at_start")
    answer = (Turn("user", ("a",)), Turn("assistant", (" ", "\n")))
    with pytest.raises(DataError, match="an answer is empty"):
        written(tokenizer, "mistral", Sample("r", (), (), (answer,)))
    answer = (Turn("user", ("a",)), Turn("assistant", (ImagePart(0), "b")))
    with pytest.raises(DataError, match="an answer contains an image"):
        written(tokenizer, "mistral", Sample("r", (IMAGE,), (), (answer,)), images="at_start")


def test_prismatics_presets_are_written_so():
    for name, preset in presets().items():
        language = load_recipe(name).model.language
        wanted = "at_start" if preset.path.stem == "prismatic" else "in_place"
        assert language.images == wanted, name
    assert load_recipe("llama2-chat+7b").model.language.template == "prismatic_llama2"
