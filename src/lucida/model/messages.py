"""Hugging Face messages as a `Sample`, and images from whatever a user holds in hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from lucida.core.errors import DataError
from lucida.data.encoded import encoded_source, find_held_source, looks_encoded, picture_of_part
from lucida.data.images import file_source, make_image_source
from lucida.data.sample import ImagePart, ImageSource, Part, Sample, Turn
from lucida.data.spoken import refuse_unsaid

Message = Mapping[str, Any]
Picture = Image.Image | np.ndarray | str | Path | bytes | BinaryIO | Mapping[str, Any] | ImageSource

ROLES = ("system", "user", "assistant")


def image_source(picture: Picture, number: int) -> ImageSource:
    """A source for a picture in any form; `number` names it in errors.

    A Pillow image or numpy array as `convert_image` takes them, the path of a file, the bytes of
    one, an open binary file (read from its beginning), base64 with or without a `data:` address, or
    a mapping with `bytes` or `path` as datasets give them. All become what `open_image` makes of
    the file. DataError for anything else; nothing is fetched from elsewhere.
    """
    origin = f"image {number} in memory"
    if isinstance(picture, ImageSource):
        return picture
    if isinstance(picture, Image.Image | np.ndarray):
        return make_image_source(picture, origin)
    if isinstance(picture, Mapping) and picture.get("bytes") is None:
        picture = picture.get("path")
    if hasattr(picture, "read") and hasattr(picture, "seek"):
        picture = _whole(picture, origin)
    if isinstance(picture, str) and looks_encoded(picture):
        return encoded_source(picture, origin)
    if isinstance(picture, str | Path):
        if str(picture)[:8].lower().startswith(("http:/", "https:/")):  # a Path keeps one slash
            raise DataError(
                "images are not fetched from addresses",
                given=str(picture)[:80],
                remedy="download the image and give its path or its content",
            )
        return file_source(picture)
    source = find_held_source(picture, origin)
    if source is None:
        raise DataError(
            "this is no image",
            expected="a Pillow image, an array, a path, base64, or the bytes of a file",
            given=type(picture).__name__,
        )
    return source


def _whole(file: BinaryIO, origin: str) -> bytes:
    try:
        file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed, or no text
        raise DataError(f"cannot read the image: {error}", origin=origin) from error
    if not isinstance(content, bytes):
        raise DataError("this is no image: the file is open as text", origin=origin)
    return content


def sample_of(
    messages: Sequence[Message], images: Sequence[Picture] = (), origin: str = "conversation"
) -> Sample:
    """The sample of a conversation: one branch, its images in the order in which they are shown.

    A message is `{"role": …, "content": text or parts}`; a part is `{"type": "text", "text": …}` or
    `{"type": "image", "image": picture}` (or an `image_url`; see `picture_of_part`). An image part
    without a picture shows the next of `images`. DataError when there are too few or too many of
    them, a part is of another type, or a message calls tools, which nothing here can say. Other
    keys, such as `name`, are not read.
    """
    waiting = iter(images)
    sources: list[ImageSource] = []
    turns = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise _wrong("a message is no object", "role and content", message, origin)
        role = message.get("role")
        if role not in ROLES:
            raise DataError(
                "unknown role of a message", expected=", ".join(ROLES), given=role, origin=origin
            )
        refuse_unsaid(message, origin)
        parts = tuple(parts_of(message, waiting, sources, origin))
        turns.append(Turn(role, parts))
    left = len(list(waiting))
    if left:
        raise DataError(
            "there are more images than places for them",
            expected=len(sources),
            given=len(sources) + left,
            origin=origin,
            remedy='add a part {"type": "image"} for each image',
        )
    return Sample(origin, tuple(sources), (), (tuple(turns),))


def parts_of(
    message: Message, waiting: Iterator[Picture], sources: list[ImageSource], origin: str
) -> Iterator[Part]:
    """The parts of one message; images that it shows are appended to `sources`."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple | NoneType):
        raise _wrong("the content of a message is no text and no list", "parts", content, origin)
    for part in content or ():
        if not isinstance(part, Mapping):
            raise _wrong("a message part is no object", '{"type": …}', part, origin)
        kind = part.get("type")
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise _wrong("a text part has no text", '"text": …', part, origin)
            yield part["text"]
        elif kind in ("image", "image_url"):
            picture = picture_of_part(part, origin)
            if picture is None:
                picture = next(waiting, None)
            if picture is None:
                raise DataError(
                    "there are fewer images than places for them",
                    expected=f"at least {len(sources) + 1}",
                    given=len(sources),
                    origin=origin,
                    remedy='give "image" in the part, or one more image beside the messages',
                )
            sources.append(image_source(picture, len(sources) + 1))
            yield ImagePart(len(sources) - 1)
        else:
            raise DataError(
                "unknown type of a message part",
                expected="text, image or image_url",
                given=kind,
                origin=origin,
            )


def _wrong(what: str, expected: str, given: object, origin: str) -> DataError:
    return DataError(what, expected=expected, given=repr(given)[:80], origin=origin)


def pictures_of_texts(
    images: Picture | Sequence[Picture] | Sequence[Sequence[Picture]] | None, places: Sequence[int]
) -> list[tuple[ImageSource, ...]]:
    """The pictures of each text, of which the k-th has `places[k]` places for them.

    Given is one picture, a list in reading order, or one list for each text.
    """
    entries = [] if images is None else images if isinstance(images, list | tuple) else [images]
    nested = [isinstance(entry, list | tuple) or entry is None for entry in entries]
    if not any(nested):
        _check_pictures(sum(places), len(entries), "the texts show")
        ends = np.cumsum([0, *places]).tolist()
        groups = [entries[begin:end] for begin, end in pairwise(ends)]
    else:
        if not all(nested) or len(entries) != len(places):
            raise DataError(
                "pictures are one list in reading order, or one list for each text",
                expected=f"{len(places)} lists",
                given=f"{sum(nested)} lists and {nested.count(False)} pictures",
            )
        groups = [entry or () for entry in entries]
        for number, (expected, group) in enumerate(zip(places, groups, strict=True), 1):
            _check_pictures(expected, len(group), f"text {number} shows")
    numbers = count(1)
    return [tuple(image_source(each, next(numbers)) for each in group) for group in groups]


def _check_pictures(expected: int, given: int, who: str) -> None:
    if expected != given:
        raise DataError(
            f"{who} another number of images than are given",
            expected=expected,
            given=given,
            remedy="write the placeholder of an image once for each",
        )
