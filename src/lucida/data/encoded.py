"""Pictures written as text: base64, and `data:` addresses around it.

Line breaks and spaces, the alphabet for addresses (`-` and `_`), missing padding and percent signs
are all read; whoever wrote the text chose them, the bytes are the same.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image

from lucida.core.errors import DataError
from lucida.data.decoding import format_of
from lucida.data.images import bytes_source
from lucida.data.sample import ImageSource

SPACE = b" \t\r\n\v\f"
SHORTEST = 32
"""Letters of the shortest text that is looked at for a picture: those of any format are longer."""


def read_base64(text: str | bytes, origin: str) -> bytes:
    """The bytes that base64 stands for. DataError for anything else, and for text that is cut."""
    try:
        signs = text.encode("ascii") if isinstance(text, str) else bytes(text)
        if b"%" in signs:
            signs = unquote_to_bytes(signs)
        signs = signs.translate(bytes.maketrans(b"-_", b"+/"), SPACE).rstrip(b"=")
        return base64.b64decode(signs + b"=" * (-len(signs) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        remedy = "export the picture again, or drop the record"
        raise DataError(f"bad base64: {error}", origin=origin, remedy=remedy) from error


def is_address(text: str) -> bool:
    """Whether text begins as a `data:` address does."""
    return text[:32].lstrip()[:5].lower() == "data:"


def encoded_bytes(text: str, origin: str) -> bytes:
    """The bytes of base64, with or without a `data:` address before it."""
    if not is_address(text):
        return read_base64(text, origin)
    head, comma, body = text.partition(",")
    options = [each.strip().lower() for each in head.split(";")[1:]]
    if comma and "base64" in options:
        return read_base64(body, origin)
    content = unquote_to_bytes(body.encode("utf-8", "replace"))
    if not comma or format_of(content[:16]) is None:
        expected = "data:image/...;base64,"
        raise DataError("bad data address", expected=expected, given=head[:60], origin=origin)
    return content


def make_data_address(image: Image.Image, form: str = "PNG", **options: Any) -> str:
    """A picture as a `data:` address. PNG keeps every pixel; `options` are those of Pillow's
    writer of the format."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{form.lower()};base64,{content}"


def encoded_source(text: str, origin: str) -> ImageSource:
    """A picture as base64, with or without a `data:` address before it."""
    return bytes_source(encoded_bytes(text, origin), f"{origin}: picture in the record")


def looks_encoded(text: str | bytes) -> bool:
    """Whether text is a `data:` address, or base64 of the first bytes of a picture's format. The
    path of a file never is, as 16 of its letters would have to spell a signature."""
    if isinstance(text, bytes):
        if len(text) < SHORTEST or format_of(text[:16]) is not None:
            return False
        text = text[:4096].decode("latin-1")
    if is_address(text):
        return True
    start = re.sub(r"\s", "", text[:256])[:SHORTEST]
    if len(start) < SHORTEST:
        return False
    try:
        return format_of(read_base64(start, "")[:16]) is not None
    except DataError:
        return False


def find_held_source(value: Any, origin: str) -> ImageSource | None:
    """The picture that a value of a record holds itself: bytes, text of base64, or a struct with
    `bytes`. None when it holds none, as a path or an address does."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    if isinstance(value, str | bytes) and looks_encoded(value):
        text = value if isinstance(value, str) else value.decode("latin-1")
        return bytes_source(encoded_bytes(text, origin), f"{origin}: picture")
    return bytes_source(value, f"{origin}: picture") if isinstance(value, bytes) else None


def picture_of_part(part: Mapping[str, Any], origin: str | None = None) -> Any:
    """What a message part names or holds as its picture, None where it leaves that to others.

    Read are `image`, `path`, `url`, `image_url` (its `url`), `base64`, and Anthropic's `source` of
    type base64 or url; the first of them that is there. DataError for a part of a message (it has a
    `type`) with two of them that differ.
    """
    names = ("image", "path", "url", "image_url", "base64", "source")
    held = [key for key in names if part.get(key) is not None]
    if "type" in part and len(held) > 1:
        values = [part[key] for key in held]
        if not all(isinstance(value, str) and value == values[0] for value in values):
            raise DataError(
                "a part with two pictures",
                expected=f"one of {', '.join(names)}",
                given=" and ".join(held),
                origin=origin,
                remedy="give each picture a part of its own",
            )
    for key in names:
        value = part.get(key)
        if value is None:
            continue
        if isinstance(value, Mapping):
            if key == "image_url":
                return value.get("url")
            if key == "source":
                return value.get("data") if value.get("type") == "base64" else value.get("url")
        return value
    return None
