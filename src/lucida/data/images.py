"""Opening any picture safely, and making it the encoder's square.

`open_image` gives an RGB Pillow image or a `DataError` that names the file and says what to do.
`ImagePolicy` turns that image into normalised pixels and carries boxes into that frame and back.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from lucida.core.errors import DataError
from lucida.data.sample import ImageSource

MAX_PIXELS = 89_478_485
"""Larger pictures are refused before they are decoded; it is the size from which Pillow warns."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: left, top, right, bottom."""


def open_image(file: str | Path | bytes, origin: str | None = None) -> Image.Image:
    """The picture as RGB, upright, 8 bits a channel.

    EXIF rotation is applied; transparency is laid on white; 16-bit grey is scaled (not clipped) to
    8 bits; CMYK and palettes are converted; of an animation the first frame is taken. Anything that
    cannot be decoded whole raises `DataError` with the `origin` (by default the path).
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
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), origin)
        except DataError:
            raise
        except Exception as error:
            raise _undecodable(error, origin) from error


def _undecodable(error: Exception, origin: str) -> DataError:
    remedy = "download or export it again, or drop the record with mixture.on_error=skip"
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
    return ImageSource(origin=origin, key=f"file:{key}", load=partial(open_image, path, origin))


@dataclass(frozen=True)
class ImagePolicy:
    """How a picture of any shape becomes a square of `size` pixels, normalised by `mean` and `std`.

    resize      stretches both sides to the square
    letterbox   keeps the shape and pads with the mean colour (zero after normalisation)
    crop        scales the short side to the square and keeps the middle

    Resampling is Pillow's antialiased bicubic. `mean` and `std` are per channel, for values 0 to 1.

    Worked example: a box in a 200 x 100 picture, letterbox, size 100. The picture becomes 100 x 50
    with 25 rows of padding above, so (0, 0, 200, 100) is (0, 0.25, 1, 0.75) in the frame.
    """

    policy: Literal["resize", "letterbox", "crop"]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @cached_property
    def _normalised(self) -> np.ndarray:
        """What each of the 256 levels becomes, per channel: float32 [3, 256]."""
        levels = np.arange(256, dtype=np.float64) / 255
        mean, std = (np.asarray(v, dtype=np.float64)[:, None] for v in (self.mean, self.std))
        return ((levels - mean) / std).astype(np.float32)

    def square(self, image: Image.Image) -> Image.Image:
        """The RGB square before normalisation: what the model is shown, for people to look at."""
        width, height = image.size
        new_width, new_height, left, top = self._placed(width, height)
        if self.policy == "crop":
            # The same pixels as scaling whole and cutting the middle, without ever holding the
            # scaled whole: a 1 x 10000 strip would become 224 x 2240000.
            x, y = width / new_width, height / new_height
            middle = (-left * x, -top * y, (self.size - left) * x, (self.size - top) * y)
            return image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=middle)
        scaled = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        if (new_width, new_height) == (self.size, self.size):
            return scaled
        colour = tuple(round(255 * value) for value in self.mean)
        padded = Image.new("RGB", (self.size, self.size), colour)
        padded.paste(scaled, (left, top))
        return padded

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The square as the encoder takes it: float32 [3, size, size]."""
        levels = np.asarray(self.square(image))  # [size, size, 3] uint8
        planes = [self._normalised[channel][levels[..., channel]] for channel in range(3)]
        return np.stack(planes)

    def to_frame(self, box: Box, width: int, height: int) -> Box:
        """A box in pixels of a `width` x `height` picture → its place in shares of the square.

        Under `crop` a box may leave [0, 1]; it is `boxes.format_box` that clamps.
        """
        new_width, new_height, left, top = self._placed(width, height)
        x0, y0, x1, y1 = box
        x, y = new_width / width, new_height / height
        return (
            (x0 * x + left) / self.size,
            (y0 * y + top) / self.size,
            (x1 * x + left) / self.size,
            (y1 * y + top) / self.size,
        )

    def from_frame(self, box: Box, width: int, height: int) -> Box:
        """The inverse of `to_frame`: a box in shares of the square → pixels of the picture."""
        new_width, new_height, left, top = self._placed(width, height)
        x0, y0, x1, y1 = box
        x, y = new_width / width, new_height / height
        return (
            (x0 * self.size - left) / x,
            (y0 * self.size - top) / y,
            (x1 * self.size - left) / x,
            (y1 * self.size - top) / y,
        )

    def _placed(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height of the scaled picture, and where its corner stands in the square."""
        size = self.size
        if self.policy == "resize":
            return size, size, 0, 0
        side = max(width, height) if self.policy == "letterbox" else min(width, height)
        new_width = max(1, round(width * size / side))
        new_height = max(1, round(height * size / side))
        # Floor division of a negative number would shift odd crops the other way than padding.
        left = (size - new_width) // 2 if new_width <= size else -((new_width - size) // 2)
        top = (size - new_height) // 2 if new_height <= size else -((new_height - size) // 2)
        return new_width, new_height, left, top


def decode(sources: Sequence[ImageSource], policy: ImagePolicy) -> np.ndarray:
    """The processed pixels of many images: float32 [images, 3, size, size]."""
    if not sources:
        return np.zeros((0, 3, policy.size, policy.size), dtype=np.float32)
    return np.stack([policy.pixels(source.load()) for source in sources])
