"""A batch that crosses from a worker process is the batch that left it."""

import os
import pickle
from dataclasses import fields
from multiprocessing import process, util

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lucida.core.errors import RunError
from lucida.data.policies import make_policy
from lucida.data.sample import Batch, ImageSource, Views
from lucida.data.transport import LONGEST_FOLDER, Parcel, keep_addresses_short, room
from lucida.data.views import draw, normalise

POLICY = make_policy("resize", 24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.5))
TILES = make_policy("split", 20, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def pictures(many):
    def load(number):
        noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        return Image.fromarray(noise)

    return [ImageSource(f"{n}", f"transport {n}", lambda n=n: load(n)) for n in range(many)]


def batch(pixels=None, weight=None, features=None):
    integers = torch.arange(2 * 5).view(2, 5)
    six = [integers + place for place in range(6)]
    return Batch(*six, pixels, features, ["a", "b"], ["one", "two"], weight)


def same(one, other):
    for field in fields(Batch):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, Views):
            assert (left.sizes, left.shapes) == (right.sizes, right.shapes)
            assert torch.equal(left.values, right.values)
        elif torch.is_tensor(left):
            assert left.dtype == right.dtype and torch.equal(left, right), field.name
        else:
            assert left == right, field.name


def made(number):
    """Batches of every kind; number 3 has nothing but integers."""
    views = normalise([draw(pictures(2), (TILES, POLICY)), draw(pictures(1), (TILES, POLICY))])
    pixels = normalise([draw(pictures(2), (POLICY,)), draw(pictures(1), (POLICY,))])
    weight = torch.rand(2, 5)
    features = Views.read(torch.rand(2, 7, 3, dtype=torch.float16))
    return [batch(pixels, weight), batch(views), batch(features=features), batch()][number]


@pytest.mark.parametrize("number", range(4))
def test_a_packed_batch_opens_as_it_was(number):
    torch.manual_seed(0)
    one = made(number)
    same(pickle.loads(pickle.dumps(Parcel.of(one))).open(), one)


class Made(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        torch.manual_seed(0)
        one = made(number)
        shared = number > 1 or one.pixel_values.values.is_shared()
        return Parcel.of(one), shared


def test_batches_cross_from_a_worker_without_a_copy_of_their_pixels():
    keep_addresses_short()
    loader = DataLoader(Made(), batch_size=None, num_workers=1)
    for number, (parcel, shared) in enumerate(loader):
        torch.manual_seed(0)
        same(parcel.open(), made(number))
        assert shared
    assert not room((2,)).is_shared()


@pytest.fixture
def long_folder(tmp_path, monkeypatch):
    """Processes of this test meet in a folder whose path is longer than that of a socket may be."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setitem(process.current_process()._config, "tempdir", str(folder))


@pytest.mark.skipif(os.name != "posix", reason="the limit is that of Unix sockets")
def test_batches_cross_wherever_temporary_files_lie(long_folder):
    keep_addresses_short()
    assert len(os.fsencode(util.get_temp_dir())) <= LONGEST_FOLDER
    # Unmended, the worker fails in a thread of its own and this waits for ever.
    loader = DataLoader(Made(), batch_size=None, num_workers=1, timeout=60)
    assert len(list(loader)) == 4


@pytest.mark.skipif(os.name != "posix", reason="the limit is that of Unix sockets")
def test_no_place_to_meet_is_told(long_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"too long .*set TMPDIR"):
        keep_addresses_short(str(tmp_path / "file"))


def test_pixels_are_those_of_each_image_alone():
    sources = pictures(5)
    together = normalise([draw(sources[:2], (TILES, POLICY)), draw(sources[2:], (TILES, POLICY))])
    for policy, images in zip((TILES, POLICY), together.encoders(), strict=True):
        for source, image in zip(sources, images, strict=True):
            assert np.array_equal(image.numpy(), policy.stack(source.load()))
