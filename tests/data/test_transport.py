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
from lucida.data.collate import join_images
from lucida.data.policies import make_policy
from lucida.data.sample import Batch, ImageSource, Views
from lucida.data.squares import decode, squares
from lucida.data.transport import LONGEST_FOLDER, Parcel, keep_addresses_short, room

POLICY = make_policy("resize", 24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.5))


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
            assert left.sizes == right.sizes
            for a, b in zip(left.pixels, right.pixels, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        elif torch.is_tensor(left):
            assert left.dtype == right.dtype and torch.equal(left, right), field.name
        else:
            assert left == right, field.name


def made(number):
    """Batches of every kind; number 3 has nothing but integers."""
    tiles = tuple(torch.rand(views, 3, 4, 4) for views in (1, 3, 2))
    views = Views((tiles, tiles[::-1]), ((9, 4), (3, 8), (5, 5)))
    pixels = join_images([squares(pictures(2), POLICY), squares(pictures(1), POLICY)])
    weight, features = torch.rand(2, 5), torch.rand(2, 7, 3, dtype=torch.float16)
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
        shared = number > 0 or one.pixel_values.is_shared()
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
    parts = [squares(sources[:2], POLICY), squares(sources[2:], POLICY)]
    assert np.array_equal(join_images(parts).numpy(), decode(sources, POLICY))
    assert decode([], POLICY).shape == (0, 3, 24, 24)
