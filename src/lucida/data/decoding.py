"""Decoding the bytes of a picture file: only formats of `FORMATS`, only within bounds.

    content ──known format? size?──▶ Pillow ──▶ pixels as they are stored
                                       └─ it stumbles ──▶ once more without metadata

Formats that start a program or hold a document (PostScript, Windows metafiles) are never tried,
whatever a file is called.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

from PIL import Image

from lucida.core.errors import DataError
from lucida.data.metadata import without_metadata

FORMATS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "AVIF": "AvifImagePlugin",
}
"""The formats that are read, by Pillow's names, and its modules for them."""
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF"

MAX_PIXELS = 89_478_485
"""Larger pictures are refused before they are decoded; it is the size from which Pillow warns."""
MAX_WEBP_PIXELS = MAX_PIXELS // 2
"""WebP's decoder keeps two more copies of the canvas."""
MAX_BYTES = 6 * MAX_PIXELS
"""Larger files are refused unread: no picture of `MAX_PIXELS` needs that much."""
MAX_SCANNED_PIXELS = 40 * MAX_PIXELS
"""A progressive JPEG may ask for any number of passes over all its pixels; usual are 10."""

Read = TypeVar("Read")


def decode_image(content: bytes, origin: str, read: Callable[[Image.Image], Read]) -> Read:
    """What `read` makes of the opened picture. DataError names the `origin`.

    Where Pillow fails at opening or within `read`, both are tried once more without the file's
    metadata, which many programs write badly; damaged pixels fail again.
    """
    _refuse_other_content(content, origin)
    try:
        return _read(content, origin, read)
    except DataError:
        raise
    except Exception as error:  # decoders of untrusted bytes raise anything
        bare = without_metadata(content)
        if bare is not None:
            with suppress(Exception):
                return _read(bare, origin, read)
        raise undecodable(error, content, origin) from error


def _read(content: bytes, origin: str, read: Callable[[Image.Image], Read]) -> Read:
    with Image.open(io.BytesIO(content), formats=readable()) as image:
        refuse_size(image, origin)
        if image.info.get("progressive"):
            # Start-of-scan markers; FF is stuffed with 00 in coded data, so hardly anything else
            # counts here.
            passes = content.count(b"\xff\xda")
            if passes * image.width * image.height > MAX_SCANNED_PIXELS:
                raise DataError(
                    "the JPEG asks for too many passes over its pixels",
                    expected=f"at most {MAX_SCANNED_PIXELS // (image.width * image.height)}",
                    given=passes,
                    origin=origin,
                    remedy="save it again, or drop the record",
                )
        return read(image)


def refuse_size(image: Image.Image, origin: str) -> None:
    """DataError for a picture without pixels, and for one of too many."""
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if not 0 < image.width * image.height <= most:
        raise DataError(
            "the image has no pixels"
            if not image.width * image.height
            else "the image is too large to be decoded",
            expected=f"1 to {most} pixels",
            given=f"{image.width} x {image.height}",
            origin=origin,
            remedy="scale it down or drop the record",
        )


@cache
def readable() -> tuple[str, ...]:
    """The formats that this Pillow reads; older ones lack AVIF."""
    for module in FORMATS.values():
        with suppress(ImportError):
            importlib.import_module(f"PIL.{module}")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def format_of(start: bytes) -> str | None:
    """The format of `FORMATS` whose signature the first bytes (16 do) are, if any."""
    if start.startswith((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")):  # Pillow goes by less
        return "PPM" if start[2:3].isspace() else None
    if start.startswith(b"BM") and any(start[6:10]):  # zero in every BMP
        return None
    for name in readable():
        if name != "PPM" and Image.OPEN[name][1](start[:16]) is True:
            return name
    return None


def undecodable(error: Exception, content: bytes, origin: str) -> DataError:
    """What a decoder's trouble with this content means, as an error to raise."""
    remedy = "download or export it again, or choose another picture"
    known = format_of(content)
    if isinstance(error, Image.UnidentifiedImageError) and known is None:
        return DataError(
            "this is no image format that is read", expected=NAMES, origin=origin, remedy=remedy
        )
    if isinstance(error, Image.UnidentifiedImageError):
        reason = f"the image is damaged: its {known} header cannot be read"
    elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        reason = "the image is too large to be decoded"
    else:
        reason = f"the image is damaged: {str(error) or type(error).__name__}"
    return DataError(reason, origin=origin, remedy=remedy)


def _refuse_other_content(content: bytes, origin: str) -> None:
    """Names the things that most often stand where an image should be."""
    if not content:
        remedy = "copy or download it again"
        raise DataError("the image has zero bytes", origin=origin, remedy=remedy)
    start = content[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        remedy = "the download failed; get the image again"
        raise DataError("this is a web page, not an image", origin=origin, remedy=remedy)
    if start.startswith(b"version https://git-lfs"):
        remedy = "run `git lfs pull` in its repository"
        raise DataError("this is a Git LFS pointer, not an image", origin=origin, remedy=remedy)
