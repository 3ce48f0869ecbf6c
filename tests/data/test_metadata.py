"""What stands beside the pixels: it turns a picture once, and its damage costs no picture. What may
be decoded at all: a list of formats, within bounds of size and time."""

import contextlib
import io
import os
import struct
import time
import zlib

import pytest
from PIL import Image

from lucida.core.errors import DataError
from lucida.data import decoding
from lucida.data.images import bytes_source, file_source, image_size, measure_image, open_image
from lucida.data.metadata import without_metadata

WIDE, HIGH = (32, 16), (16, 32)
PICTURE = Image.effect_noise(WIDE, 60).convert("RGB")
KINDS = ("JPEG", "PNG", "WEBP", "TIFF")


def saved(kind, image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(value, kind=3):
    """An EXIF block (little-endian, one entry) with this orientation."""
    entry = struct.pack("<HHIHH", 0x0112, kind, 1, value, 0)
    return b"II*\0\x08\0\0\0\x01\0" + entry + b"\0" * 4


JPEG, PNG, WEBP = saved("JPEG"), saved("PNG"), saved("WEBP")


def segment(marker, body):
    return b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body


def in_jpeg(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def chunk(name, body, checksum=None):
    checksum = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def in_png(*chunks):
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def behind_png(*chunks):
    return PNG[:-12] + b"".join(chunks) + PNG[-12:]


def riff(*chunks):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def part(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def extended(flags):
    sides = b"".join((side - 1).to_bytes(3, "little") for side in WIDE)
    return part(b"VP8X", bytes([flags, 0, 0, 0]) + sides)


def in_tiff(*entries, **options):
    """A TIFF with more tags in its directory: (tag, type, count, value)."""
    content = saved("TIFF", **options)
    content += b"\0" * (len(content) % 2)
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    own = [content[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    own += [struct.pack("<HHII", *entry) for entry in entries]
    own.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(own)) + b"".join(own) + b"\0" * 4
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
JPEG_TURNED, PNG_TURNED = segment(0xE1, b"Exif\0\0" + exif(6)), chunk(b"eXIf", exif(6))


def avif_with_damaged_exif():
    maker = struct.pack("<HHI4s", 271, 2, 3, b"ab\0")
    content = saved("AVIF", exif=b"II*\0\x08\0\0\0\x01\0" + maker + b"\0" * 4)
    return content.replace(b"II*\0", b"ZZZZ")


GROWING = zlib.compress(bytes(10**8))
DAMAGED = {
    "AVIF, EXIF is none": avif_with_damaged_exif(),
    "JPEG, short JFIF": in_jpeg(segment(0xE0, b"JFIF\0")),
    "JPEG, short Adobe": in_jpeg(segment(0xEE, b"Adobe")),
    "JPEG, Photoshop": in_jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\x04")),
    "JPEG, several pictures": in_jpeg(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x05\0aaaa")),
    "JPEG, colours": in_jpeg(segment(0xE2, b"ICC_PROFILE\0\x05\x01zzz")),
    "JPEG, EXIF header twice": in_jpeg(
        segment(0xE1, b"Exif\0\0Exif\0\0II*\0\x08\0\0\0" + bytes(6))
    ),
    "JPEG, EXIF is none": in_jpeg(segment(0xE1, b"Exif\0\0garbage that is no TIFF")),
    "JPEG, EXIF empty": in_jpeg(segment(0xE1, b"Exif\0\0")),
    "JPEG, EXIF cut": in_jpeg(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")),
    "JPEG, orientation as text": in_jpeg(segment(0xE1, b"Exif\0\0" + exif(0x36, kind=2))),
    "JPEG, orientation as fraction": in_jpeg(segment(0xE1, b"Exif\0\0" + exif(6, kind=5))),
    "PNG, colours": in_png(chunk(b"iCCP", b"k\0\0zzz")),
    "PNG, size of a pixel": in_png(chunk(b"pHYs", b"x")),
    "PNG, text": in_png(chunk(b"zTXt", b"k\0\0zzz")),
    "PNG, checksum of text": in_png(chunk(b"tEXt", b"k\0v", checksum=1)),
    "PNG, text behind": behind_png(chunk(b"iTXt", b"k\0\1\0\0\0zzz")),
    "PNG, checksum behind": behind_png(chunk(b"tEXt", b"k\0v", checksum=1)),
    "PNG, EXIF is none": in_png(chunk(b"eXIf", exif(6)[:12])),
    "PNG, checksum of EXIF": in_png(chunk(b"eXIf", exif(6), checksum=1)),
    "PNG, text that grows": in_png(chunk(b"zTXt", b"k\0\0" + GROWING)),
    "PNG, colours that grow": in_png(chunk(b"iCCP", b"k\0\0" + GROWING)),
    "PNG, much text": in_png(*[chunk(b"tEXt", b"k\0" + bytes(900_000))] * 90),
    "WebP, promises only": riff(extended(0x2C), WEBP[12:]),
    "WebP, EXIF is none": riff(extended(0x08), WEBP[12:], part(b"EXIF", b"zzzz")),
    "WebP, XMP cut": riff(extended(0x04), WEBP[12:], b"XMP " + struct.pack("<I", 5000) + b"a"),
    "WebP, more behind": WEBP + b"garbage",
    "TIFF, EXIF elsewhere": in_tiff((34665, 4, 1, 10**8)),
    "TIFF, EXIF as text": in_tiff((34665, 2, 4, 0x41414141), compression="tiff_lzw"),
    "TIFF, XMP beyond": in_tiff((700, 1, 2**30, 8)),
    "TIFF, size of a pixel": in_tiff((282, 2, 4, 0x31313131), (283, 5, 1, 10**9)),
    "TIFF, orientation as text": in_tiff((274, 2, 2, 0x36)),
}
TURNED = {
    "JPEG, beside damage": in_jpeg(JPEG_TURNED, segment(0xED, b"Photoshop 3.0\x008BIM\x04")),
    "JPEG, XMP": in_jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "PNG, beside damage": in_png(PNG_TURNED, chunk(b"zTXt", b"k\0\0zzz", checksum=3)),
    "PNG, behind the pixels": behind_png(PNG_TURNED),
    "PNG, XMP behind": behind_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "WebP, beside damage": riff(
        extended(0x0C), WEBP[12:], part(b"EXIF", exif(6)), b"XMP \xff\xff\0\0a"
    ),
    "TIFF, beside damage": in_tiff((274, 3, 1, 6), (34665, 4, 1, 10**8)),
    "TIFF, XMP": saved("TIFF", tiffinfo={700: XMP}),
}


@pytest.mark.parametrize("name", [*DAMAGED, *TURNED])
def test_damaged_metadata_costs_no_picture(name):
    content = (DAMAGED | TURNED)[name]
    started = time.process_time()
    size = HIGH if name in TURNED else WIDE
    assert open_image(content, name).size == size
    assert measure_image(content, name) == size
    assert open_image(content, name, (4, 4)).width <= size[0]
    assert time.process_time() - started < 10


def test_the_pixels_without_metadata_are_the_same():
    content = saved("PNG", PICTURE.convert("RGBA"), exif=exif(1))
    damaged = content[:33] + chunk(b"pHYs", b"x") + content[33:]
    assert open_image(damaged).tobytes() == open_image(content).tobytes()
    for kind in (*KINDS, "AVIF"):
        whole = saved(kind, exif=b"Exif\0\0" + exif(1))
        bare = without_metadata(whole)
        assert open_image(whole if bare is None else bare).tobytes() == open_image(whole).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_pixels_stay_an_error_beside_damaged_metadata(kind):
    content = {"JPEG": DAMAGED["JPEG, Photoshop"], "PNG": DAMAGED["PNG, text"],
               "WEBP": DAMAGED["WebP, EXIF is none"]}[kind]  # fmt: skip
    with pytest.raises(DataError, match="damaged"):
        open_image(content[: len(content) * 2 // 3])


@pytest.mark.parametrize("kind", [*KINDS, "AVIF"])
@pytest.mark.parametrize("value", [*range(13), 100, 255])
def test_the_header_promises_the_size_that_comes(kind, value, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = value
    content = saved(
        kind, Image.new("RGB", WIDE), exif=tags, **({"speed": 10} if kind == "AVIF" else {})
    )
    path = tmp_path / "picture"
    path.write_bytes(content)
    size = HIGH if 5 <= value <= 8 else WIDE
    for source in (bytes_source(content, "bytes"), file_source(path)):
        assert image_size(source) == source.load().size == size
    assert measure_image(path) == size
    shape = open_image(content, least=(size[0] // 2, size[1] // 2)).size
    assert shape == (size if kind != "JPEG" else (size[0] // 2, size[1] // 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", range(1, 9))
def test_a_picture_is_turned_exactly_once(kind, value):
    marked = Image.new("RGB", WIDE, "black")
    marked.paste((255, 255, 255), (0, 0, 8, 8))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    tags = Image.Exif()
    tags[0x0112] = value
    image = marked.transpose(stored[value]) if value > 1 else marked
    shown = open_image(saved(kind, image, exif=tags))
    assert shown.size == WIDE
    assert shown.getpixel((2, 2))[0] > 200 > 50 > shown.getpixel((29, 13))[0]


def test_a_png_is_measured_without_its_pixels(tmp_path):
    content = saved("PNG")
    path = tmp_path / "cut.png"
    path.write_bytes(content[: len(content) // 2])
    assert measure_image(path) == WIDE
    with pytest.raises(DataError, match="damaged"):
        open_image(path)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "DDS"])
def test_other_formats_are_never_tried(kind, tmp_path, monkeypatch):
    """Least of all PostScript, on whose content Pillow starts Ghostscript."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "picture.png"
    path.write_bytes(saved(kind))
    for read in (open_image, measure_image, lambda file: open_image(file.read_bytes())):
        with pytest.raises(DataError, match="no image format") as caught:
            read(path)
        assert all(name in str(caught.value) for name in ("JPEG", "PNG", "WebP", "TIFF", "AVIF"))
    assert not (tmp_path / "started").exists()


def test_a_pillow_image_of_another_format_is_not_decoded_for_anybody(tmp_path):
    from lucida.model.messages import image_source

    opened = Image.open(io.BytesIO(saved("EPS")))
    with pytest.raises(DataError, match="not decoded"):
        image_source(opened, 1)
    loaded = Image.open(io.BytesIO(saved("TGA")))
    loaded.load()
    assert image_source(loaded, 1).load().tobytes() == PICTURE.tobytes()


def test_every_format_that_is_named_is_read():
    for kind in decoding.FORMATS:
        content = saved(kind)
        assert decoding.format_of(content[:16]) == kind
        assert open_image(content).size == measure_image(content) == WIDE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PNG[:16] + struct.pack(">II", 0, 16) + PNG[24:], "damaged|no pixels"),
        (b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0),
         "damaged|no pixels"),
        (b"P6 0 9 255\n", "damaged|no pixels"),
        (b"P6 99999 99999 255\n", "too large"),
        (b"GIF89a\0\0\0\0\0\0\0;", "damaged|no pixels"),
        (b"GIF89a\xff\xff\xff\xff\0\0\0;", "too large|damaged"),
        (riff(part(b"VP8X", bytes(4) + b"\xff\x3f\0\xff\x3f\0"), WEBP[12:]), "too large|damaged"),
        (in_tiff((278, 4, 1, 2**31), (279, 4, 1, 2**32 - 1))[:200], "damaged"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_errors(content, words):
    for read in (open_image, measure_image):
        with pytest.raises(DataError, match=words):
            read(content)


def test_sizes_in_a_tiff_that_nothing_backs():
    big = 2**32 - 1
    for entry in (
        (256, 4, 1, big), (257, 4, 1, big), (278, 4, 1, big), (279, 4, 1, big), (273, 4, big, 8),
        (277, 3, 1, 60_000), (258, 3, big, 8), (322, 4, 1, big),
    ):  # fmt: skip
        for options in ({}, {"compression": "tiff_lzw"}):
            content = in_tiff(entry, **options)
            started = time.process_time()
            with contextlib.suppress(DataError):
                assert open_image(content).size == measure_image(content)
            assert time.process_time() - started < 5


def test_a_jpeg_of_endless_passes_is_refused():
    large = saved("JPEG", Image.new("RGB", (6000, 6000)), progressive=True)
    scan = large[large.rindex(b"\xff\xda") : -2]
    with pytest.raises(DataError, match="too many passes"):
        open_image(large[:-2] + scan * 200 + large[-2:])
    small = saved("JPEG", progressive=True)
    assert open_image(small).size == WIDE
