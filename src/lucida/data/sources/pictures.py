"""Pictures that records name: in a folder that they must not leave, or as bytes.

"coco/7.jpg" + folder ─checked─▶ ImageSource      bytes, tar member ─▶ ImageSource
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from lucida.core.errors import DataError
from lucida.data.images import ORIENTATION, QUARTER_TURNS, file_source, open_image
from lucida.data.sample import ImageSource

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class PictureFolder:
    """Pictures below `root`. A path that leaves it, by name or by a symbolic link, is refused
    unless `allow_outside`; a picture that is missing raises `DataError` with the record."""

    def __init__(self, root: Path, allow_outside: bool = False) -> None:
        if not root.is_dir():
            remedy = "set `images` of the source"
            raise DataError("the image folder does not exist", origin=root, remedy=remedy)
        self.root, self.allow_outside = root, allow_outside
        self._resolved = root.resolve()

    def picture(self, name: str, origin: str) -> ImageSource:
        """The picture of that name; it is looked at but not read."""
        if not name or "\0" in name or any("\ud800" <= sign <= "\udfff" for sign in name):
            remedy = "write the path of a picture, or drop the record"
            raise DataError("bad image path", given=repr(name), origin=origin, remedy=remedy)
        if name.startswith(("http://", "https://")):
            remedy = "download it and write its path; nothing is fetched while training"
            raise DataError("the image is an address", given=name, origin=origin, remedy=remedy)
        if name.startswith("data:"):
            return encoded_source(name, origin)
        path = self.root / name
        if not self.allow_outside and self._leaves(name, path):
            raise DataError(
                "the image path leaves the image folder",
                expected=f"a path below {self.root}",
                given=name,
                origin=origin,
                remedy="write paths relative to `images` of the source, without .. and links to "
                "elsewhere, or set `allow_outside`",
            )
        return file_source(path, record=origin)

    def _leaves(self, name: str, path: Path) -> bool:
        written = PureWindowsPath(name)
        if PurePosixPath(name).is_absolute() or written.drive or written.root:
            return True
        if ".." in written.parts:
            return True
        try:
            return not path.resolve().is_relative_to(self._resolved)
        except (OSError, RuntimeError):  # a link to itself: opening it says so
            return False


def pictures_beside(
    files: list[Path], images: str | Path | None, allow_outside: bool
) -> PictureFolder:
    """The pictures that records of `files` name: below `images`, or beside the first file."""
    return PictureFolder(files[0].parent if images is None else Path(images), allow_outside)


def bytes_source(
    content: bytes | Callable[[], bytes], origin: str, identity: str | None = None
) -> ImageSource:
    """A picture in memory, or one whose bytes are read by `content` when they are needed.

    `identity` names the content for the key where the bytes are not at hand.
    """
    if isinstance(content, bytes):
        key = f"bytes:{hashlib.blake2b(content, digest_size=16).hexdigest()}"
    else:
        if identity is None:
            raise ValueError("a reader of bytes needs an identity")
        key = f"member:{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"
    load, measure = partial(_load, content, origin), partial(_size, content, origin)
    return ImageSource(origin, key, load, measure, smaller=load)


def encoded_source(text: str, origin: str) -> ImageSource:
    """A picture as base64, with or without a `data:` address before it."""
    head, comma, body = text.partition(",")
    if head.startswith("data:") and not (comma and head.endswith(";base64")):
        expected = "data:image/...;base64,"
        raise DataError("bad data address", expected=expected, given=head[:60], origin=origin)
    try:
        content = base64.b64decode(body if head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        remedy = "export the picture again, or drop the record"
        raise DataError(f"bad base64: {error}", origin=origin, remedy=remedy) from error
    return bytes_source(content, f"{origin}: picture in the record")


def _bytes(content: bytes | Callable[[], bytes]) -> bytes:
    return content if isinstance(content, bytes) else content()


def _load(
    content: bytes | Callable[[], bytes], origin: str, least: tuple[int, int] | None = None
) -> Image.Image:
    return open_image(_bytes(content), origin, least)


def _size(content: bytes | Callable[[], bytes], origin: str) -> tuple[int, int]:
    """Width and height from the header; what cannot be told from it is told by opening it whole."""
    held = _bytes(content)
    try:
        with Image.open(io.BytesIO(held)) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= QUARTER_TURNS
            return (image.height, image.width) if turned else image.size
    except Exception:  # noqa: BLE001 (decoders raise anything; opening it whole says what)
        return open_image(held, origin).size
