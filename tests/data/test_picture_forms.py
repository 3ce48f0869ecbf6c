"""One picture in every form in which it can be handed over: the same pixels, the same rules."""

import base64
import io
import os
import pickle
import threading
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from lucida.core.errors import DataError
from lucida.data.encoded import encoded_source, find_held_source, looks_encoded, read_base64
from lucida.data.images import image_size, open_image
from lucida.model.messages import image_source, sample_of

rng = np.random.default_rng(0)
COLOURS = Image.fromarray(rng.integers(0, 256, (24, 36, 4), dtype=np.uint8), "RGBA")
GREYS = Image.fromarray(rng.integers(0, 65536, (24, 36), dtype=np.uint16))


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


FILES = {
    "RGB": saved(COLOURS.convert("RGB")),
    "RGBA": saved(COLOURS),
    "LA": saved(COLOURS.convert("LA")),
    "L with a clear grey": saved(COLOURS.convert("L"), transparency=7),
    "P": saved(COLOURS.convert("RGB").convert("P")),
    "P with a clear colour": saved(COLOURS.convert("RGB").convert("P"), transparency=3),
    "P with alpha of each colour": saved(COLOURS.convert("P"), transparency=bytes(range(256))),
    "PA": saved(COLOURS.convert("RGB").convert("P").convert("PA").convert("RGBA"), "TIFF"),
    "1": saved(COLOURS.convert("1")),
    "I;16": saved(GREYS),
    "I": saved(GREYS.convert("I"), "TIFF"),
    "CMYK": saved(COLOURS.convert("RGB").convert("CMYK"), "JPEG"),
    "RGBA as WebP": saved(COLOURS, "WEBP", lossless=True),
    "GIF": saved(COLOURS.convert("RGB"), "GIF"),
} | {
    f"{kind} turned {value}": saved(COLOURS.convert("RGB"), kind, exif=turned(value))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF")
    for value in (3, 6, 7, 9)
}


def forms(content, path):
    """The picture of a file in all forms that hold all of it."""
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    opened = Image.open(io.BytesIO(content))
    loaded = Image.open(io.BytesIO(content))
    loaded.load()
    read_to_its_end = io.BytesIO(content)
    read_to_its_end.read()
    return {
        "path": path,
        "path as text": str(path),
        "bytearray": bytearray(content),
        "file": path.open("rb"),
        "file in memory": read_to_its_end,
        "Pillow, not loaded": opened,
        "Pillow, loaded": loaded,
        "Pillow, copied": loaded.copy(),
        "dataset": {"bytes": content, "path": None},
        "dataset, path": {"bytes": None, "path": str(path)},
        "base64": text,
        "base64 as bytes": text.encode(),
        "base64 in lines": base64.encodebytes(content).decode(),
        "base64 for addresses": base64.urlsafe_b64encode(content).decode().rstrip("="),
        "data": f"data:image/png;base64,{text}",
        "data, other words": f" DATA:image/PNG;name=a.png;charset=utf-8;Base64,{text}",
        "data, percent signs": f"data:image/png;base64,{quote(text, safe='')}",
        "data, no base64": f"data:image/png,{quote(content, safe='')}",
    }


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_a_file_is_one_picture(name, tmp_path):
    content = FILES[name]
    expected = open_image(content)
    for form, given in forms(content, tmp_path / "picture").items():
        source = image_source(given, 1)
        shown = source.load()
        assert (shown.mode, shown.size) == ("RGB", expected.size), form
        assert shown.tobytes() == expected.tobytes(), form
        assert image_size(source) == expected.size, form
        assert pickle.loads(pickle.dumps(source)).load().tobytes() == expected.tobytes(), form
        # Whoever is given it turns it no more.
        assert not shown.info and image_source(shown, 1).load().size == expected.size


def test_transparency_is_white_and_16_bits_are_scaled_in_memory_too():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (2, 2, 6, 6))
    shown = np.asarray(image_source(clear, 1).load())
    assert shown[0, 0].tolist() == [255] * 3 and shown[3, 3].tolist() == [0] * 3
    ramp = np.array([[0, 257 * 20, 257 * 100, 65535]], dtype=np.uint16)
    for given in (ramp, Image.fromarray(ramp), Image.fromarray(ramp).convert("I")):
        shown = np.asarray(image_source(given, 1).load())
        assert shown[0, :, 0].tolist() == [0, 20, 100, 255]


def test_a_large_picture_is_converted_band_by_band_as_a_small_one(monkeypatch):
    for name in ("RGBA", "I;16", "P with alpha of each colour", "CMYK"):
        whole = open_image(FILES[name])
        monkeypatch.setattr("lucida.data.images.BAND", 36 * 5)
        assert open_image(FILES[name]).tobytes() == whole.tobytes(), name
        monkeypatch.undo()


def test_arrays_are_the_pictures_of_their_modes():
    levels = np.asarray(COLOURS)
    for given, mode in ((levels, "RGBA"), (levels[..., :3], "RGB"), (levels[..., 0], "L")):
        same = image_source(Image.fromarray(np.ascontiguousarray(given), mode), 1).load()
        assert image_source(given, 1).load().tobytes() == same.tobytes()
    grey = levels[..., :1]
    assert image_source(grey, 1).load().tobytes() == image_source(grey[..., 0], 1).load().tobytes()
    wide = levels.astype(np.uint16) * 257
    assert image_source(wide, 1).load().tobytes() == image_source(levels, 1).load().tobytes()
    black = np.asarray(image_source(np.zeros((2, 2), bool), 1).load())
    white = np.asarray(image_source(np.ones((2, 2), bool), 1).load())
    assert black.max() == 0 and white.min() == 255


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), "no picture"),
        (np.zeros((8, 8, 3), np.float32), "no picture"),
        (np.zeros((8, 8), np.int64), "no picture"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((2, 8, 8, 3), np.uint8), "no picture"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (Image.new("F", (4, 4)), "floating-point"),
        (Image.fromarray(np.full((2, 2), 70_000, np.int32)), "16 bits"),
        (Image.new("LAB", (2, 2)), "colours of this kind"),
        (Image.open(io.BytesIO(FILES["RGB"][:300])), "damaged"),
        (io.StringIO("text"), "no image"),
        ("HTTPS://example.org/a.png", "not fetched"),
        ("http://example.org/a.png", "not fetched"),
        ("data:image/png;base64,%%%", "base64"),
        ("data:text/plain,hello", "data address"),
        ("data:image/png;base64", "data address"),
        ("\0", "cannot find"),
        (b"", "zero bytes"),
        (7, "no image"),
        ({"path": None}, "no image"),
    ],
)
def test_what_is_no_picture_is_a_data_error(given, words):
    with pytest.raises(DataError, match=words):
        image_source(given, 1).load()


def test_the_picture_given_is_left_as_it_is():
    mine = Image.new("RGB", (4, 4), "red")
    mine.info["note"] = "mine"
    source = image_source(mine, 1)
    mine.putpixel((0, 0), (0, 0, 255))
    assert source.load().getpixel((0, 0)) == (255, 0, 0)
    assert mine.info == {"note": "mine"}


def test_base64_as_it_is_written_by_many_hands():
    content = bytes(range(256)) + b"x"
    text = base64.b64encode(content).decode()
    address = base64.urlsafe_b64encode(content).decode()
    for written in (
        text, text.encode(), base64.encodebytes(content).decode(), text.replace("A", " A"),
        "\r\n".join(text[n : n + 64] for n in range(0, len(text), 64)), f"\t{text}\n",
        text.rstrip("="), address, address.rstrip("="), quote(text), text + "==",
    ):  # fmt: skip
        assert read_base64(written, "here") == content
    for wrong in ("%%", "abc$", "a", "äö", "\ud800", "ab=c", "A" * 5):
        with pytest.raises(DataError, match="here: bad base64"):
            read_base64(wrong, "here")


def test_paths_are_not_taken_for_base64():
    for path in (
        "coco/train2014/COCO_train2014_000000000009.jpg", "a" * 200, "/9j/", "BM" * 40, "R0lG.gif",
        "images/" + "b" * 64, "Qk" + "pictures/of/birds/and/butterflies/1",
    ):  # fmt: skip
        assert not looks_encoded(path)
    for name, content in FILES.items():
        assert looks_encoded(base64.b64encode(content).decode()), name
        assert not looks_encoded(content), name


def test_a_value_holds_its_picture_or_only_names_it():
    content = FILES["RGB"]
    for value in (content, {"bytes": content, "path": "a.png"}, base64.b64encode(content).decode()):
        assert find_held_source(value, "row 1").load().size == (36, 24)
    for value in ("a.png", {"path": "a.png"}, None, 7, ["a"]):
        assert find_held_source(value, "row 1") is None
    assert "row 1" in encoded_source(base64.b64encode(content[:99]).decode(), "row 1").origin


def test_message_parts_name_or_hold_a_picture_in_every_usual_way(tmp_path):
    content = FILES["RGB"]
    (tmp_path / "a.png").write_bytes(content)
    text = base64.encodebytes(content).decode()
    url = f"data:image/png;base64,{text}"
    for part in (
        {"type": "image", "image": content},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": url},
        {"type": "image", "base64": text},
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "image_url", "image_url": url},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": text}},
    ):
        sample = sample_of([{"role": "user", "content": [part]}])
        assert sample.images[0].load().tobytes() == open_image(content).tobytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    ended = threading.Event()

    def look():
        for read in (lambda: open_image(tmp_path / "a.png"), lambda: image_size(source)):
            with pytest.raises(DataError, match="cannot read"):
                read()
        ended.set()

    source = image_source(tmp_path / "a.png", 1)
    threading.Thread(target=look, daemon=True).start()
    assert ended.wait(10)


def test_a_file_too_large_for_a_picture_is_refused_unread(tmp_path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.write(FILES["RGB"])
        file.truncate(1 << 34)  # a hole, no bytes on the disk
    with pytest.raises(DataError, match="too large for an image"):
        open_image(path)
