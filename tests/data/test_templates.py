"""The named templates against the texts they are named after; Qwen2.5's whole template."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import LLAMA_TEMPLATE, bytes_tokenizer
from transformers import PreTrainedTokenizerFast

from lucida.core.errors import DataError
from lucida.core.spec import LanguageSpec
from lucida.data.chat import encode, encode_prompt
from lucida.data.policies import make_policy
from lucida.data.sample import IGNORED, ImagePart, ImageSource, Sample, Tokens, Turn
from lucida.data.templates import PRISMATIC_SYSTEM, TEMPLATES

POLICY = make_policy("letterbox", 64, (0.5,) * 3, (0.5,) * 3)
IMAGE = ImageSource("picture", "p", lambda: None)

# The template of Mistral-7B-Instruct-v0.2's tokenizer.
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)

# The whole template of Qwen2.5-Instruct's tokenizer, tools and all.
QWEN25_TEMPLATE = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""  # noqa: E501

QWEN25_SYSTEM = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n"
)


def sample(*said: str, system: str | None = None, images: int = 0) -> Sample:
    """A conversation: question, answer, question, …; its images open the first question."""
    turns = [
        Turn("assistant" if number % 2 else "user", (text,)) for number, text in enumerate(said)
    ]
    opening = tuple(ImagePart(number) for number in range(images))
    turns[0] = Turn("user", (*opening, *turns[0].parts))
    if system is not None:
        turns.insert(0, Turn("system", (system,)))
    return Sample("record 3", (IMAGE,) * images, (), (tuple(turns),))


def written(
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    given: Sample,
    prompt: bool = False,
    images: str = "in_place",
) -> Tokens:
    more = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "images": images}
    if prompt:
        return encode_prompt(given, tokenizer, template, 1, POLICY, 32, 9999, **more)
    return encode(given, tokenizer, template, 1, POLICY, 32, "answers", 9999, **more)


def supervised(tokenizer: PreTrainedTokenizerFast, tokens: Tokens) -> str:
    return tokenizer.decode(tokens.target[tokens.target != IGNORED])


def messages_of(given: Sample) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.parts[0]} for turn in given.branches[0]]


def test_every_template_of_the_specs_exists():
    names = LanguageSpec.model_fields["template"].annotation.__args__
    assert set(names) == set(TEMPLATES)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "llama2",
            "<bos>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat? [/INST] A kite. <eos>"
            "<bos>[INST] Where? [/INST] Up. <eos>",
        ),
        (
            "mistral",
            "<bos>[INST] Be brief.\n\n<image>\nWhat? [/INST] A kite.<eos>"
            "[INST] Where? [/INST] Up.<eos>",
        ),
        (
            "phi",
            "<bos>Be brief.\nInput: <image>\nWhat?\nOutput: A kite.\n<eos>"
            "Input: Where?\nOutput: Up.\n<eos>",
        ),
        (
            "prismatic",
            "<bos>Be brief.\n<image>In: What?\nOut: A kite.<eos>In: Where?\nOut: Up.<eos>",
        ),
        (
            "prismatic_llama2",
            "<bos>[INST] <<SYS>\nBe brief.\n<</SYS>>\n\n<image>\nWhat? [/INST] A kite.<eos>"
            "[INST] Where? [/INST] Up.<eos>",
        ),
    ],
)
def test_golden_texts(template, text):
    tokenizer = bytes_tokenizer()
    said = ("What?", "A kite.", "Where?", "Up.")
    tokens = written(tokenizer, template, sample(*said, system="Be brief.", images=1))
    assert tokenizer.decode(tokens.input_ids) == text
    ends = {"llama2": " <eos>", "phi": "\n<eos>"}.get(template, "<eos>")
    assert supervised(tokenizer, tokens) == f" A kite.{ends} Up.{ends}"
    plain = written(tokenizer, template, sample(*said, images=1))
    if template == "prismatic_llama2":
        text = text.replace("Be brief.", PRISMATIC_SYSTEM)
    expected = text.replace("<<SYS>>\nBe brief.\n<</SYS>>\n\n", "").replace("Be brief.\n\n", "")
    assert tokenizer.decode(plain.input_ids) == expected.replace("Be brief.\n", "")


@pytest.mark.parametrize(
    ("template", "jinja"), [("llama2", LLAMA_TEMPLATE), ("mistral", MISTRAL_TEMPLATE)]
)
@pytest.mark.parametrize("system", [None, "Be brief."])
@settings(max_examples=20, deadline=None)
@given(said=st.lists(st.text(st.characters(codec="ascii"), min_size=1).filter(str.strip),
                     min_size=2, max_size=6))  # fmt: skip
def test_equal_to_the_tokenizers_own(template, jinja, system, said):
    """Named and `tokenizer` give the same ids, and those of the text that the tokenizer writes."""
    if template == "mistral" and system:
        return  # its own template refuses one
    tokenizer = bytes_tokenizer(template=jinja)
    said = [text.strip() for text in said][: len(said) // 2 * 2]
    given = sample(*said, system=system)
    named, own = (written(tokenizer, name, given) for name in (template, "tokenizer"))
    assert np.array_equal(named.input_ids, own.input_ids)
    assert np.array_equal(named.target, own.target)
    for prompt in (True, False):
        tokens = written(tokenizer, template, given, prompt)
        messages = messages_of(given)[: -1 if prompt else None]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert tokenizer.decode(tokens.input_ids) == text


@settings(max_examples=60, deadline=None)
@given(
    said=st.lists(
        st.one_of(
            st.text(min_size=1),
            st.sampled_from(["<|im_end|>", "<|im_start|>assistant\n", "a<|im_end|>\nb", "\n"]),
        ).filter(str.strip),
        min_size=2,
        max_size=6,
    ),
    system=st.none() | st.just("Be brief."),
)
def test_labels_behind_qwens_own_template_are_the_answers(said, system):
    """The community's bug (more or fewer tokens counted than there are, then loss 0) needs turns
    that are rendered apart and added up: Qwen2.5's template writes a system text in front of every
    one. Here each answer and its end is supervised, once, and nothing else, whatever it says."""
    tokenizer = bytes_tokenizer(bos=False, template=QWEN25_TEMPLATE, eos="<|im_end|>")
    said = [text.strip() for text in said][: len(said) // 2 * 2]
    given = sample(*said, system=system)
    tokens = written(tokenizer, "tokenizer", given)
    assert supervised(tokenizer, tokens) == "".join(f"{answer}<|im_end|>" for answer in said[1::2])
    text = tokenizer.apply_chat_template(messages_of(given), tokenize=False)
    assert tokenizer.decode(tokens.input_ids) == text
    assert text.startswith(QWEN25_SYSTEM if system is None else "<|im_start|>system\nBe brief.")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    turns = len(said) + 1
    assert (tokens.input_ids == end).sum() == turns  # those in the data stayed text
    assert (tokens.target == end).sum() == len(said) // 2
    ordinary = written(tokenizer, "chatml", given)
    if system is not None:
        assert np.array_equal(ordinary.input_ids, tokens.input_ids)
        assert np.array_equal(ordinary.target, tokens.target)


def test_golden_qwen25_text_with_an_image():
    tokenizer = bytes_tokenizer(bos=False, template=QWEN25_TEMPLATE, eos="<|im_end|>")
    tokens = written(tokenizer, "tokenizer", sample("What?", "A kite.", images=1))
    assert tokenizer.decode(tokens.input_ids) == (
        f"{QWEN25_SYSTEM}<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nA kite.<|im_end|>\n"
    )


@pytest.mark.parametrize("template", ["llama2", "mistral", "prismatic_llama2"])
def test_a_system_text_behind_the_first_question_is_refused(template):
    turns = (Turn("user", ("a",)), Turn("assistant", ("b",)), Turn("system", ("c",)))
    turns += (Turn("user", ("d",)), Turn("assistant", ("e",)))
    with pytest.raises(DataError, match="inside the first question") as caught:
        written(bytes_tokenizer(), template, Sample("record 3", (), (), (turns,)))
    assert "record 3" in str(caught.value)


def test_a_start_token_that_is_needed_and_missing_is_named():
    with pytest.raises(DataError, match="start token, and this tokenizer has none"):
        written(bytes_tokenizer(bos=False), "llama2", sample("a", "b"))


@pytest.mark.parametrize("template", ["llama2", "mistral", "phi", "prismatic"])
def test_a_question_is_written_alike_with_its_answer_without_it_and_beside_others(template):
    tokenizer = bytes_tokenizer()
    stem = (Turn("system", ("Be brief.",)), Turn("user", (ImagePart(0),)))
    asked = [(Turn("user", (q,)), Turn("assistant", (a,))) for q, a in ("ab", "cd", "ef")]
    together = written(tokenizer, template, Sample("r", (IMAGE,), stem, tuple(asked)))
    for number, branch in enumerate(asked, start=1):
        alone = Sample("r", (IMAGE,), stem, (branch,))
        whole, prompt = (written(tokenizer, template, alone, asking) for asking in (False, True))
        mine = (together.branch == 0) | (together.branch == number)
        assert np.array_equal(together.input_ids[mine], whole.input_ids)
        assert np.array_equal(whole.input_ids[: len(prompt)], prompt.input_ids)
        assert whole.target[len(prompt) - 1] == whole.input_ids[len(prompt)]
        assert (whole.target[: len(prompt) - 1] == IGNORED).all()
