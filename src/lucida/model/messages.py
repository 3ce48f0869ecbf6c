"""Hugging Face messages as a `Sample`, and images from whatever a user holds in hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lucida.core.errors import DataError
from lucida.data.images import file_source, open_image
from lucida.data.sample import ImagePart, ImageSource, Part, Sample, Turn

Message = Mapping[str, Any]
Picture = Image.Image | str | Path | bytes | ImageSource

ROLES = ("system", "user", "assistant")


def image_source(picture: Picture, number: int) -> ImageSource:
    """A source for a Pillow image, a path or encoded bytes; `number` names it in errors."""
    if isinstance(picture, ImageSource):
        return picture
    if isinstance(picture, Image.Image):
        image = picture.convert("RGB")
        content = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        key = f"memory:{image.width}x{image.height}:{content}"
        return ImageSource(f"image {number} in memory", key, lambda: image)
    if isinstance(picture, bytes):
        key = f"bytes:{hashlib.blake2b(picture, digest_size=16).hexdigest()}"
        origin = f"image {number} in memory"
        return ImageSource(origin, key, lambda: open_image(picture, origin))
    if isinstance(picture, str | Path):
        if str(picture).startswith(("http://", "https://", "data:")):
            raise DataError(
                "images are not fetched from addresses",
                given=str(picture)[:80],
                remedy="download the image and give its path or its content",
            )
        return file_source(picture)
    raise DataError(
        "this is no image",
        expected="a Pillow image, a path or the bytes of a file",
        given=type(picture).__name__,
    )


def sample_of(
    messages: Sequence[Message], images: Sequence[Picture] = (), origin: str = "conversation"
) -> Sample:
    """The sample of a conversation: one branch, its images in the order in which they are shown.

    A message is `{"role": …, "content": text or parts}`; a part is `{"type": "text", "text": …}` or
    `{"type": "image", "image": picture}`. An image part without a picture shows the next of
    `images`. DataError when there are too few or too many of them, or a part is of another type.
    """
    waiting = iter(images)
    sources: list[ImageSource] = []
    turns = []
    for message in messages:
        role = message.get("role")
        if role not in ROLES:
            raise DataError(
                "unknown role of a message", expected=", ".join(ROLES), given=role, origin=origin
            )
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
    for part in content or ():
        kind = part.get("type")
        if kind == "text":
            yield part["text"]
        elif kind == "image":
            picture = next((part[key] for key in ("image", "path", "url") if key in part), None)
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
                expected="text or image",
                given=kind,
                origin=origin,
            )
