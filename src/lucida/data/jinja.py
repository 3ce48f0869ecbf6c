"""A chat template as the Jinja text that transformers and llama.cpp render.

`lucida.data.templates` gives a frame for each turn. A Jinja template is written from those frames:
one branch for each (role, role before) that conversations have. Nothing here knows any template by
name; one whose frames depend on more than that is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lucida.core.errors import DataError, ModelError
from lucida.core.spec import ImagePlaces
from lucida.data.templates import TEMPLATES, Frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START = "start"
ROUNDS = 3
"""Conversations of so many rounds are looked at; a frame that depends on more is not known."""

Key = tuple[str, str]
"""A role and the role before it."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How every kind of turn is written: inside a conversation and at its end."""

    inside: dict[Key, Frame]
    last: dict[Key, Frame]
    start: str
    """The start token, when it stands in front of the first turn."""


def chat_jinja(
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token: str,
    images: ImagePlaces,
    *,
    media_marker: bool = False,
) -> str:
    """The Jinja text that writes conversations as this template does, with `image_token` for each
    image; images: where they stand, as in `LanguageSpec`. media_marker: llama.cpp writes images
    into the text of a message instead, as `<__media…__>`, and they are found there.

    ModelError when the template cannot be written so: then only its code can follow it.
    """
    at_start = images == "at_start"
    turns = turns_of(template, tokenizer, at_start)
    image = literal(image_token)
    each = each_marker if media_marker else each_part
    keys = list(dict.fromkeys([*turns.inside, *turns.last]))
    branches = []
    for number, key in enumerate(keys):
        test = f"m['role'] == {literal(key[0])} and ns.before == {literal(key[1])}"
        branches.append(f"{{%- {'elif' if number else 'if'} {test} -%}}{written(turns, key)}")
    unknown = literal("this model's template has no such turn: roles have to alternate")
    asked = [key for key in keys if key[0] == "assistant"]
    prompts = "".join(
        f"{{%- {'elif' if number else 'if'} ns.before == {literal(before)} -%}}"
        f"{write_text(body(turns, ('assistant', before)).before)}"
        for number, (_, before) in enumerate(asked)
    )
    return (
        f"{{%- set ns = namespace(before={literal(START)}) -%}}{write_text(turns.start)}"
        f"{every_image(each, image) if at_start else ''}"
        "{%- for m in messages -%}"
        "{%- set ns.pictures = '' -%}{%- set ns.words = '' -%}{%- set ns.every = '' -%}"
        f"{each('' if at_start else IMAGE_IN_PLACE, image)}"
        "{%- set ns.words = ns.words | trim -%}"
        f"{''.join(branches)}{{%- else -%}}{{{{- raise_exception({unknown}) -}}}}{{%- endif -%}}"
        "{%- set ns.before = m['role'] -%}{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{prompts}{{%- endif -%}}{{%- endif -%}}"
    )


IMAGE_IN_PLACE = (
    "{%- set ns.every = ns.every + ns.image -%}{%- if ns.words | trim -%}"
    "{%- set ns.words = ns.words + ns.image -%}{%- else -%}"
    "{%- set ns.words = '' -%}{%- set ns.pictures = ns.pictures + ns.image -%}{%- endif -%}"
)
"""Jinja that notes the image of a message: one that opens it, or one among its words."""


def every_image(each: Callable[[str, str], str], image: str) -> str:
    """Jinja that writes the images of all messages."""
    written = each("{{- ns.image -}}", image)
    return f"{{%- for m in messages -%}}{{%- set ns.words = '' -%}}{written}{{%- endfor -%}}"


def each_part(found: str, image: str) -> str:
    """Jinja that goes through a message's parts: `found` for each image, and its words. image: what
    stands for one, a Jinja string."""
    return (
        "{%- if m['content'] is string -%}{%- set ns.words = m['content'] -%}{%- else -%}"
        "{%- for part in m['content'] -%}{%- if part['type'] == 'image' -%}"
        f"{{%- set ns.image = {image} -%}}{found}{{%- else -%}}"
        "{%- set ns.words = ns.words + part['text'] -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
    )


def each_marker(found: str, image: str) -> str:
    """The same where images are marks `<__media…__>` in a message's text, which llama.cpp's server
    draws by lot; parts that bring marks are joined first."""
    return (
        "{%- set ns.given = '' -%}{%- if m['content'] is string -%}"
        "{%- set ns.given = m['content'] -%}{%- else -%}{%- for part in m['content'] -%}"
        "{%- set ns.given = ns.given + part['text'] -%}{%- endfor -%}{%- endif -%}"
        "{%- for piece in ns.given.split('<__media') -%}{%- if loop.first -%}"
        "{%- set ns.words = piece -%}{%- else -%}"
        "{%- set ns.image = '<__media' + piece.split('__>')[0] + '__>' -%}"
        f"{found}"
        "{%- set ns.words = ns.words + (piece.split('__>')[1:] | join('__>')) -%}"
        "{%- endif -%}{%- endfor -%}"
    )


def turns_of(template: str, tokenizer: PreTrainedTokenizerBase, at_start: bool) -> Turns:
    """What the template writes around turns; ModelError when it depends on more than the role
    before."""
    inside: dict[Key, Frame] = {}
    last: dict[Key, Frame] = {}
    start: str | None = None
    bos = tokenizer.bos_token or ""
    for roles in conversations():
        try:
            layout = TEMPLATES[template](tokenizer, roles)
        except DataError:
            continue  # the template has no such conversation; the Jinja text refuses it too
        frames, opening = list(layout.frames), layout.frames[0].before
        token = "" if layout.begins_itself or opening.startswith(bos) else bos
        if at_start and opening.startswith(bos):
            frames[0] = replace(frames[0], before=opening.removeprefix(bos))
            token = bos  # images come between
        start = token if start is None else start
        before = START
        for number, (role, frame) in enumerate(zip(roles, frames, strict=True)):
            # A turn may be followed by something else where the conversation ends (`after`), and
            # only there.
            known = last if number == len(roles) - 1 else inside
            key = (role, before)
            first = known.setdefault(key, frame)
            other = (inside if known is last else last).get(key, frame)
            # The same kind of turn was written otherwise in another conversation: a Jinja text that
            # looks at the role before alone would be wrong in one of them.
            if first != frame or replace(other, after="") != replace(frame, after=""):
                raise ModelError(
                    f"the template `{template}` writes the turn {role} behind {before} "
                    "in more than one way",
                    given=" - ".join(roles),
                    remedy="export with --format remote-code, which runs on Lucida itself",
                )
            before = role
    if start is None:
        raise ModelError(f"the template `{template}` writes no conversation at all")
    return Turns(inside, last, start)


def conversations() -> Iterator[tuple[str, ...]]:
    """Roles of conversations with and without a system turn, ended and to be answered."""
    for rounds in range(1, ROUNDS + 1):
        for system in ((), ("system",)):
            yield (*system, *("user", "assistant") * rounds)


def body(turns: Turns, key: Key) -> Frame:
    """The frame of a kind of turn, wherever it was seen."""
    return turns.inside.get(key) or turns.last[key]


def written(turns: Turns, key: Key) -> str:
    """Jinja for one kind of turn, in the order that `Frame` describes."""
    frame = body(turns, key)
    pictures, words = "{{- ns.pictures -}}", "{{- ns.words -}}"
    after = write_text(frame.after)
    if key in turns.inside and key in turns.last and turns.last[key].after != frame.after:
        end = write_text(turns.last[key].after)
        after = f"{{%- if loop.last -%}}{end}{{%- else -%}}{after}{{%- endif -%}}"
    if not frame.shows_text:
        middle = "{{- ns.every -}}"  # whatever is said is left out
    elif frame.glue:
        middle = (
            f"{{%- if ns.pictures -%}}{write_text(frame.lead)}{pictures}"
            f"{{%- if ns.words -%}}{write_text(frame.opening + frame.glue)}{words}{{%- endif -%}}"
            f"{{%- elif ns.words -%}}{write_text(frame.opening)}{write_text(frame.lead)}{words}"
            "{%- endif -%}"
        )
    else:
        middle = (
            f"{pictures}{{%- if ns.words -%}}{write_text(frame.opening)}"
            f"{write_text(frame.lead)}{words}"
            "{%- endif -%}"
        )
    return (
        write_text(frame.before)
        + write_text(frame.generated)
        + middle
        + write_text(frame.end)
        + after
    )


def write_text(text: str) -> str:
    """Jinja that writes this text."""
    return f"{{{{- {literal(text)} -}}}}" if text else ""


def literal(text: str) -> str:
    """A string of Jinja's."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"
