"""Conversations as `messages` (OpenAI, TRL) or as ShareGPT's `conversations`, in JSON or JSONL.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A kite."}]}

An image part names its picture itself (`image`, `path`, `url` or `image_url`), or holds it (a
`data:` address, base64), or takes the next one of the record's `images`. `prompt` and `completion`
together are one conversation. Text is taken as it is: `<image>` in a message is text.
`conversations` with pictures are LLaVA's format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lucida.core.errors import DataError
from lucida.data.encoded import picture_of_part
from lucida.data.sample import ImagePart, ImageSource, Part, Sample, Turn
from lucida.data.sources.conversation import (
    one_conversation,
    role_of,
    shortened,
    spoken,
    text_of,
)
from lucida.data.sources.llava import conversation_sample
from lucida.data.sources.records import PicturedRecords

Picture = Callable[[Any, str], ImageSource]
"""What stands for a picture in a record, and the record's origin → the picture."""


class MessagesSource(PicturedRecords):
    """A file or several with one conversation a record.

    DataError, with file and record: broken JSON, no messages, an unknown role, a part of another
    type than text or image, more or fewer images than places, a picture that cannot be found.
    """

    def __getitem__(self, index: int) -> Sample:
        record, origin = self.record(index)
        if isinstance(record, dict) and isinstance(record.get("conversations"), list):
            if record.get("image") or record.get("images"):
                return conversation_sample(record, origin, self.pictures)
            turns = spoken(record["conversations"], origin)
            made = tuple(Turn(role, (text,) if text else ()) for role, text in turns)
            return one_conversation(origin, (), made)
        return message_sample(record, origin, self._picture)

    def _picture(self, value: Any, origin: str) -> ImageSource:
        if not isinstance(value, str):
            expected, given = "the path of a picture", shortened(value)
            raise DataError("bad image", expected=expected, given=given, origin=origin)
        return self.pictures.picture(value, origin)


def message_sample(record: Any, origin: str, picture: Picture) -> Sample:
    """A record with `messages`, or with `prompt` and `completion`, as a sample."""
    messages = _messages(record, origin)
    waiting = record.get("images") or record.get("image") or []
    waiting = list(waiting) if isinstance(waiting, list | tuple) else [waiting]
    own: list[Any] = []
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            expected, given = "an object with role and content", shortened(message)
            raise DataError("bad message", expected=expected, given=given, origin=origin)
        role = role_of(message.get("role"), origin)
        turns.append(Turn(role, _parts(message.get("content"), origin, own)))
    places = own.count(None)
    if places != len(waiting):
        raise DataError(
            "the messages show another number of images than `images` has",
            expected=len(waiting),
            given=places,
            origin=origin,
            remedy='write {"type": "image"} where each is shown',
        )
    rest = iter(waiting)
    shown = [next(rest) if value is None else value for value in own]
    images = tuple(picture(value, origin) for value in shown)
    return one_conversation(origin, images, tuple(turns))


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
        expected, given = "a text or a list of parts", shortened(content)
        raise DataError("bad `content`", expected=expected, given=given, origin=origin)
    parts: list[Part] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if text := text_of(part.get("text"), "text", origin):
                parts.append(text)
        elif kind in ("image", "image_url"):
            parts.append(ImagePart(len(own)))
            own.append(picture_of_part(part))
        else:
            expected, given = "a part of type text, image or image_url", shortened(part)
            raise DataError("bad part", expected=expected, given=given, origin=origin)
    return tuple(parts)
