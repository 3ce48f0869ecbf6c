"""Conversations as `messages` (OpenAI, TRL) or as ShareGPT's `conversations`, in JSON or JSONL.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A kite."}]}

    {"messages": [{"role": "user", "content": "<image>What is this?"},
                  {"role": "assistant", "content": "A kite."}], "images": ["a.jpg"]}

An image part names its picture itself (`image`, `path`, `url` or `image_url`), or holds it (a
`data:` address, base64), or takes the next one of the record's `images`. Where no part does,
`<image>` in what the user says is where the next one stands (LLaMA-Factory, ms-swift); in all other
messages it is text. `prompt` and `completion` together are one conversation. `conversations` with
pictures are LLaVA's format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from lucida.core.errors import DataError, shorten
from lucida.data.encoded import picture_of_part
from lucida.data.sample import ImagePart, ImageSource, Part, Sample, Turn
from lucida.data.source import Shape
from lucida.data.sources.conversation import (
    ASIDE,
    PLACEHOLDER,
    SPOKEN,
    one_conversation,
    one_of,
    read_turns,
    role_of,
    text_of,
)
from lucida.data.sources.llava import conversation_sample
from lucida.data.sources.tables import PicturedRows
from lucida.data.spoken import UNSAID, refuse_unsaid

_PART = dict.fromkeys(("type", "text", "image", "path", "url")) | {"image_url": {"url": None}}
_MESSAGE = {"role": None, "content": _PART, **dict.fromkeys(UNSAID)}
MESSAGES: Shape = {
    **ASIDE, "images": None, "image": None,
    **dict.fromkeys(("messages", "prompt", "completion"), _MESSAGE),
}  # fmt: skip
"""Keys that `message_sample` reads."""

Picture = Callable[[Any, str], ImageSource]
"""What stands for a picture in a record, and the record's origin → the picture."""


class MessagesSource(PicturedRows):
    """A file or several with one conversation a record.

    DataError, with file and record: broken JSON, no messages, an unknown role, a part of another
    type than text or image, more or fewer images than places, a picture that cannot be found.
    """

    uses: ClassVar = MESSAGES | {"conversations": SPOKEN}

    def shape(self, record: Mapping[str, Any]) -> Shape:
        """Either conversations or messages; of the latter, either they or prompt and completion."""
        return shape_of(record, self.uses)

    def made(self, record: Any, origin: str, index: int, words: str | None = None) -> Sample:
        """A record as a sample; it has no caption to be replaced."""
        if isinstance(record, dict) and isinstance(record.get("conversations"), list):
            if record.get("image") or record.get("images"):
                return conversation_sample(record, origin, self.pictures)
            turns = read_turns(record["conversations"], origin)
            made = tuple(Turn(role, (text,) if text else ()) for role, text in turns)
            return one_conversation(origin, (), made, record)
        return message_sample(record, origin, self.picture)


def message_sample(record: Any, origin: str, picture: Picture) -> Sample:
    """A record with `messages`, or with `prompt` and `completion`, as a sample."""
    messages = _messages(record, origin)
    waiting = one_of(record, ("images", "image"), origin) or []
    waiting = list(waiting) if isinstance(waiting, list | tuple) else [waiting]
    own: list[Any] = []
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            expected, given = "an object with role and content", shorten(message)
            raise DataError("bad message", expected=expected, given=given, origin=origin)
        role = role_of(message.get("role"), origin)
        refuse_unsaid(message, origin)
        turns.append(Turn(role, _parts(message.get("content"), origin, own)))
    if waiting and None not in own:
        turns, own = _place_waiting(turns, own)
    places = own.count(None)
    if places != len(waiting):
        raise DataError(
            "the messages show another number of images than `images` has",
            expected=len(waiting),
            given=places,
            origin=origin,
            remedy='write {"type": "image"}, or <image> in what the user says, for each of them',
        )
    rest = iter(waiting)
    shown = [next(rest) if value is None else value for value in own]
    images = tuple(picture(value, origin) for value in shown)
    return one_conversation(origin, images, tuple(turns), record)


def _place_waiting(turns: list[Turn], own: list[Any]) -> tuple[list[Turn], list[Any]]:
    """The turns with a picture of `images` wherever `<image>` stands in the user's text, and what
    each picture is taken from, in the order in which they are shown."""
    placed, taken = [], []
    for turn in turns:
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ImagePart):
                parts.append(ImagePart(len(taken)))
                taken.append(own[part.index])
                continue
            pieces = str(part).split(PLACEHOLDER) if turn.role == "user" else [part]
            parts += [pieces[0]] if pieces[0] else []
            for piece in pieces[1:]:
                parts += [ImagePart(len(taken)), *([piece] if piece else [])]
                taken.append(None)
        placed.append(Turn(turn.role, tuple(parts)))
    return placed, taken


def shape_of(record: Mapping[str, Any], uses: Shape) -> Shape:
    """What is used of a record that may hold several conversations, of which one is read."""
    rivals = ("conversations",), ("messages",), ("prompt", "completion")
    chosen = next((names for names in rivals if isinstance(record.get(names[0]), list)), ())
    others = {name for names in rivals if names != chosen for name in names}
    return {name: inside for name, inside in uses.items() if name not in others}


def _messages(record: Any, origin: str) -> list[Any]:
    found = None
    if isinstance(record, dict):
        found = record.get("messages")
        prompt, completion = record.get("prompt"), record.get("completion")
        if found is None and isinstance(prompt, list) and isinstance(completion, list):
            found = prompt + completion
    if not isinstance(found, list) or not found:
        remedy = "each record is an object with a list `messages`"
        raise DataError("no messages in this record", origin=origin, remedy=remedy)
    return found


def _parts(content: Any, origin: str, own: list[Any]) -> tuple[Part, ...]:
    """Parts of a message; pictures join `own`, None for one that `images` of the record holds."""
    if isinstance(content, str):
        return (text_of(content, "content", origin),) if content else ()
    if not isinstance(content, list):
        expected, given = "a text or a list of parts", shorten(content)
        raise DataError("bad `content`", expected=expected, given=given, origin=origin)
    parts: list[Part] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        others = ("image", "image_url") if kind == "text" else ("text",)
        if kind in ("text", "image", "image_url") and any(part.get(each) for each in others):
            expected, given = "a part for each", shorten(part)
            message = "one part with a text and a picture"
            raise DataError(message, expected=expected, given=given, origin=origin)
        if kind == "text":
            if text := text_of(part.get("text"), "text", origin):
                parts.append(text)
        elif kind in ("image", "image_url"):
            parts.append(ImagePart(len(own)))
            own.append(picture_of_part(part, origin))
        else:
            expected, given = "a part of type text, image or image_url", shorten(part)
            raise DataError("bad part", expected=expected, given=given, origin=origin)
    return tuple(parts)
