"""`apply_chat_template` is transformers': compared with a Llava processor on the same template."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import encoder_folder, language_folder, picture, tiny_model
from transformers import ProcessorMixin

sys.path.insert(0, str(Path(__file__).parent.parent / "apps"))

from lucida.core.errors import DataError
from lucida.data.jinja import chat_jinja
from lucida.model.conversion.llava import llava_config
from lucida.model.conversion.processors import llava_processor
from lucida.model.processing import LucidaProcessor

torch.set_num_threads(1)
USER, SYSTEM = {"role": "user", "content": "How many sides?"}, {"role": "system", "content": "Go."}
SHOWN = {"role": "user", "content": [{"type": "image", "image": picture(1, 17, 21)},
                                     {"type": "text", "text": "What is this?"}]}  # fmt: skip
SAID = {"role": "assistant", "content": "a red star"}
PARTS = {"role": "assistant", "content": [{"type": "text", "text": "two"}]}
CONVERSATIONS = [
    [USER],
    [SHOWN],
    [USER, SAID],
    [SHOWN, SAID],
    [SYSTEM, SHOWN, PARTS, USER],
    [SHOWN, SAID, USER, PARTS],
]
TEMPLATES = ("qa", "vicuna", "llama2", "prismatic", "phi")


@pytest.fixture(scope="module")
def both():
    """For a template: Lucida's processor and transformers' Llava processor of the same model."""
    model, processor = tiny_model(
        {"path": encoder_folder("clip"), "feature_layer": -2},
        {"path": language_folder(), "max_length": 500},
        image={"policy": "resize"},
    )
    made = {}

    def get(template):
        if template not in made:
            ours = LucidaProcessor(
                processor.tokenizer,
                processor.image_token,
                processor.image_policy,
                template,
                processor.visual_tokens,
                processor.coordinate_bins,
                500,
            )
            made[template] = ours, llava_processor(llava_config(model), ours)
        return made[template]

    return get


def test_the_signature_is_that_of_transformers():
    ours = inspect.signature(LucidaProcessor.apply_chat_template).parameters
    theirs = inspect.signature(ProcessorMixin.apply_chat_template).parameters
    assert {n: (p.default, p.kind) for n, p in ours.items()} == {
        n: (p.default, p.kind) for n, p in theirs.items()
    }
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("flags", [{}, {"add_generation_prompt": True},
                                   {"continue_final_message": True}],
                         ids=["whole", "asked", "continued"])  # fmt: skip
def test_text_and_tokens_equal_a_llavas(both, template, flags):
    ours, theirs = both(template)
    compared = 0
    for conversation in CONVERSATIONS:
        last = conversation[-1]["role"]
        if last == "assistant" and flags.get("add_generation_prompt"):
            continue  # the exported text has no turn behind a last answer; see below
        if last == "user" and flags.get("continue_final_message") and template != "qa":
            continue
        expected = theirs.apply_chat_template(conversation, **flags)
        text = ours.apply_chat_template(conversation, **flags)
        assert text.removeprefix("<bos>") == expected.removeprefix("<bos>")
        given = ours.apply_chat_template(conversation, tokenize=True, return_dict=True, **flags)
        expected = theirs.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt", **flags
        )
        assert given.keys() == expected.keys()
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(given[name], expected[name]), (name, conversation)
        if "pixel_values" in given:
            torch.testing.assert_close(given["pixel_values"], expected["pixel_values"])
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("kind", ["pt", "np", None])
@pytest.mark.parametrize("padding", [{}, {"padding": True}, {"padding": "max_length"},
                                     {"padding": False}, {"padding_side": "right"}],
                         ids=str)  # fmt: skip
def test_batches_are_padded_and_typed_as_a_llavas(both, kind, padding):
    ours, theirs = both("qa")
    options = dict(padding)
    if padding.get("padding") == "max_length":
        options["max_length"] = 90
    asked = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    batch = [[SHOWN], [USER]]
    if padding.get("padding") is False and kind is not None:
        with pytest.raises(DataError, match="padding=True"):
            ours.apply_chat_template(batch, return_tensors=kind, processor_kwargs=options, **asked)
        return
    given = ours.apply_chat_template(batch, return_tensors=kind, processor_kwargs=options, **asked)
    expected = theirs.apply_chat_template(
        batch, return_tensors=kind, processor_kwargs={"padding": True, **options}, **asked
    )
    for name in ("input_ids", "attention_mask"):
        assert type(given[name]) is type(expected[name])
        assert np.array_equal(np.asarray(given[name], dtype=object),
                              np.asarray(expected[name], dtype=object))  # fmt: skip


def generating(jinja: str) -> str:
    """The exported template with transformers' mark around what the model writes."""
    start = jinja.index("{%- elif m['role'] == 'assistant'")
    body = jinja.index("-%}", start) + 3
    for mark in ("{{- '\\nAnswer:' -}}",):
        body = jinja.index(mark, body) + len(mark)
    end = min(x for x in (jinja.find("{%- elif", body), jinja.find("{%- else -%}{{- raise", body))
              if x > 0)  # fmt: skip
    return f"{jinja[:body]}{{% generation %}}{jinja[body:end]}{{% endgeneration %}}{jinja[end:]}"


def test_the_mask_of_answers_equals_a_llavas(both):
    ours, theirs = both("qa")
    jinja = generating(
        chat_jinja(ours.template, ours.tokenizer, ours.image_token, ours.image_places)
    )
    wanted = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    for conversation in ([USER, SAID], [SHOWN, SAID], [SHOWN, SAID, USER, PARTS]):
        given = ours.apply_chat_template(conversation, **wanted)
        expected = theirs.apply_chat_template(
            conversation, jinja, return_tensors="pt", processor_kwargs={"padding": True}, **wanted
        )
        assert torch.equal(given["assistant_masks"], torch.as_tensor(expected["assistant_masks"]))
        read = ours.apply_chat_template(conversation, jinja, **wanted)
        for name in given:
            assert torch.equal(given[name], read[name]), name
        marked = given["input_ids"][given["assistant_masks"].bool()]
        assert "a red star<eos>" in ours.tokenizer.decode(marked)
    batch = ours.apply_chat_template([[USER, SAID], [SHOWN, SAID, USER]], **wanted)
    assert batch["assistant_masks"].sum(1).tolist() == [12, 12]  # " a red star" and the end
    assert "assistant_masks" not in ours.apply_chat_template([USER, SAID], tokenize=True,
                                                             return_dict=True)  # fmt: skip


def test_a_last_answer_is_kept_and_asked_behind(both):
    ours, _ = both("qa")
    text = ours.apply_chat_template([USER, SAID], add_generation_prompt=True)
    assert text == "<bos>\nQuestion: How many sides?\nAnswer: a red star<eos>\nAnswer:"
    assert ours.apply_chat_template([USER]) == "<bos>\nQuestion: How many sides?"


def test_another_template_by_name_or_as_jinja(both):
    ours, _ = both("qa")
    vicuna, _ = both("vicuna")
    given = ours.apply_chat_template([SHOWN], "vicuna", add_generation_prompt=True)
    assert given == vicuna.apply_chat_template([SHOWN], add_generation_prompt=True)
    assert ours.template == "qa"
    jinja = "{% for m in messages %}[{{ m['content'] }}]{{ mood }}{% endfor %}{{ tools }}"
    assert ours.apply_chat_template([USER], jinja, mood="!") == "[How many sides?]!None"
    assert ours.apply_chat_template([USER], jinja, tools=[{"a": 1}]).endswith("[{'a': 1}]")
    ids = ours.apply_chat_template([USER], jinja, tokenize=True)
    assert ours.tokenizer.decode(ids[0]) == "<bos>[How many sides?]None"
    shown = "{% for m in messages %}<image>{{ m['content'][1]['text'] }}{% endfor %}"
    given = ours.apply_chat_template([SHOWN], shown, tokenize=True, return_dict=True)
    assert given["pixel_values"].shape[0] == 1
    with pytest.raises(DataError, match="another number of times"):
        ours.apply_chat_template([SHOWN], "nothing", tokenize=True)


@pytest.mark.parametrize(
    "jinja",
    ["{% for", "{{ messages.__class__.__mro__ }}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}",
     "{{ messages[9]['role'] }}", "{{ messages | nosuch }}",
     "{% for a in range(9999) %}{% for b in range(9999) %}{{ '' }}{% endfor %}{% endfor %}",
     "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_one_message(both, jinja):
    ours, _ = both("qa")
    with pytest.raises(DataError, match="chat template"):
        ours.apply_chat_template([USER], jinja)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tools": [{"name": "a"}]}, "`tools` has no place"),
        ({"documents": [{"text": "a"}]}, "`documents` has no place"),
        ({"load_audio_from_video": True}, "load_audio_from_video"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
        ({"continue_final_message": True, "return_assistant_tokens_mask": True}, "exclude"),
        ({"continue_final_message": "reasoning"}, "expected content, got reasoning"),
        ({"processor_kwargs": {"truncation": True}}, "never cut"),
        ({"processor_kwargs": {"do_resize": False}}, "do_resize"),
        ({"enable_thinking": True}, "enable_thinking"),
        ({"return_tensors": "jax", "tokenize": True}, "got jax"),
    ],
)
def test_what_cannot_be_followed_is_refused(both, arguments, words):
    ours, _ = both("qa")
    with pytest.raises(DataError, match=words):
        ours.apply_chat_template([USER, SAID], **arguments)


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ("hello", "list of messages"),
        ([3], "mapping"),
        ([{"role": "assistant", "content": "a", "tool_calls": [1]}], "tool_calls"),
    ],
)
def test_what_is_no_conversation_is_refused(both, conversation, words):
    ours, _ = both("qa")
    with pytest.raises(DataError, match=words):
        ours.apply_chat_template(conversation)


def test_places_may_stay_empty_where_no_pixels_are_wanted(both):
    ours, _ = both("qa")
    empty = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert ours.apply_chat_template(empty) == "<bos><image>\nQuestion: What?"
    with pytest.raises(DataError, match="fewer images"):
        ours.apply_chat_template(empty, tokenize=True)
    for more in ({"processor_kwargs": {"images": [picture(1)]}}, {"images": [picture(1)]}):
        given = ours.apply_chat_template(empty, tokenize=True, return_dict=True, **more)
        assert given["pixel_values"].shape[0] == 1


def test_a_conversation_that_is_too_long_is_not_cut(both):
    ours, _ = both("qa")
    long = [{"role": "user", "content": "a" * 600}, SAID]
    with pytest.raises(DataError, match="longer than the context"):
        ours.apply_chat_template(long)
