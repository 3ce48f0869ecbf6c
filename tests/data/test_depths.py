"""Depths that Pillow gives as they are stored: grey and clear values as the file means them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lucida.core.errors import DataError
from lucida.data.images import convert_image, open_image, scale_to_eight_bits


def chunk(name, body):
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + checksum


def png(depth, colour, row, clear):
    """A picture of 2 x 1 pixels by its packed row, with a clear value."""
    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in (*parts, (b"IEND", b"")))


def tiff(values, **tags):
    """Two grey values of 16 bits, and other values of tags that Pillow wrote."""
    file = io.BytesIO()
    image = Image.fromarray(np.array([values], dtype=np.uint16))
    image.save(file, "TIFF", tiffinfo={339: 1})
    content = file.getvalue()
    for tag, value in ((int(name[1:]), value) for name, value in tags.items()):
        at = content.index(struct.pack("<HHI", tag, 3, 1)) + 8
        content = content[:at] + struct.pack("<H", value) + content[at + 2 :]
    return content


def shown(content):
    """The first row's red levels, by the bytes and by Pillow's image before and after loading."""
    loaded = Image.open(io.BytesIO(content))
    levels = np.asarray(open_image(content))[0, :, 0].tolist()
    assert np.asarray(convert_image(loaded, "given"))[0, :, 0].tolist() == levels
    return levels, np.asarray(convert_image(loaded, "given"))[0, :, 0].tolist()


@pytest.mark.parametrize(("depth", "step"), [(2, 85), (4, 17), (8, 1)])
def test_the_clear_grey_of_a_few_bits_is_the_one_of_the_file(depth, step):
    for clear, other in ((1, 0), (0, 1), (2, 1)):
        row = bytes([clear, other]) if depth == 8 else (
            bytes([clear << (8 - depth) | other << (8 - 2 * depth)]))  # fmt: skip
        content = png(depth, 0, row, struct.pack(">H", clear))
        assert shown(content) == ([255, other * step],) * 2


def test_a_clear_colour_among_those_of_16_bits_is_refused():
    row = struct.pack(">6H", 300, 0, 0, 0, 0, 0)  # Pillow takes 300 for the clear 1
    with pytest.raises(DataError, match="clear colour among colours of 16 bits"):
        open_image(png(16, 2, row, struct.pack(">HHH", 1, 0, 0)))


def test_a_tiff_of_16_bits_may_have_0_for_white():
    assert shown(tiff((0, 65535)))[0] == [0, 255]
    assert shown(tiff((0, 65535), _262=0)) == ([255, 0],) * 2
    assert shown(tiff((65535 - 257, 257 * 7), _262=0)) == ([1, 248],) * 2


def test_white_of_12_bits_is_white():
    assert shown(tiff((0x0F00, 0x00FF), _258=12)) == ([0, 255],) * 2
    every = np.arange(65536)
    assert (scale_to_eight_bits(every) == (every + 128) // 257).all()
    assert scale_to_eight_bits(np.array([0, 2048, 4095]), 4095).tolist() == [0, 128, 255]


def test_signed_grey_has_no_known_white():
    for values in ((0, 32767), (0, 65535)):
        with pytest.raises(DataError, match="signed numbers"):
            open_image(tiff(values, _339=2))
