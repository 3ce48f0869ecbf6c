"""What a client of OpenAI's interface sends, checked: messages and options, or `Refused`.

A field that Lucida does not know is ignored and named in the answer's header `x-lucida-ignored`; a
known one whose effect cannot be had is refused by name, as an answer without it would be another.
Pictures come inside the request, as `data:` addresses, unless hosts are allowed (fetching.py): a
server that fetched addresses or opened paths for its clients would read what is not theirs.

Source: the OpenAI API reference, `POST /v1/chat/completions` and `POST /v1/completions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lucida.core.errors import LucidaError
from lucida.data.encoded import is_address
from lucida.data.sample import ImageSource
from lucida.model.messages import image_source
from lucida.serve.fetching import fetch
from lucida.serve.refused import Refused

MOST_IMAGES = 16
"""Pictures of one request."""

MOST_TEXTS = 64
"""Texts of one request."""


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = None


class Asked(BaseModel):
    """What both kinds of request have in common."""

    model_config = ConfigDict(extra="allow")
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int | None = None


class ChatRequest(Asked):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: dict[str, Any] | None = None


class TextRequest(Asked):
    """`POST /v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None


WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "web_search_options": (None,),
    "reasoning_effort": (None, "none"),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
    "prompt_logprobs": (None,),
    "continue_final_message": (None, False),
    "add_generation_prompt": (None, True),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "mm_processor_kwargs": (None, {}),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1),
    "min_tokens": (None, 0),
    "ignore_eos": (None, False),
    "stop_token_ids": (None, []),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "logits_processors": (None, []),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
}
"""Fields of OpenAI and of vLLM whose effect cannot be had, and the values that ask for none."""

KNOWN_AND_IDLE = {
    "user",
    "store",
    "metadata",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
}
"""Fields that clients send without expecting another answer."""

REFUSED_OF_MESSAGES = {"tool_calls", "function_call", "audio"}
"""What a message may hold only empty."""

PARTS_OF_MESSAGES = {"role", "content", "name", "refusal", "annotations", "lucida_boxes"}
"""What a message holds that is read, or that was in an answer which is sent back."""

PARTS_OF_CONTENT = {"type", "text", "image_url", "image", "detail"}
"""What a part of a message holds that is read; `detail` has no effect on a policy of one size."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one answer is written.

    most: its longest length in tokens, None for what the context has room for. temperature: 0 takes
    the likeliest token. top_p: the smallest set of likeliest tokens that has this probability.
    stop: texts before which it ends. top: how many alternatives each token tells, None for no
    log-probabilities at all.
    """

    most: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top: int | None = None


def read_options(asked: ChatRequest | TextRequest) -> Options:
    """The options of a request; Refused for what cannot be done. Without a temperature the
    likeliest answer is given, where OpenAI's default would draw one."""
    effects = WITHOUT_EFFECT
    if isinstance(asked, TextRequest):
        effects = effects | {"response_format": (None, {"type": "text"})}
    else:
        effects = effects | {"echo": (None, False)}
    for name, idle in effects.items():
        value = getattr(asked, name, None)
        if value not in idle:
            raise Refused(f"`{name}` is not supported by this server: leave it out", name)
    most, top = asked.max_tokens, asked.logprobs
    if isinstance(asked, ChatRequest):
        most = asked.max_completion_tokens if most is None else most
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        if asked.top_logprobs and not asked.logprobs:
            raise Refused("`top_logprobs` needs `logprobs: true`", "top_logprobs")
        if most == 0:
            raise Refused("`max_tokens` must be at least 1", "max_tokens")
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if len(stop) > 4 or not all(stop):
        raise Refused("`stop` takes up to 4 texts that are not empty", "stop")
    for each in stop:
        check_text(each, "stop")
    return Options(most, asked.temperature or 0.0, asked.top_p or 1.0, asked.seed, tuple(stop), top)


def list_prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    """The prompts of a request for texts, each as text or as token ids."""
    alone = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
    prompts = [prompt] if alone else prompt
    if not 0 < len(prompts) <= MOST_TEXTS or not all(prompts):
        raise Refused(f"`prompt` takes 1 to {MOST_TEXTS} texts that are not empty", "prompt")
    for each in prompts:
        if isinstance(each, str):
            check_text(each, "prompt")
    return prompts


def check_text(text: str, where: str) -> str:
    """A text without halves of characters; Refused for others, as no tokenizer reads them."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        place = problem.start
        raise Refused(f"half a character (a lone surrogate) at {place}", where) from problem
    return text


def list_ignored(asked: BaseModel) -> list[str]:
    """Fields that nobody here reads, those of messages and their parts too."""
    found = set(asked.model_extra or ()) - set(WITHOUT_EFFECT) - KNOWN_AND_IDLE
    if (stream := getattr(asked, "stream_options", None)) is not None:
        found |= {f"stream_options.{name}" for name in stream.model_extra or ()}
    for message in getattr(asked, "messages", ()):
        unread = message.keys() - PARTS_OF_MESSAGES - REFUSED_OF_MESSAGES
        found |= {f"messages.{name}" for name in unread}
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                found |= {f"messages.content.{name}" for name in part.keys() - PARTS_OF_CONTENT}
    return sorted(found)


def read_messages(
    messages: list[dict[str, Any]], hosts: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Messages as `lucida.model.messages` has them, pictures read, also from these hosts; Refused
    for anything else."""
    number = 0
    found = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        role, content = message.get("role"), message.get("content")
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant"):
            raise Refused("`role` is system, developer, user or assistant", f"{where}.role")
        for name in sorted(REFUSED_OF_MESSAGES):
            if message.get(name):
                raise Refused(f"`{name}` is not supported by this server", f"{where}.{name}")
        if isinstance(content, str):
            content = check_text(content, f"{where}.content")
            found.append({"role": role, "content": content})
            continue
        if not isinstance(content, list):
            raise Refused("`content` is a text or a list of parts", f"{where}.content")
        parts = []
        for k, part in enumerate(content):
            kind, value = read_part(part, f"{where}.content[{k}]")
            if kind == "text":
                parts.append({"type": "text", "text": value})
                continue
            number += 1
            if number > MOST_IMAGES:
                raise Refused(f"at most {MOST_IMAGES} pictures in a request", f"{where}.content")
            place = f"{where}.content[{k}].image_url"
            image = open_address(value, number, place, hosts)
            parts.append({"type": "image", "image": image})
        found.append({"role": role, "content": parts})
    return found


def read_part(part: object, where: str) -> tuple[Literal["text", "image"], str]:
    """The kind of a part, and its text or the picture's address."""
    if isinstance(part, str):
        return "text", check_text(part, where)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind and part.get("text") and (part.get("image_url") or part.get("image")):
        raise Refused("a part holds a text or a picture: send one of each", where)
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return "text", check_text(part["text"], where)
    if kind in ("image_url", "input_image", "image"):
        address = part.get("image_url", part.get("image"))
        address = address.get("url") if isinstance(address, Mapping) else address
        if isinstance(address, str):
            return "image", address
    raise Refused(
        'a part is {"type": "text", "text": …} or {"type": "image_url", "image_url": {"url": …}}',
        where,
    )


def open_address(address: str, number: int, where: str, hosts: Collection[str] = ()) -> ImageSource:
    """The picture of an address, decoded to its end: a damaged one is the client's fault."""
    if is_address(address):
        content: str | bytes = address
    elif hosts:
        content = fetch(address, hosts, where)
    else:
        raise Refused(
            "pictures are sent in the request as `data:image/…;base64,…`; this server fetches "
            "nothing and opens no files",
            where,
        )
    try:
        source = image_source(content, number)
        source.load()
    except LucidaError as problem:
        raise Refused(str(problem), where, code="invalid_image") from problem
    return source
