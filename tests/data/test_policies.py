"""Policies with several views: pixel for pixel what transformers' own processors make."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from lucida.data.images import file_source, image_size
from lucida.data.policies import make_policy
from lucida.data.sample import ImageSource
from lucida.data.tiles import best_grid, candidates, split_grid

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)
SHAPES = [(64, 64), (100, 37), (37, 100), (61, 90), (300, 40), (40, 300), (20, 21), (129, 128)]
NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
POLICIES = ("resize", "letterbox", "crop", "anyres", "split", "native")


@cache
def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def processed(processor: object, image: Image.Image) -> np.ndarray:
    given = processor(image, return_tensors="np", image_mean=MEAN, image_std=STD)
    return np.asarray(given["pixel_values"][0])


@pytest.mark.parametrize("shape", SHAPES)
def test_resize_is_siglips(shape):
    theirs = SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    ours = make_policy("resize", 32, MEAN, STD).stack(noise(*shape))[0]
    np.testing.assert_allclose(ours, processed(theirs, noise(*shape)), atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_clips_within_one_level_of_256(shape):
    """CLIP scales the whole picture and cuts its middle; ours scales the middle alone. Where the
    margins differ by one, the odd pixel stands on the other side."""
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=3
    )
    ours = make_policy("crop", 32, MEAN, STD).stack(noise(*shape))[0]
    assert abs(ours - processed(theirs, noise(*shape))).max() * max(STD) * 255 < 1.2


@pytest.mark.parametrize("shape", SHAPES)
def test_letterbox_is_llavas_padding_within_its_rounding(shape):
    """LLaVA pads first and scales then, so only a margin of the kernel differs; smooth pictures
    with even margins are equal to a few levels of 256."""
    theirs = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    smooth = Image.linear_gradient("L").resize(shape).convert("RGB")
    ours = make_policy("letterbox", 32, MEAN, STD)
    wide, high, left, top = ours.place(*shape)
    inside = np.s_[:, top + 2 : top + high - 2, left + 2 : left + wide - 2]
    a, b = ours.stack(smooth)[0], processed(theirs, smooth)
    if shape[0] == shape[1]:
        assert abs(a - b).max() * max(STD) * 255 < 1.01
    elif min(wide, high) > 4:
        assert abs(a - b)[inside].max() * max(STD) * 255 < 256 / min(wide, high) + 2


@pytest.mark.parametrize("size", [32, 120])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 40), (40, 1), (301, 700), (700, 301)])
def test_padding_first_is_llavas_pixel_for_pixel(shape, size):
    theirs = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=MEAN,
        image_std=STD,
    )
    ours = make_policy("letterbox", size, MEAN, STD, pad="first").stack(noise(*shape))[0]
    np.testing.assert_allclose(ours, processed(theirs, noise(*shape)), atol=2e-6)


def plainly(image, size, policy):
    """Prismatic's letterbox and torchvision's Resize and CenterCrop, whole pictures at a time."""
    if policy == "letterbox":
        side = max(image.size)
        left, top = (int((side - each) / 2) for each in image.size)
        padded = Image.new("RGB", (image.width + 2 * left, image.height + 2 * top), GREY)
        padded.paste(image, (left, top))
        image = padded
    width, height = image.size
    if width <= height:
        scaled = image.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    else:
        scaled = image.resize((int(size * width / height), size), Image.Resampling.BICUBIC)
    left, top = (round((each - size) / 2.0) for each in scaled.size)
    return scaled.crop((left, top, left + size, top + size))


GREY = tuple(int(255 * value) for value in MEAN)
ODD = [(41, 20), (20, 41), (3, 2), (2, 3), (6, 3), (5, 8), (301, 700), (64, 63), (31, 33), (40, 40)]


@pytest.mark.parametrize("policy", ["letterbox", "crop"])
@pytest.mark.parametrize("size", [4, 32, 37])
@pytest.mark.parametrize("shape", ODD)
def test_odd_margins_are_torchvisions_pixel_for_pixel(policy, size, shape):
    ours = make_policy(policy, size, MEAN, STD, pad="first", odd="torchvision")
    expected = plainly(noise(*shape), size, policy)
    assert np.array_equal(np.asarray(ours.square(noise(*shape))), np.asarray(expected))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 40))
@settings(max_examples=60, deadline=None)
def test_boxes_and_pixels_of_odd_margins_agree(width, height, size):
    policy = make_policy("letterbox", size, MEAN, STD, pad="first", odd="torchvision")
    assert policy.square(noise(width, height)).size == (size, size)
    box = (0.0, 0.0, float(width), float(height))
    again = policy.from_frame(policy.to_frame(box, width, height), width, height)
    np.testing.assert_allclose(again, box, atol=1e-6)
    (wide, high), (left, top), *_ = policy.canvas(width, height)
    assert max(wide, high) - min(wide, high) == abs(width - height) % 2
    assert (left + width + left, top + height + top) == (wide, high)


@pytest.mark.parametrize("odd", ["transformers", "torchvision"])
@pytest.mark.parametrize("shape", [*SHAPES, (41, 20)])
def test_a_box_stands_where_the_padded_picture_shows_it(shape, odd):
    """A white rectangle on black, found again in the square."""
    width, height = (8 * side for side in shape)
    box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), box)
    policy = make_policy("letterbox", 256, (0.0,) * 3, (1.0,) * 3, pad="first", odd=odd)
    white = np.argwhere(policy.stack(image)[0, 0] > 0.5)
    found = (*white.min(0)[::-1], *(white.max(0)[::-1] + 1))
    expected = [256 * edge for edge in policy.to_frame(box, width, height)]
    np.testing.assert_allclose(found, expected, atol=1.01)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grids", [NEXT, None])
def test_anyres_is_llava_nexts(shape, grids):
    size = 24
    policy = make_policy("anyres", size, MEAN, STD, max_tiles=6, grids=grids)
    named = candidates(6) if grids is None else grids
    theirs = LlavaNextImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_grid_pinpoints=[[rows * size, columns * size] for rows, columns in named],
    )
    ours = policy.stack(noise(*shape))
    expected = processed(theirs, noise(*shape))
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [1, 2, 4, 9])
def test_split_is_idefics3s(shape, most):
    """Theirs enlarges every picture to a fixed longest side; ours takes the tiles that it fills,
    so theirs is told that side. Theirs scales with Lanczos by default; ours is bicubic."""
    size = 24
    policy = make_policy("split", size, MEAN, STD, max_tiles=most)
    rows, columns = policy.grid(*shape)
    assert rows * columns <= most
    theirs = Idefics3ImageProcessorPil(
        size={"longest_edge": size * max(rows, columns)},
        max_image_size={"longest_edge": size},
        resample=3,
        return_row_col_info=True,
    )
    given = theirs(noise(*shape), return_tensors="np", image_mean=MEAN, image_std=STD)
    found = (given["rows"][0][0], given["cols"][0][0])
    assert found == ((rows, columns) if rows * columns > 1 else (0, 0))
    ours = policy.stack(noise(*shape))
    np.testing.assert_allclose(ours, given["pixel_values"][0], atol=2e-6)


@pytest.mark.parametrize("family", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 3), (500, 499)])
@pytest.mark.parametrize("along", [1, 2, 4])
def test_a_fixed_longest_side_is_idefics3s_and_smolvlms(family, shape, along):
    """Their own filter and their enlarging, nothing told but sizes."""
    size = 24
    theirs = family(
        size={"longest_edge": along * size},
        max_image_size={"longest_edge": size},
        return_row_col_info=True,
    )
    policy = make_policy(
        "split",
        size,
        MEAN,
        STD,
        max_tiles=along**2,
        resample="lanczos",
        layout="idefics3",
        enlarge=True,
    )
    given = theirs(noise(*shape), return_tensors="np", image_mean=MEAN, image_std=STD)
    rows, columns = policy.grid(*shape)
    found = (given["rows"][0][0], given["cols"][0][0])
    assert found == ((rows, columns) if rows * columns > 1 else (0, 0))
    ours = policy.stack(noise(*shape))
    np.testing.assert_allclose(ours, given["pixel_values"][0], atol=2e-6)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 3), (24, 24), (25, 24), (96, 96), (1000, 300)])
@pytest.mark.parametrize("enlarge", [False, True])
def test_nanovlms_tiles_are_its_grid_behind_an_overview(shape, enlarge):
    """The reference scales once, both sides to whole tiles: the long side first, the short one by
    the same factor and rounded up. Its overview is bilinear on numbers without rounding."""
    size, most = 24, 9
    policy = make_policy(
        "split", size, MEAN, STD, max_tiles=most, layout="nanovlm", enlarge=enlarge
    )
    width, height = shape
    long, short = max(shape), min(shape)
    wanted = 3 * size if enlarge else min(3 * size, -(-long // size) * size)
    other = max(size, int(np.ceil(short * (wanted / long) / size)) * size)
    scaled = noise(*shape).resize(
        (wanted, other) if width >= height else (other, wanted), Image.Resampling.BICUBIC
    )
    rows, columns = scaled.height // size, scaled.width // size
    assert policy.grid(*shape) == (rows, columns)
    pixels = np.asarray(scaled)
    parts = [pixels[r * size : (r + 1) * size, c * size : (c + 1) * size]
             for r in range(rows) for c in range(columns)]  # fmt: skip
    views = [np.asarray(view) for view in policy.views(noise(*shape))]
    if len(parts) > 1:
        whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(
            whole, (size, size), mode="bilinear", antialias=True
        )
        assert abs(views.pop(0) - small[0].permute(1, 2, 0).numpy()).max() < 1.01
    assert len(views) == len(parts)
    assert all(np.array_equal(a, b) for a, b in zip(views, parts, strict=True))


def test_split_takes_as_many_tiles_as_the_picture_fills():
    assert split_grid(20, 10, 24, 4) == (1, 1)
    assert split_grid(48, 48, 24, 4) == (2, 2)
    assert split_grid(480, 480, 24, 4) == (2, 2)
    assert split_grid(480, 480, 24, 3) == (1, 1)
    assert split_grid(480, 100, 24, 4) == (1, 4)
    assert split_grid(100, 480, 24, 64) == (16, 4)


def test_grids_to_choose_from():
    assert candidates(1) == ((1, 1),)
    assert candidates(4) == ((1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1))
    assert best_grid(1000, 500, candidates(4), 24) == (1, 2)
    assert best_grid(500, 1000, candidates(4), 24) == (2, 1)
    assert best_grid(100, 10, candidates(4), 24) == (1, 4)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.integers(40, 500))
def test_native_keeps_the_shape_in_whole_units(width, height, unit, longest):
    policy = make_policy("native", longest, MEAN, STD, unit=unit)
    rows, columns = policy.grid(width, height)
    assert rows >= 1 and columns >= 1
    assert max(rows, columns) * unit <= max(longest, unit)
    scale = min(1, longest / max(width, height))
    assert abs(rows * unit - height * scale) <= unit
    assert abs(columns * unit - width * scale) <= unit


def test_native_pixels_are_the_picture_where_it_fits():
    policy = make_policy("native", 64, (0.0,) * 3, (1.0,) * 3, unit=8)
    pixels = policy.stack(noise(40, 24))
    expected = np.asarray(noise(40, 24), dtype=np.float32).transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert policy.stack(noise(300, 40)).shape == (1, 3, 8, 64)


@pytest.mark.parametrize("policy", ["anyres", "split"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_encoder_sees_the_same_parts(policy, shape):
    first = make_policy(policy, 24, MEAN, STD)
    second = make_policy(policy, 32, MEAN, STD)
    image = noise(*shape).resize((shape[0] * 2, shape[1] * 2))
    grid = first.grid(*image.size)
    a, b = first.views(image, grid), second.views(image, grid)
    assert len(a) == len(b) and {view.size for view in b} == {(32, 32)}
    for one, other in zip(a, b, strict=True):
        low = [np.asarray(view.resize((4, 4), Image.Resampling.BOX), int) for view in (one, other)]
        assert abs(low[0] - low[1]).max() < 40


sides, places = st.integers(1, 3000), st.floats(-500, 3500)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(1, 512), sides, sides, places, places, places, places)
def test_boxes_come_back_through_every_policy(policy, size, width, height, x0, y0, x1, y1):
    pad = "first" if x0 < y0 else "last"
    image_policy = make_policy(policy, size, MEAN, STD, unit=min(14, size), pad=pad)
    box = (x0, y0, x1, y1)
    framed = image_policy.to_frame(box, width, height)
    np.testing.assert_allclose(
        image_policy.from_frame(framed, width, height), box, rtol=1e-6, atol=1e-5
    )
    if policy in ("anyres", "split", "native"):
        assert image_policy.to_frame((0, 0, width, height), width, height) == (0, 0, 1, 1)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(1, 70), st.integers(1, 70), st.integers(1, 9))
def test_any_shape_becomes_the_views_that_its_size_promises(policy, width, height, most):
    image_policy = make_policy(policy, 8, MEAN, STD, max_tiles=most, unit=4)
    stack = image_policy.stack(noise(width, height))
    rows, columns = image_policy.grid(width, height)
    views = {"anyres": rows * columns + 1, "split": rows * columns + (rows * columns > 1)}
    shape = (4 * rows, 4 * columns) if policy == "native" else (8, 8)
    assert stack.shape == (views.get(policy, 1), 3, *shape)
    assert stack.dtype == np.float32 and np.isfinite(stack).all()


def test_the_size_of_a_file_needs_no_decoding(tmp_path):
    for turn in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turn
        path = tmp_path / f"{turn}.jpg"
        noise(30, 20).save(path, exif=exif)
        source = file_source(path)
        assert source.measure() == source.load().size == image_size(source)

    def fail() -> None:
        raise AssertionError("decoded")

    known = ImageSource("here", "a new key", fail, lambda: (3, 4))
    assert image_size(known) == image_size(known) == (3, 4)


def test_the_size_of_a_broken_file_says_what_is_wrong(tmp_path):
    from lucida.core.errors import DataError

    path = tmp_path / "page.jpg"
    path.write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(DataError, match="web page"):
        image_size(file_source(path))


@pytest.mark.parametrize("mean, std", [(0.5, 0.5), (0.0, 1.0), (0.48, 0.27), (0.5, 0.25)])
def test_both_ways_to_normalise_give_the_same_bits(mean, std):
    policy = make_policy("resize", 33, (mean,) * 3, (std,) * 3)
    view = noise(33, 33)
    levels = np.asarray(view).astype(np.float64).transpose(2, 0, 1)
    expected = ((levels / 255 - mean) / std).astype(np.float32)
    assert np.array_equal(policy.levels(view), expected)
    assert (policy._straight is None) == (mean == 0.48)
