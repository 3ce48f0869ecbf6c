"""`apply_chat_template` as transformers' processors have it, over templates that are structure.

    conversations ─▶ one Tokens each, in the model's template or in a Jinja text that is given
                  ─▶ text, or ids with masks and pixels, padded

In the model's own template every turn is written piece by piece, as in training: what users say
never becomes a marker (transformers' `sanitize_control_tokens` is always on), and no image is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.utils.chat_template_utils import _get_template_variables, render_jinja_template

from lucida.core.errors import DataError
from lucida.data.pieces import Ending
from lucida.data.rendering import render_bounded
from lucida.data.sample import IGNORED, Tokens
from lucida.data.templates import TEMPLATES
from lucida.model.messages import Message, Picture, sample_of

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor

KEYS = ("role", "content")
"""Entries of a message that are written."""
NESTED = ("text_kwargs", "common_kwargs")
TENSORS = ("pt", "np", None)
OPTIONS = ("images", "padding", "max_length", "padding_side", "return_tensors", "truncation")
"""What `processor_kwargs` may hold."""


@dataclass(slots=True)
class Options:
    """How rows become a batch: transformers' words."""

    images: Sequence[Picture] | Sequence[Sequence[Picture]] = ()
    padding: bool | str = True
    max_length: int | None = None
    padding_side: str = "left"
    return_tensors: str | None = "pt"


def read_options(given: Mapping[str, Any] | None, more: Mapping[str, Any]) -> Options:
    """The options among `processor_kwargs` and among arguments of no other meaning; DataError for
    one that this processor has not got."""
    values = dict(given or {}) | dict(more)
    for name in NESTED:
        values |= values.pop(name, None) or {}
    if values.get("truncation"):
        raise DataError(
            "a prompt is never cut: the end of a question would be missing",
            given=f"truncation={values['truncation']!r}",
            remedy="shorten the conversation, or raise the processor's max_length",
        )
    unknown = sorted(values.keys() - set(OPTIONS))
    if unknown:
        raise DataError(
            "apply_chat_template does not know these options",
            expected=", ".join(OPTIONS),
            given=", ".join(unknown),
            remedy="leave them out; pictures are prepared as the model was trained",
        )
    values.pop("truncation", None)
    options = Options(**{name: value for name, value in values.items() if value is not None})
    if "return_tensors" in values:  # None is a choice there: lists
        options.return_tensors = values["return_tensors"]
    choices = {
        "padding": (options.padding, (True, False, "longest", "max_length", "do_not_pad")),
        "padding_side": (options.padding_side, ("left", "right")),
        "return_tensors": (options.return_tensors, TENSORS),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise DataError(f"unknown value of `{name}`", expected=listed, given=value)
    return options


def batches(conversation: Any, strict: bool) -> tuple[list[Sequence[Message]], bool]:
    """The conversations, and whether several were given; DataError for something else. strict:
    messages have no entries but those that Lucida's templates write."""
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence):
        conversation = getattr(conversation, "messages", conversation)  # transformers' Chat
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence):
        raise DataError("a conversation is a list of messages", given=type(conversation).__name__)
    if not conversation:
        raise DataError("the conversation is empty", remedy="give at least one message")
    first = conversation[0]
    several = isinstance(first, list | tuple) or hasattr(first, "messages")
    found = list(conversation) if several else [conversation]
    found = [getattr(each, "messages", each) for each in found]
    for messages in found:
        if not messages:
            raise DataError("a conversation is empty", remedy="give at least one message")
        for message in messages:
            check_message(message, strict)
    return found, several


def check_message(message: object, strict: bool) -> None:
    """DataError for a message that says more than is written: it would be lost."""
    if not isinstance(message, Mapping):
        raise DataError("a message is a mapping of role and content", given=type(message).__name__)
    more = [name for name, value in message.items() if name not in KEYS and value is not None]
    if more and strict:
        raise DataError(
            "a message has entries that this model's template does not write",
            expected=", ".join(KEYS),
            given=", ".join(map(str, more)),
            remedy="leave them out, or write them into the content",
        )


def ending_of(flags: Mapping[str, Any]) -> Ending:
    """Where the text of a conversation stops."""
    if flags["continue_final_message"]:
        return "open"
    return "asked" if flags["add_generation_prompt"] else "whole"


def check_flags(flags: Mapping[str, Any], unused: Mapping[str, Any], jinja: str | None) -> None:
    """DataError for arguments that exclude each other, as in transformers, and for those that no
    template of Lucida's has a use for."""
    go_on = flags["continue_final_message"]
    for other in ("add_generation_prompt", "return_assistant_tokens_mask"):
        if go_on and flags[other]:
            raise DataError(
                f"continue_final_message and {other} exclude each other",
                remedy="continue the last message, or ask for a new one",
            )
    if jinja is None:
        unused = {**unused, "tools": flags["tools"], "documents": flags["documents"]}
        if isinstance(go_on, str) and go_on != "content":
            what = "the message has no such field to continue"
            raise DataError(what, expected="content", given=go_on)
    for name, value in unused.items():
        if value:
            raise DataError(
                f"`{name}` has no place in this model's template",
                given=type(value).__name__,
                remedy="write it into a message, or give a chat_template that uses it",
            )


def written(
    processor: LucidaProcessor,
    conversations: list[Sequence[Message]],
    images: list[list[Picture]],
    ending: Ending,
) -> list[Tokens]:
    """Each conversation in the processor's template."""
    return [
        processor.prompt(sample_of(messages, beside), ending)
        for messages, beside in zip(conversations, images, strict=True)
    ]


def render_conversations(
    processor: LucidaProcessor,
    template: str,
    conversations: list[Sequence[Message]],
    flags: Mapping[str, Any],
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """Each conversation in a Jinja text, which transformers renders in its sandbox, and the spans
    of characters that it says are answers."""
    variables = {**processor.tokenizer.special_tokens_map, **flags}
    plain = [[dict(each) for each in messages] for messages in conversations]
    render = partial(render_jinja_template, plain, chat_template=template, **variables)
    texts, spans = render_bounded(render)
    return texts, spans or [[] for _ in texts]


def read(
    processor: LucidaProcessor,
    template: str,
    conversations: list[Sequence[Message]],
    images: list[list[Picture]],
    flags: Mapping[str, Any],
) -> list[Tokens]:
    """The tokens of what a Jinja text writes."""
    found = []
    texts, spans = render_conversations(processor, template, conversations, flags)
    for text, marked, messages, beside in zip(texts, spans, conversations, images, strict=True):
        sample = sample_of(messages, beside)
        places = text.count(processor.image_token)
        if places != len(sample.images):
            raise DataError(
                f"the chat template writes {processor.image_token} another number of times than"
                " there are images",
                expected=len(sample.images),
                given=places,
            )
        found.append(processor.raw(text, sample.images, marked))
    return found


def pictures_beside(
    conversations: list[Sequence[Message]], several: bool, options: Options, tokenize: bool
) -> list[list[Picture]]:
    """The pictures that fill places without one, conversation by conversation. Where no pixels are
    wanted, places may stay empty: they are then filled with a blank."""
    given = [list(each) for each in options.images] if several else [list(options.images)]
    if several and not given:
        given = [[] for _ in conversations]
    if len(given) != len(conversations):
        raise DataError(
            "`images` of several conversations are one list for each",
            expected=len(conversations),
            given=len(given),
        )
    if not tokenize:
        for messages, pictures in zip(conversations, given, strict=True):
            missing = places_without_picture(messages) - len(pictures)
            pictures += [Image.new("RGB", (64, 64)) for _ in range(missing)]
    return given


def places_without_picture(messages: Sequence[Message]) -> int:
    """Parts `{"type": "image"}` and nothing else."""
    parts = (each.get("content") for each in messages)
    return sum(
        1
        for content in parts
        if isinstance(content, list | tuple)
        for part in content
        if isinstance(part, Mapping) and dict(part) == {"type": "image"}
    )


def batch_of(
    processor: LucidaProcessor, prompts: list[Tokens], options: Options, mask: bool
) -> BatchFeature:
    """Ids, masks and pixels of prompts, in the types and with the padding that are asked for."""
    tokenizer, kind = processor.tokenizer, options.return_tensors
    length = row_length(processor, prompts, options)
    values = {
        "input_ids": ([each.input_ids for each in prompts], tokenizer.pad_token_id),
        "attention_mask": ([np.ones(len(each), dtype=np.int64) for each in prompts], 0),
    }
    if mask:
        values["assistant_masks"] = ([answers(each) for each in prompts], 0)
    data: dict[str, Any] = {}
    for name, (rows, fill) in values.items():
        filled = [extend_row(row, length, fill, options.padding_side) for row in rows]
        if kind is None:
            data[name] = [row.tolist() for row in filled]
        else:
            stacked = np.stack(filled)
            data[name] = torch.from_numpy(stacked) if kind == "pt" else stacked
    pixels = processor.pixel_values([source for prompt in prompts for source in prompt.images])
    if pixels is not None:
        if kind == "np" and not isinstance(pixels, torch.Tensor):
            raise DataError("images in several views have no NumPy form", remedy="ask for pt")
        data["pixel_values"] = pixels.numpy() if kind == "np" else pixels
    return BatchFeature(data)


def row_length(processor: LucidaProcessor, prompts: list[Tokens], options: Options) -> int | None:
    """The length of every row, or None where each keeps its own."""
    lengths = [len(each) for each in prompts]
    if options.padding in (False, "do_not_pad"):
        if options.return_tensors is not None and len(set(lengths)) > 1:
            raise DataError(
                "rows of several lengths are no tensor",
                given=", ".join(map(str, lengths)),
                remedy="say padding=True, or return_tensors=None for lists",
            )
        return None
    if options.padding != "max_length":
        return max(lengths)
    limit = options.max_length or processor.max_length
    if max(lengths) > limit:
        raise DataError("a row is longer than max_length", expected=limit, given=max(lengths))
    return limit


def extend_row(row: np.ndarray, length: int | None, fill: int, side: str) -> np.ndarray:
    """A row filled up to a length on one side."""
    room = 0 if length is None else length - len(row)
    return np.pad(row, (room, 0) if side == "left" else (0, room), constant_values=fill)


def answers(tokens: Tokens) -> np.ndarray:
    """1 where a token is an answer's, its end token included; the target of the token before."""
    found = np.zeros(len(tokens), dtype=np.int64)
    found[1:] = tokens.target[:-1] != IGNORED
    return found


def named_template(
    processor: LucidaProcessor, template: str | None
) -> tuple[LucidaProcessor, str | None]:
    """The processor that writes, and the Jinja text that it is given instead of a template: the
    names of Lucida's templates are names here as well."""
    if template is None or template not in TEMPLATES:
        return processor, template
    other = copy(processor)
    other.template = template
    return other, None


def variables_of(template: str | None, given: Mapping[str, Any]) -> tuple[dict, dict]:
    """Further arguments that a Jinja text uses, and those that it does not."""
    if template is None:
        return {}, dict(given)
    used = render_bounded(partial(_get_template_variables, template))
    mine = {name: value for name, value in given.items() if name in used}
    return mine, {name: value for name, value in given.items() if name not in used}
