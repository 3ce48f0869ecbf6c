"""Opening any picture safely, and in one way.

    path, bytes, file object ──decoded──▶ Pillow image ─┐
                             Pillow image, numpy array ─┴─upright─▶ RGB, 8 bits a channel

`open_image` gives an RGB Pillow image or a `DataError` that names the file and says what to do.
Sources of pictures are made here for files, bytes and what a user holds in hand. What the encoder
is shown of a picture is decided in `policies`; base64 is read in `encoded`.
"""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lucida.core.errors import DataError
from lucida.data.decoding import (
    FORMATS,
    MAX_BYTES,
    NAMES,
    decode_image,
    readable,
    refuse_size,
    undecodable,
)
from lucida.data.metadata import QUARTER_TURNS, orientation, upright_size
from lucida.data.sample import ImageSource

BAND = 1 << 22
"""Pixels that are converted at once, which bounds what converting takes beside the picture."""

SPREAD = {"L;2": 85, "L;4": 17}
"""By which factor Pillow makes grey of 2 and 4 bits one of 8: 3 and 15 become 255."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of a TIFF (TIFF 6.0, section 8 and "SampleFormat"). PHOTOMETRIC 0: the value 0 is white."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of each EXIF orientation upright."""


def open_image(
    file: str | Path | bytes,
    origin: str | None = None,
    least: tuple[int, int] | None = None,
) -> Image.Image:
    """The picture as RGB, upright, 8 bits a channel.

    EXIF rotation is applied; transparency is laid on white; grey of 12 and 16 bits is scaled (not
    clipped) to 8, and 0 is white where a TIFF says so; CMYK and palettes are converted; of an
    animation or of several pages the first is taken. Read are JPEG, PNG, WebP, GIF, BMP, TIFF, PPM
    and AVIF. Ignored are colour profiles, comments and all other metadata; where it is damaged the
    picture is opened as it is stored. Anything whose pixels cannot be decoded whole raises
    `DataError` with the `origin` (by default the path).

    With `least`, a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that is
    still so wide and high (upright): its averages over blocks, not the pixels of the whole. A block
    that the edge cuts counts as a whole one, which stretches the picture by less than a pixel.
    """
    origin = origin or _name(file)
    content = file if isinstance(file, bytes) else _content(Path(file), origin)
    return decode_image(content, origin, partial(_load_upright, origin=origin, least=least))


def _name(file: str | Path | bytes) -> str:
    return f"{len(file)} bytes in memory" if isinstance(file, bytes) else str(file)


def _content(path: Path, origin: str) -> bytes:
    """The bytes of a file; nothing but a file of ordinary size is read."""
    remedy = "check the path"
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            # A pipe would be waited for, and a device never ends.
            raise DataError("cannot read the image: no file", origin=origin, remedy=remedy)
        if found.st_size > MAX_BYTES:
            raise DataError(
                "the file is too large for an image",
                expected=f"at most {MAX_BYTES} bytes",
                given=found.st_size,
                origin=origin,
                remedy="scale it down or drop the record",
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read the image: {reason}"
        raise DataError(message, origin=origin, remedy=remedy) from error


def _load_upright(image: Image.Image, origin: str, least: tuple[int, int] | None) -> Image.Image:
    """The upright picture of an opened file, a JPEG in no more pixels than `least` needs."""
    if image.format in ("JPEG", "MPO"):
        if least is not None:
            # `draft` speaks of stored pixels, `least` of upright ones.
            image.draft(None, least[::-1] if orientation(image) >= QUARTER_TURNS else least)
        # Four bytes a pixel, as Pillow keeps colours, and not three that are then spread: the same
        # picture an eighth faster.
        if [tile.args for tile in image.tile] == [("RGB", "")]:
            image.tile = [image.tile[0]._replace(args=("RGBX", ""))]
    mend_clear(image, origin)
    image.load()
    return upright(image, origin)


def mend_clear(image: Image.Image, origin: str) -> None:
    """Make the clear grey of a PNG that is not loaded yet the one that its pixels will have: Pillow
    spreads 2 and 4 bits over 8, and leaves that value as it is stored. DataError where it cannot be
    told: colours of 16 bits lose half of them, and others become equal to the clear one."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or clear is None or not image.tile:
        return
    stored = image.tile[0].args
    if stored in SPREAD:
        image.info["transparency"] = clear * SPREAD[stored]
    elif stored == "RGB;16B":
        message = "a clear colour among colours of 16 bits is not read"
        remedy = "store it with 8 bits a channel, or with an alpha channel"
        raise DataError(message, given=clear, origin=origin, remedy=remedy)


def upright(image: Image.Image, origin: str) -> Image.Image:
    """A loaded picture of any mode as RGB, turned as its metadata says, and without metadata: what
    comes out is never turned again. It may be `image` itself, which is used up."""
    turn, made = orientation(image), to_rgb(image, origin)
    if made is not image:
        image.close()  # its memory is needed for turning
    return _turn(made, turn)


def _turn(image: Image.Image, value: int) -> Image.Image:
    image = image.transpose(_TURNS[value]) if value in _TURNS else image
    image.info = {}
    return image


def to_rgb(image: Image.Image, origin: str) -> Image.Image:
    """Any mode as RGB: transparency on white, 16 bits scaled to 8. DataError where white is not
    known (floating point, grey values beyond 16 bits)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    signed = 2 in tags.get(SAMPLE_FORMAT, ()) and max(tags.get(BITS_PER_SAMPLE, (1,))) <= 16
    if image.mode == "F" or signed:
        remedy = "store it with 8 or 16 bits a channel"
        kind = "a floating-point image" if image.mode == "F" else "an image of signed numbers"
        raise DataError(f"{kind} has no known white", origin=origin, remedy=remedy)
    # Pillow gives grey of 12 bits and of 16 as it is stored, white as 0 where a TIFF has it so.
    white = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    inverted = tags.get(PHOTOMETRIC) == 0
    convert = partial(_band_as_rgb, origin=origin, white=white, inverted=inverted)
    width, height = image.size
    rows = max(1, BAND // width)
    if rows >= height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        whole.paste(convert(band), (0, top))
    return whole


def _band_as_rgb(image: Image.Image, origin: str, white: int, inverted: bool) -> Image.Image:
    mode = image.mode
    clear = image.info.get("transparency")
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
        levels = scale_to_eight_bits(values, white)
        levels = 255 - levels if inverted else levels
        if isinstance(clear, int):
            # The clear value is one of 16 bits: it has to be found before they are scaled to 8.
            levels[values == clear] = 255
        return Image.fromarray(levels).convert("RGB")
    if mode == "LAB":
        remedy = "convert it to RGB"
        raise DataError(
            "colours of this kind are not converted", given=mode, origin=origin, remedy=remedy
        )
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or clear is not None:
        # "La" and "RGBa" only convert to their straight-alpha twins.
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert("RGBA")
        white = Image.new("RGBA", straight.size, "white")
        return Image.alpha_composite(white, straight).convert("RGB")
    return image.convert("RGB")


def scale_to_eight_bits(values: np.ndarray, white: int = 65535) -> np.ndarray:
    """16 bits, or those up to `white`, as 8: `white` is 255, and what lies between is rounded."""
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def convert_image(picture: Image.Image | np.ndarray, origin: str) -> Image.Image:
    """A Pillow image of any mode or a numpy array as the same RGB picture that its file would be.

    An array is [height, width] or [height, width, channels] of uint8, uint16 or bool; channels are
    grey, grey and alpha, RGB, or RGBA. A Pillow image that is not loaded yet is held to the formats
    of `open_image`. DataError for anything else, and where loading it fails.
    """
    image = _of_array(picture, origin) if isinstance(picture, np.ndarray) else picture
    if getattr(image, "tile", None) and image.format not in (*FORMATS, "MPO"):
        raise DataError(
            "an image of this format is not decoded",
            expected=NAMES,
            given=image.format,
            origin=origin,
            remedy="call its `load()` first if you trust it",
        )
    refuse_size(image, origin)
    file = getattr(image, "fp", None)  # gone once the picture is loaded
    try:
        mend_clear(image, origin)
        image.load()
    except DataError:
        raise
    except Exception as error:
        if file is None or file.closed:
            raise undecodable(error, b"", origin) from error
        file.seek(0)
        return open_image(file.read(), origin)  # which also does without metadata
    made = to_rgb(image, origin)
    made = image.copy() if made is image else made  # the caller may draw into its own
    return _turn(made, orientation(image))


def _of_array(values: np.ndarray, origin: str) -> Image.Image:
    # Some files keep the high byte first; below, types are compared with this machine's.
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    shaped = values.ndim == 2 or (values.ndim == 3 and 1 <= values.shape[2] <= 4)
    if not shaped or values.dtype not in (np.uint8, np.uint16, np.bool_):
        raise DataError(
            "this array is no picture",
            expected="uint8, uint16 or bool of shape [height, width] or [height, width, 1 to 4]",
            given=f"{values.dtype} of shape {list(values.shape)}",
            origin=origin,
            remedy="move channels to the end; floating-point values times 255 as uint8",
        )
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype == np.uint16 and values.ndim == 3:
        values = scale_to_eight_bits(values)
    if not values.size:  # Pillow makes no picture of nothing; who opens it refuses its size
        return Image.new("L", values.shape[1::-1])
    return Image.fromarray(np.ascontiguousarray(values))


def measure_image(file: str | Path | bytes, origin: str | None = None) -> tuple[int, int]:
    """Width and height of a picture as `open_image` would give them, from its header alone where
    that tells them; else by opening it whole, which also says what is wrong."""
    if not isinstance(file, bytes) and not Path(file).is_file():
        return open_image(file, origin).size
    try:
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        with Image.open(opened, formats=readable()) as image:
            refuse_size(image, origin or _name(file))
            size = upright_size(image)
    except DataError:
        raise
    except Exception:  # noqa: BLE001 (decoders raise anything; opening it whole says what)
        size = None
    return open_image(file, origin).size if size is None else size


measured = measure_image
"""Its name until 2026-11; scripts of others call it."""


def file_source(path: str | Path, record: str | None = None) -> ImageSource:
    """An image file as a source; the file is looked at but not read.

    `record` is where the path was met ("train.json: record 17"); errors name both.

    The key holds the path, size and times of the file, so a file that is replaced gets another key
    and features cached for the old content are never met again.
    """
    path = Path(path)
    origin = str(path) if record is None else f"{record}: {path}"
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        remedy = "check the path"
        if record is not None:
            remedy += " and the image folder of the source"
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot find the image: {reason}"
        raise DataError(message, origin=origin, remedy=remedy) from error
    identity = f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"
    key = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    load, measure = partial(open_image, path, origin), partial(measure_image, path, origin)
    return ImageSource(origin, f"file:{key}", load, measure, smaller=load)


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
    load, measure = partial(_load, content, origin), partial(_measure, content, origin)
    return ImageSource(origin, key, load, measure, smaller=load)


def _bytes(content: bytes | Callable[[], bytes]) -> bytes:
    return content if isinstance(content, bytes) else content()


def _load(
    content: bytes | Callable[[], bytes], origin: str, least: tuple[int, int] | None = None
) -> Image.Image:
    return open_image(_bytes(content), origin, least)


def _measure(content: bytes | Callable[[], bytes], origin: str) -> tuple[int, int]:
    return measure_image(_bytes(content), origin)


def make_image_source(picture: Image.Image | np.ndarray, origin: str) -> ImageSource:
    """A Pillow image or a numpy array as a source; converted now, as `convert_image` says."""
    image = convert_image(picture, origin)
    content = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
    key = f"memory:{image.width}x{image.height}:{content}"
    return ImageSource(origin, key, partial(_itself, image))


def _itself(image: Any) -> Any:
    return image


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
