"""Opening bad pictures, and boxes through every policy."""

import contextlib
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lucida.core.errors import DataError
from lucida.data.images import file_source, open_image
from lucida.data.policies import make_policy

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)
POLICIES = ("resize", "letterbox", "crop")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_mode_becomes_rgb():
    red = Image.new("RGB", (5, 4), (200, 10, 10))
    for mode in ("L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA"):
        kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
        opened = open_image(saved(red.convert(mode), kind))
        assert (opened.mode, opened.size) == ("RGB", (5, 4)), mode
    palette = np.asarray(open_image(saved(red.convert("P"), "PNG")))
    assert abs(palette[0, 0].astype(int) - (200, 10, 10)).max() < 30
    cmyk = np.asarray(open_image(saved(red.convert("CMYK"), "JPEG")))
    assert abs(cmyk[0, 0].astype(int) - (200, 10, 10)).max() < 12


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert np.asarray(open_image(saved(clear, "PNG"))).min() == 255
    half = Image.new("LA", (2, 2), (0, 128))
    assert abs(int(np.asarray(open_image(saved(half, "PNG")))[0, 0, 0]) - 127) <= 1
    keyed = Image.new("P", (2, 2), 0)
    keyed.putpalette([9, 9, 9] * 256)
    assert np.asarray(open_image(saved(keyed, "PNG", transparency=0))).min() == 255


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    opened = np.asarray(open_image(saved(Image.fromarray(values), "PNG")))
    assert opened[0, :, 0].tolist() == [0, 100, 255]
    wide = Image.fromarray(np.array([[0, 300_000]], dtype=np.int32))
    with pytest.raises(DataError, match="16 bits"):
        open_image(saved(wide, "TIFF"))
    with pytest.raises(DataError, match="floating-point"):
        open_image(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (4, 2), "black")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(saved(image, "JPEG", exif=exif)).size == (2, 4)


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = np.asarray(open_image(data))[0, 0].tolist()
        assert red > 200 > 60 > blue, kind


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "zero bytes"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS"),
        (b"not an image at all", "no image format"),
        (b"\x89PNG\r\n\x1a\n", "image"),
    ],
)
def test_other_content_is_named(content, words):
    with pytest.raises(DataError, match=words) as caught:
        open_image(content, "train.json: record 3")
    assert "record 3" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_an_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(DataError):
            open_image(data[: int(len(data) * share)])


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damaged_bytes_never_raise_anything_else(noise, kind):
    whole = bytearray(saved(Image.new("RGB", (9, 7), "green"), kind))
    whole[len(whole) // 3 : len(whole) // 3 + len(noise)] = noise
    for data in (noise, bytes(whole)):
        with contextlib.suppress(DataError):
            assert open_image(data).mode == "RGB"


def test_a_decompression_bomb_is_refused_before_decoding():
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99))
    with pytest.raises(DataError, match="too large"):
        open_image(bomb)
    header = struct.pack(">IIBBBBB", 9_500, 9_500, 8, 2, 0, 0, 0)
    less = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99))
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DataError, match="too large"):
        open_image(less)


def test_paths_that_are_no_files(tmp_path):
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=str(path)):
            open_image(path)
    with pytest.raises(DataError, match=r"missing\.png: .*; check the path$"):
        file_source(tmp_path / "missing.png")
    with pytest.raises(DataError, match=r"^a\.json: record 3: .*image folder of the source$"):
        file_source(tmp_path / "missing.png", "a.json: record 3")


def test_a_replaced_file_gets_another_key(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    before = file_source(path)
    assert before.key == file_source(path).key
    path.unlink()
    Image.new("RGB", (5, 4), "red").save(path)
    assert before.key != file_source(path).key
    assert pickle.loads(pickle.dumps(before)).load().size == (5, 4)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1), (64, 64), (37, 91)])
def test_any_shape_becomes_the_square(policy, size):
    pixels = make_policy(policy, 32, MEAN, STD).stack(Image.new("RGB", size, (255, 0, 128)))[0]
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()
    middle = pixels[:, 16, 16] * STD + MEAN
    if 9000 not in size:
        np.testing.assert_allclose(middle, (1, 0, 128 / 255), atol=1e-6)


def test_padding_is_the_mean_colour():
    pixels = make_policy("letterbox", 32, MEAN, STD).stack(Image.new("RGB", (64, 32), "white"))[0]
    assert abs(pixels[:, 0]).max() < 0.5 / 255 / min(STD) + 1e-6
    assert abs(pixels[:, 16]).min() > 1


def test_crop_equals_scaling_whole_and_cutting():
    noise = np.random.default_rng(1).integers(0, 256, (60, 150, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    scaled = np.asarray(image.resize((80, 32), Image.Resampling.BICUBIC)).astype(int)
    cut = np.asarray(make_policy("crop", 32, MEAN, STD).square(image)).astype(int)
    assert abs(cut - scaled[:, 24:56]).max() <= 1


sides = st.integers(1, 3000)
places = st.floats(-500, 3500)


@given(st.sampled_from(POLICIES), st.integers(1, 512), sides, sides, places, places, places, places)
def test_frames_invert(policy, size, width, height, x0, y0, x1, y1):
    image_policy = make_policy(policy, size, MEAN, STD)
    box = (x0, y0, x1, y1)
    back = image_policy.from_frame(image_policy.to_frame(box, width, height), width, height)
    np.testing.assert_allclose(back, box, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(96, 48), (48, 96), (64, 64), (61, 90)])
def test_the_frame_is_where_the_pixels_are(policy, shape):
    """A white box on black is found where `to_frame` says."""
    width, height = shape
    x0, y0, x1, y1 = box = (width // 2 - 8, height // 2 - 6, width // 2 + 10, height // 2 + 8)
    levels = np.zeros((height, width, 3), np.uint8)
    levels[y0:y1, x0:x1] = 255
    image_policy = make_policy(policy, 48, (0.0,) * 3, (1.0,) * 3)
    bright = image_policy.stack(Image.fromarray(levels))[0, 0] > 0.5
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    frame = np.array(image_policy.to_frame(box, width, height)) * 48
    np.testing.assert_allclose(seen, np.clip(frame, 0, 48), atol=1.01)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_has_the_pixels_that_pillow_alone_gives(subsampling):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    for progressive in (False, True):
        content = saved(
            Image.fromarray(noise), "JPEG", subsampling=subsampling, progressive=progressive
        )
        opened = open_image(content)
        plain = Image.open(io.BytesIO(content))
        assert np.array_equal(np.asarray(opened), np.asarray(plain))
        assert opened.tobytes() == plain.convert("RGB").tobytes()
        half = Image.open(io.BytesIO(content))
        half.draft(None, (20, 15))
        assert np.array_equal(np.asarray(open_image(content, least=(20, 15))), np.asarray(half))
