"""Opening any picture safely.

`open_image` gives an RGB Pillow image or a `DataError` that names the file and says what to do.
What the encoder is shown of it is decided in `policies`.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lucida.core.errors import DataError
from lucida.data.sample import ImageSource

MAX_PIXELS = 89_478_485
"""Larger pictures are refused before they are decoded; it is the size from which Pillow warns."""

ORIENTATION, QUARTER_TURNS = 0x0112, 5
"""The EXIF tag, and the first of its values that swap width and height."""


def open_image(
    file: str | Path | bytes,
    origin: str | None = None,
    least: tuple[int, int] | None = None,
) -> Image.Image:
    """The picture as RGB, upright, 8 bits a channel.

    EXIF rotation is applied; transparency is laid on white; 16-bit grey is scaled (not clipped) to
    8 bits; CMYK and palettes are converted; of an animation the first frame is taken. Anything that
    cannot be decoded whole raises `DataError` with the `origin` (by default the path).

    With `least`, a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that is
    still so wide and high (upright): its averages over blocks, not the pixels of the whole. A block
    that the edge cuts counts as a whole one, which stretches the picture by less than a pixel.
    """
    if isinstance(file, bytes):
        origin, content = origin or f"{len(file)} bytes in memory", file
    else:
        origin = origin or str(file)
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            remedy = "check the path and the image folder of the source"
            message = f"cannot read the image: {reason}"
            raise DataError(message, origin=origin, remedy=remedy) from error
    _refuse_other_content(content, origin)
    try:
        image = Image.open(io.BytesIO(content))
    except Exception as error:  # decoders of untrusted bytes raise anything
        raise _undecodable(error, origin) from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                "the image is too large to be decoded",
                expected=f"at most {MAX_PIXELS} pixels",
                given=f"{image.width} x {image.height}",
                origin=origin,
                remedy="scale it down or drop the record",
            )
        try:
            plain = image.format == "JPEG"
            turned = image.getexif().get(ORIENTATION, 1) if plain else None
            if least is not None and plain:
                image.draft(None, least[::-1] if turned >= QUARTER_TURNS else least)
            _in_fours(image)
            image.load()
            # Transposing copies every picture, turned or not.
            return _to_rgb(image if turned == 1 else ImageOps.exif_transpose(image), origin)
        except DataError:
            raise
        except Exception as error:
            raise _undecodable(error, origin) from error


def _in_fours(image: Image.Image) -> None:
    """Let a JPEG decoder write four bytes a pixel, as Pillow keeps colours, and not three that are
    then spread: the same picture an eighth faster."""
    if image.format == "JPEG" and [tile.args for tile in image.tile] == [("RGB", "")]:
        image.tile = [image.tile[0]._replace(args=("RGBX", ""))]


def _undecodable(error: Exception, origin: str) -> DataError:
    remedy = (
        "download or export it again, or choose another picture (in training "
        "mixture.on_error=skip leaves its record out)"
    )
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "this is no image format that Pillow knows"
    elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        reason = "the image is too large to be decoded"
    else:
        reason = f"the image is damaged: {str(error) or type(error).__name__}"
    return DataError(reason, origin=origin, remedy=remedy)


def _refuse_other_content(content: bytes, origin: str) -> None:
    """Names the three things that most often stand where an image should be."""
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


def _to_rgb(image: Image.Image, origin: str) -> Image.Image:
    mode = image.mode
    if mode == "F":
        remedy = "store it with 8 or 16 bits a channel"
        message = "a floating-point image has no known white"
        raise DataError(message, origin=origin, remedy=remedy)
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                "the grey values do not fit 16 bits",
                expected="0 to 65535",
                given=f"{values.min()} to {values.max()}",
                origin=origin,
                remedy="store it with 8 or 16 bits a channel",
            )
        return Image.fromarray((values / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        # "La" and "RGBa" only convert to their straight-alpha twins.
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert("RGBA")
        white = Image.new("RGBA", straight.size, "white")
        return Image.alpha_composite(white, straight).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def file_source(path: str | Path, record: str | None = None) -> ImageSource:
    """An image file as a source; the file is looked at but not read.

    `record` is where the path was met ("train.json: record 17"); errors name both.

    The key holds the path, size and times of the file, so a file that is replaced gets another key
    and features cached for the old content are never met again.
    """
    path = Path(path)
    origin = str(path) if record is None else f"{record}: {path}"
    try:
        stat = path.stat()
    except OSError as error:
        remedy = "check the path and the image folder of the source"
        message = f"cannot find the image: {error.strerror or error}"
        raise DataError(message, origin=origin, remedy=remedy) from error
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    key = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    load, measure = partial(open_image, path, origin), partial(measured, path, origin)
    return ImageSource(origin, f"file:{key}", load, measure, smaller=load)


def measured(path: Path, origin: str) -> tuple[int, int]:
    """Width and height of an image file as `open_image` would give them, from its header alone."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= QUARTER_TURNS
            return (image.height, image.width) if turned else image.size
    except Exception:  # noqa: BLE001 (decoders raise anything; opening it whole says what)
        return open_image(path, origin).size


_sizes: dict[str, tuple[int, int]] = {}


def image_size(source: ImageSource) -> tuple[int, int]:
    """Width and height of a source; found once and remembered by content key."""
    size = _sizes.get(source.key)
    if size is None:
        if len(_sizes) >= 1_000_000:  # about 200 MB of keys: begin again
            _sizes.clear()
        size = source.load().size if source.measure is None else source.measure()
        _sizes[source.key] = size
    return size
