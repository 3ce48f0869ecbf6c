"""Large JPEGs decoded at a fraction of their size: enough pixels are left, nothing else moves."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from lucida.core.errors import DataError
from lucida.data.images import file_source, open_image
from lucida.data.policies import make_policy
from lucida.data.sample import ImageSource
from lucida.data.sources.pictures import bytes_source
from lucida.data.views import draw, normalise, open_for_policies

MEAN, STD = (0.5,) * 3, (0.5,) * 3


def smooth(width, height, seed=0):
    """A picture with large and small structure, as photographs have it."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 40 + 2, width // 40 + 2, 3))
    image = Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    return image.filter(ImageFilter.GaussianBlur(2))


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 300), st.integers(1, 300))
def test_no_fewer_pixels_than_asked_unless_it_has_fewer(width, height, wide, high):
    content = jpeg(Image.new("RGB", (width, height)))
    image = open_image(content, least=(wide, high))
    assert image.width >= min(wide, width) and image.height >= min(high, height)
    if width < 2 * wide or height < 2 * high:
        assert image.size == (width, height)


def test_a_turned_picture_is_measured_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = jpeg(smooth(800, 200), exif=exif)  # upright: 200 x 800
    assert open_image(content, least=(100, 400)).size == (100, 400)
    assert open_image(content, least=(150, 400)).size == (200, 800)


@pytest.mark.parametrize("policy", ["resize", "letterbox", "crop", "anyres", "split", "native"])
@pytest.mark.parametrize("shape", [(1030, 770), (500, 1501), (90, 60)])
def test_views_have_the_same_shape_and_nearly_the_same_pixels(policy, shape, tmp_path):
    views = make_policy(policy, 96, MEAN, STD, max_tiles=4, unit=16)
    file = tmp_path / "picture.jpg"
    file.write_bytes(jpeg(smooth(*shape)))
    source = file_source(file)
    grid = views.grid(*shape)
    whole, scaled = (
        open_for_policies(source, [views]),
        open_for_policies(source, [views], scaled=True),
    )
    if max(shape) > 1000 and views.one_square:
        assert scaled.width < whole.width
    exact, near = views.stack(whole, grid), views.stack(scaled, grid)
    assert near.shape == exact.shape
    assert np.abs(near - exact).mean() < 0.04  # of -1 to 1


def decode(source, policy, scaled=False):
    return normalise([draw([source], (policy,), scaled)]).images()[0].numpy()


def test_exact_is_what_comes_unasked():
    content = jpeg(smooth(900, 900))
    policy = make_policy("resize", 64, MEAN, STD)
    source = bytes_source(content, "bytes")
    exact = decode(source, policy)
    assert np.array_equal(exact, policy.stack(open_image(content)))
    assert not np.array_equal(decode(source, policy, scaled=True), exact)


def test_what_cannot_be_smaller_is_decoded_whole():
    drawn = ImageSource("drawn", "drawn", lambda: smooth(300, 300))
    policy = make_policy("resize", 16, MEAN, STD)
    assert np.array_equal(decode(drawn, policy, scaled=True), decode(drawn, policy))
    file = io.BytesIO()
    smooth(300, 300).save(file, "PNG")
    png = bytes_source(file.getvalue(), "png")
    assert np.array_equal(decode(png, policy, scaled=True), decode(png, policy))


def test_a_cut_jpeg_is_an_error_either_way():
    content = jpeg(smooth(600, 600))
    with pytest.raises(DataError, match="damaged"):
        open_image(content[: len(content) // 2], least=(60, 60))
