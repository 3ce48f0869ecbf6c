"""Packing and padding carry the same samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.data.collate import FIELDS, collate, round_length
from lucida.data.sample import IGNORED, ImageSource, Tokens, Views


def image(number):
    return ImageSource(f"image {number}", str(number), lambda: None)


@st.composite
def samples(draw):
    """Tokens with random ids, images of 1 to 3 placeholders, and image keys that never repeat."""
    made, key = [], 0
    for number in range(draw(st.integers(1, 6))):
        marks = [0] * draw(st.integers(1, 4))
        count = draw(st.integers(0, 3))
        for k in range(1, count + 1):
            marks += [k] * draw(st.integers(1, 3)) + [0] * draw(st.integers(0, 3))
        n = len(marks)
        ids = np.array(draw(st.lists(st.integers(1, 99), min_size=n, max_size=n)), dtype=np.int64)
        images = tuple(image(key + k) for k in range(count))
        key += count
        target = np.where(ids % 2, ids, IGNORED)
        arrays = (ids, np.zeros(n, np.int64), np.arange(n), np.array(marks, dtype=np.int64), target)
        made.append(Tokens(f"sample {number}", images, *arrays))
    return made


def keys(sources):
    return Views.read(torch.tensor([float(source.key) for source in sources]).view(-1, 1, 1, 1))


@given(samples())
def test_packed_and_padded_hold_every_sample(made):
    packed, padded = collate(made, True, 0, keys), collate(made, False, 7, keys)
    assert packed.input_ids.shape == (1, sum(map(len, made)))
    assert padded.input_ids.shape == (len(made), max(map(len, made)))
    assert int((packed.segment == 0).sum()) == 0
    for number, sample in enumerate(made):
        inside = packed.segment[0] == number + 1
        for name in FIELDS:
            if name == "segment":
                continue
            given_values = torch.from_numpy(getattr(sample, name))
            assert torch.equal(getattr(packed, name)[0][inside], given_values)
            assert torch.equal(getattr(padded, name)[number][: len(sample)], given_values)
        rest = slice(len(sample), None)
        assert (padded.segment[number][rest] == 0).all()
        assert (padded.position[number][rest] == 0).all()
        assert (padded.image[number][rest] == 0).all()
        assert (padded.target[number][rest] == IGNORED).all()
        assert (padded.input_ids[number][rest] == 7).all()
    assert packed.supervised == padded.supervised
    assert packed.origins == [sample.origin for sample in made]
    wanted = [float(source.key) for sample in made for source in sample.images]
    for batch in (packed, padded):
        found = [] if batch.pixel_values is None else batch.pixel_values.values.tolist()
        assert found == wanted


def test_features_in_place_of_pixels():
    ids = np.array([1, 2], dtype=np.int64)
    sample = Tokens("s", (image(5),), ids, ids * 0, ids - 1, np.array([0, 1]), ids)
    batch = collate([sample], True, 0, features=lambda _: Views.read(torch.zeros(1, 4, 8)))
    assert batch.features.shapes == (((1, 4, 8),),)
    assert batch.pixel_values is None


@pytest.mark.parametrize("marks", [[0, 0], [1, 2, 1], [0, 2], [1, 2], [2, 1]])
def test_placeholders_have_to_fit_the_images(marks):
    marks = np.array(marks, dtype=np.int64)
    sample = Tokens("here", (image(0),), *[marks] * 3, marks, marks)
    with pytest.raises(DataError, match="here"):
        collate([sample], True, 0)


@given(st.integers(1, 100_000))
def test_a_long_row_ends_at_few_lengths_and_wastes_little(length):
    end = round_length(length)
    assert length <= end <= length * 17 / 16
    assert end == length if length < 1024 else end % 64 == 0


def test_what_rounds_a_long_row_up_is_padding():
    n = 1030
    ids, zeros = np.arange(1, n + 1), np.zeros(n, np.int64)
    batch = collate([Tokens("long", (), ids, zeros, np.arange(n), zeros, ids)], True, 7)
    assert batch.input_ids.shape == (1, 1088)
    assert (batch.segment[0, n:] == 0).all()
    assert (batch.input_ids[0, n:] == 7).all()
    assert (batch.target[0, n:] == IGNORED).all()
