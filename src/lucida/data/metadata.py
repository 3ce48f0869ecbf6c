"""What stands beside the pixels of a picture file: read where it can be, dropped where it cannot.

    orientation(image)          1 to 8, and 1 for whatever is no such number
    upright_size(image)         width and height once turned, from what stands before the pixels
    without_metadata(content)   the same file with its pixels and little else

Metadata is written by many hands and often wrong, and no pixel depends on it. A decoder that
stumbles over it is given the file once more without. Of what is dropped only the orientation would
have been used: a picture whose orientation cannot be read is shown as it is stored.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from PIL import Image

ORIENTATION, QUARTER_TURNS = 0x0112, 5
"""The EXIF tag, and the first of its values that swap width and height."""


def orientation(image: Image.Image) -> int:
    """How the stored pixels have to be turned, 1 to 8 as EXIF or XMP say; 1 when neither does.

    Of a PNG that is not loaded yet, what stands behind its pixels is not known.
    """
    try:
        value = Image.Image.getexif(image).get(ORIENTATION, 1)  # a PNG's own decodes it whole
    except Exception:  # noqa: BLE001 (parsers of untrusted bytes raise anything)
        return 1
    return value if type(value) is int and 1 <= value <= 8 else 1


def upright_size(image: Image.Image) -> tuple[int, int] | None:
    """Width and height of an opened but not yet loaded picture as it will be once it is turned.
    None where only loading it tells."""
    if image.format == "PNG" and any(_tells_late(image.fp)):
        return None
    if image.format == "TIFF" and ORIENTATION in image.tag_v2:
        return image.size  # Pillow turns it while it loads, and tells this size already
    turned = orientation(image) >= QUARTER_TURNS
    return (image.height, image.width) if turned else image.size


def _tells_late(stream: BinaryIO) -> Iterator[bool]:
    """Of every chunk of a PNG, whether it may tell an orientation behind the first pixels."""
    pixels = False
    for name, _, _ in png_chunks(stream):
        pixels |= name == b"IDAT"
        yield pixels and name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")


def without_metadata(content: bytes) -> bytes | None:
    """The file without what its pixels do not need; None where nothing can be dropped.

    Damage of the pixels stays: what cannot be followed is kept as it is.
    """
    try:
        if content.startswith(b"\xff\xd8"):
            bare = _jpeg(content)
        elif content.startswith(PNG):
            bare = _png(content)
        elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            bare = _webp(content)
        elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            bare = _tiff(content)
        elif content[4:8] == b"ftyp":
            bare = _avif(content)
        else:
            return None
    except (struct.error, IndexError):  # cut within a header
        return None
    return None if bare == content else bare


def _jpeg(content: bytes) -> bytes:
    """Without comments and application segments; the first EXIF and what tells colours stay."""
    kept, place, seen = [b"\xff\xd8"], 2, False
    while content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:  # the first scan: pixels from here on
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # a marker that stands alone
            end = place + 2
        else:
            end = place + 2 + struct.unpack_from(">H", content, place + 2)[0]
        body = content[place + 4 : end]
        if marker == 0xE0:
            wanted = body.startswith(b"JFIF\0") and len(body) >= 14
        elif marker == 0xEE:
            wanted = body.startswith(b"Adobe") and len(body) >= 12
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            wanted, seen = not seen, True
        else:
            wanted = marker != 0xFE and not 0xE0 <= marker <= 0xEF
        if wanted:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])


PNG = b"\x89PNG\r\n\x1a\n"


def png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of every chunk of a PNG, its length and checksum included."""
    place = len(PNG)
    stream.seek(place)
    while len(head := stream.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        yield name, place, place + 12 + size
        place += 12 + size
        stream.seek(place)


def _png(content: bytes) -> bytes:
    """Without ancillary chunks; transparency stays, and an EXIF block that is whole."""
    kept = [PNG]
    for name, begin, end in png_chunks(BytesIO(content)):
        chunk = content[begin:end]
        if name == b"eXIf":
            whole = len(chunk) == end - begin
            wanted = whole and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        else:
            wanted = name == b"tRNS" or not name[:1].islower()
        if wanted:
            kept.append(chunk)
    return b"".join(kept)


_ICC, _EXIF, _XMP = 0x20, 0x08, 0x04
"""Flags of a WebP's header that promise a chunk."""


def _webp(content: bytes) -> bytes:
    """Without colour profile, XMP and unknown chunks; an EXIF block that is whole stays."""
    chunks, place, exif = [], 12, False
    while place + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        chunk = content[place : place + 8 + size + size % 2]
        # Chunks are padded to even lengths, but the last one's padding is often missing.
        whole = len(chunk) >= 8 + size
        if name == b"EXIF" and whole and not exif:
            exif = True
            chunks.append(chunk)
        elif name in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"):
            chunks.append(chunk)
        place += 8 + size + size % 2
    if chunks and chunks[0][:4] == b"VP8X":
        header = bytearray(chunks[0])
        header[8] = header[8] & ~(_ICC | _EXIF | _XMP) | (_EXIF if exif else 0)
        chunks[0] = bytes(header)
    body = b"WEBP" + b"".join(chunk + b"\0" * (len(chunk) % 2) for chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


_TIFF_TAGS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 532),
}
"""Size, layout, compression and colours of a TIFF's pixels."""
_WHOLE_NUMBERS = (1, 3, 4)
"""TIFF's types BYTE, SHORT and LONG."""


def _tiff(content: bytes) -> bytes:
    """With the first directory's tags about pixels and orientation, and no directory behind it."""
    order = "<" if content[:1] == b"I" else ">"
    if big := content[2:4] in (b"+\0", b"\0+"):
        start = struct.unpack_from(f"{order}Q", content, 8)[0]
        count, entry = f"{order}Q", f"{order}HHQ8s"
    else:
        start = struct.unpack_from(f"{order}I", content, 4)[0]
        count, entry = f"{order}H", f"{order}HHI4s"
    written = struct.unpack_from(count, content, start)[0]
    first, size = start + struct.calcsize(count), struct.calcsize(entry)
    kept = []
    for number in range(min(written, (len(content) - first) // size)):
        fields = struct.unpack_from(entry, content, first + number * size)
        turned = fields[0] == ORIENTATION and fields[1] in _WHOLE_NUMBERS and fields[2] == 1
        if turned or fields[0] in _TIFF_TAGS:
            kept.append(struct.pack(entry, *fields))
    # It overwrites the old directory in place, so that offsets of pixels stay true; zeros for "no
    # more".
    directory = struct.pack(count, len(kept)) + b"".join(kept) + bytes(8 if big else 4)
    return content[:start] + directory + content[start + len(directory) :]


def _avif(content: bytes) -> bytes:
    """With EXIF and XMP items renamed to a type that nobody reads. The turn of the picture itself
    stands elsewhere and stays."""
    # An item's entry: version 2 or 3, flags, its number (2 or 4 bytes), protection (2), then the
    # type (ISO/IEC 14496-12, section 8.11.6). `meta` stands in front of the pixels, and no entry
    # moves.
    entry = rb"(infe[\x02\x03].{3}(?:.{2}|.{4}).{2})(?:Exif|mime)"
    return re.sub(entry, rb"\g<1>skip", content[:65_536], flags=re.DOTALL) + content[65_536:]
