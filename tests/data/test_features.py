"""The feature cache: equal to computing, shared by processes, whole after any end."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lucida.core.errors import ModelError, RunError
from lucida.data.features import FeatureCache, ViewCache, format_bytes
from lucida.data.sample import ImageSource, Views

SHAPE = (4, 6)


def image(key):
    return ImageSource(f"image {key}", str(key), lambda: None)


def truth(key):
    return np.random.default_rng(int(key)).normal(size=SHAPE).astype(np.float32)


class Encoder:
    """Counts what it is asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, images):
        self.asked += [source.key for source in images]
        return expected([source.key for source in images])


def expected(keys):
    return Views.read(torch.from_numpy(np.stack([truth(key) for key in keys])))


def equal(one, other):
    return one.shapes == other.shapes and torch.equal(one.values, other.values)


def test_cached_equals_live(tmp_path):
    cache, encoder = FeatureCache(tmp_path, "h", SHAPE, "float32"), Encoder()
    keys = [3, 1, 3, 2]
    for _ in range(2):
        assert equal(cache.get([image(k) for k in keys], encoder), expected(keys))
    assert encoder.asked == ["3", "1", "2"]
    again = FeatureCache(tmp_path, "h", SHAPE, "float32")
    assert equal(again.get([image(k) for k in keys], encoder), expected(keys))
    assert len(again) == 3
    assert len(encoder.asked) == 3
    assert len(again.get([], encoder)) == 0


def test_half_precision_is_rounded_the_same_on_the_first_look(tmp_path):
    cache, encoder = FeatureCache(tmp_path, "h", SHAPE), Encoder()
    first = cache.get([image(1)], encoder)
    assert first.values.dtype == torch.float16
    assert equal(first, cache.get([image(1)], encoder))
    torch.testing.assert_close(first.values.float(), expected([1]).values, atol=2e-3, rtol=1e-3)


def test_what_is_computed_comes_in_batches(tmp_path):
    sizes = []

    def encode(images):
        sizes.append(len(images))
        return Encoder()(images)

    cache = FeatureCache(tmp_path, "h", SHAPE, "float32")
    keys = list(range(10))
    assert equal(cache.get([image(k) for k in keys], encode, batch=4), expected(keys))
    assert sizes == [4, 4, 2]


def test_fill_computes_what_is_missing_once(tmp_path):
    cache, encoder, told = FeatureCache(tmp_path, "h", SHAPE), Encoder(), []
    cache.get([image(2)], encoder)
    made = cache.fill((image(k % 7) for k in range(20)), encoder, batch=5, progress=told.append)
    assert made == 6
    assert sorted(encoder.asked) == [str(k) for k in range(7)]
    assert told == [5, 5, 5, 5]


def test_another_spec_or_key_never_meets_an_old_entry(tmp_path):
    encoder = Encoder()
    FeatureCache(tmp_path, "one", SHAPE).get([image(1)], encoder)
    FeatureCache(tmp_path, "two", SHAPE).get([image(1)], encoder)
    assert encoder.asked == ["1", "1"]
    with pytest.raises(RunError, match="other features") as caught:
        FeatureCache(tmp_path, "one", (4, 7))
    assert "delete" in str(caught.value)


def test_a_size_limit_computes_the_rest_each_time(tmp_path):
    cache = FeatureCache(tmp_path, "h", SHAPE, "float32", limit_bytes=3 * 4 * 6 * 4)
    encoder = Encoder()
    for _ in range(2):
        found = cache.get([image(k) for k in range(5)], encoder)
        assert equal(found, expected(range(5)))
    assert len(cache) == 3
    assert cache.unstored == 4
    assert encoder.asked == ["0", "1", "2", "3", "4", "3", "4"]
    assert str(cache).startswith("feature cache: 3 images, 288 bytes in ")
    assert str(cache).endswith(", at most 288 bytes")


def test_bytes_are_told_in_the_largest_unit_that_is_reached():
    many = (0, 999, 1000, 999_999, 2_500_000, 10**9, 12_340_000_000, 5 * 10**12)
    assert [format_bytes(each) for each in many] == [
        "0 bytes", "999 bytes", "1 kB", "1000 kB", "2.5 MB", "1 GB", "12.34 GB", "5 TB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((1, 4, 5)), "another shape"),
        (np.full((1, *SHAPE), 1e6), "float16"),
        (np.full((1, *SHAPE), np.nan), "not finite"),
    ],
)
def test_bad_features_are_refused_and_not_kept(tmp_path, rows, words):
    cache = FeatureCache(tmp_path, "h", SHAPE)
    with pytest.raises(ModelError, match=words):
        cache.get([image(1)], lambda images: Views.read(torch.from_numpy(rows)))
    assert len(FeatureCache(tmp_path, "h", SHAPE)) == 0


@pytest.mark.parametrize("lost", [1, 31, 32, 33, 100])
def test_a_torn_end_is_computed_again(tmp_path, lost):
    cache, encoder = FeatureCache(tmp_path, "h", SHAPE, "float32"), Encoder()
    size = 6
    cache.get([image(k) for k in range(size)], encoder)
    for name in ("keys.bin", "features.bin"):
        file = cache.path / name
        content = file.read_bytes()
        file.write_bytes(content[:-lost])
        again = FeatureCache(tmp_path, "h", SHAPE, "float32")
        assert len(again) < size
        size = 8
        found = again.get([image(k) for k in range(8)], encoder)
        assert equal(found, expected(range(8)))
        file_again = FeatureCache(tmp_path, "h", SHAPE, "float32")
        assert len(file_again) == 8
        assert equal(file_again.get([image(7)], None), expected([7]))


def writer(folder, seed, count):
    cache = FeatureCache(folder, "h", SHAPE, "float32")
    order = np.random.default_rng(seed).permutation(count)
    for start in range(0, count, 3):
        keys = order[start : start + 3]
        found = cache.get([image(k) for k in keys], Encoder())
        assert equal(found, expected(keys))


def test_two_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=writer, args=(tmp_path, seed, 60)) for seed in (1, 2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    cache = FeatureCache(tmp_path, "h", SHAPE, "float32")
    assert len(cache) == 60
    assert (cache.path / "keys.bin").stat().st_size == 60 * 32
    assert equal(cache.get([image(k) for k in range(60)], None), expected(range(60)))


def test_a_killed_writer_leaves_a_whole_cache_and_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    for number in range(4):
        process = context.Process(target=writer, args=(tmp_path, number, 3000))
        process.start()
        time.sleep(0.05 + 0.03 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        cache = FeatureCache(tmp_path, "h", SHAPE, "float32")
        for key in range(0, 3000, 10):
            if image(key) in cache:
                assert equal(cache.get([image(key)], None), expected([key]))
    cache.get([image(5000)], Encoder())


def test_a_full_disk_is_named_and_nothing_half_counts(tmp_path):
    cache, encoder = FeatureCache(tmp_path, "h", SHAPE, "float32"), Encoder()
    cache.get([image(k) for k in range(5)], encoder)
    code = (
        "import resource, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_features import *\n"
        "cache = FeatureCache(sys.argv[2], 'h', SHAPE, 'float32')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        "try:\n"
        "    cache.get([image(k) for k in range(5, 20)], Encoder())\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert "disk is full" in result.stdout, result.stderr
    again = FeatureCache(tmp_path, "h", SHAPE, "float32")
    assert len(again) == 5
    assert equal(again.get([image(k) for k in range(9)], encoder), expected(range(9)))


def test_a_folder_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        FeatureCache(tmp_path / "file", "h", SHAPE)


def test_the_folder_explains_itself(tmp_path):
    cache = FeatureCache(tmp_path, "h", SHAPE)
    said = json.loads((cache.path / "shape.json").read_text())
    assert said == {"patches": 4, "width": 6, "dtype": "float16"}


def seen(key):
    """Image `key` has key % 4 + 1 views of 4 patches; its size is (10 + key, 20)."""
    views = np.random.default_rng(int(key)).normal(size=(int(key) % 4 + 1, *SHAPE))
    return torch.from_numpy(views.astype(np.float32))


class ViewEncoder(Encoder):
    def __call__(self, images):
        self.asked += [source.key for source in images]
        keys = [int(source.key) for source in images]
        return Views.of([list(map(seen, keys))], [(10 + k, 20) for k in keys])


def same(given, keys):
    assert given.sizes == tuple((10 + int(k), 20) for k in keys)
    for found, key in zip(given.images(), keys, strict=True):
        assert torch.equal(found, seen(key))


def test_views_cached_equal_live(tmp_path):
    cache, encoder = ViewCache(tmp_path, "h", SHAPE, "float32"), ViewEncoder()
    keys = [3, 1, 3, 2, 7, 4]
    for _ in range(2):
        same(cache.get([image(k) for k in keys], encoder, batch=2), keys)
    assert encoder.asked == ["3", "1", "2", "7", "4"]
    again = ViewCache(tmp_path, "h", SHAPE, "float32")
    same(again.get([image(k) for k in reversed(keys)], None), keys[::-1])
    assert len(again) == 5
    assert len(again.get([], None)) == 0
    assert again.fill((image(k) for k in range(9)), encoder, batch=4) == 4
    same(
        ViewCache(tmp_path, "h", SHAPE, "float32").get([image(k) for k in range(9)], None), range(9)
    )


def test_pictures_of_their_own_shapes(tmp_path):
    own = {1: (6, (30, 20)), 2: (35, (50, 70)), 3: (1, (9, 9))}

    def compute(images):
        found = [own[int(source.key)] for source in images]
        features = [torch.arange(p * 6.0).reshape(1, p, 6) for p, _ in found]
        return Views.of([features], [size for _, size in found])

    cache = ViewCache(tmp_path, "h", (1, 6))
    cache.get([image(1), image(2)], compute)
    given = ViewCache(tmp_path, "h", (1, 6)).get([image(2), image(3), image(1)], compute)
    assert [tuple(each.shape) for each in given.images()] == [(1, 35, 6), (1, 1, 6), (1, 6, 6)]
    assert given.sizes == ((50, 70), (9, 9), (30, 20))
    assert torch.equal(given.images()[0], torch.arange(35 * 6.0).reshape(1, 35, 6).half())


def test_views_keep_to_a_limit(tmp_path):
    """Images of 1, 2, 3, 4 and 1 views; room for 7 rows: the fourth has no room, the fifth has."""
    cache = ViewCache(tmp_path, "h", SHAPE, "float32", limit_bytes=7 * 4 * 6 * 4)
    encoder = ViewEncoder()
    for _ in range(2):
        same(cache.get([image(k) for k in range(5)], encoder), range(5))
    assert len(cache) == 4
    assert cache.unstored == 2
    assert encoder.asked == ["0", "1", "2", "3", "4", "3"]
    assert (cache.path / "features.bin").stat().st_size == 7 * 4 * 6 * 4


@pytest.mark.parametrize("lost", [1, 55, 56, 57, 200])
def test_a_torn_end_of_views_is_computed_again(tmp_path, lost):
    cache, encoder = ViewCache(tmp_path, "h", SHAPE, "float32"), ViewEncoder()
    cache.get([image(k) for k in range(6)], encoder)
    for name in ("keys.bin", "features.bin"):
        file = cache.path / name
        file.write_bytes(file.read_bytes()[:-lost])
        again = ViewCache(tmp_path, "h", SHAPE, "float32")
        assert len(again) < 6
        same(again.get([image(k) for k in range(6)], encoder), range(6))
        whole = ViewCache(tmp_path, "h", SHAPE, "float32")
        assert len(whole) == 6
        same(whole.get([image(k) for k in range(6)], None), range(6))


def test_bad_views_are_refused_and_not_kept(tmp_path):
    def gives(*features):
        sizes = tuple((5, 6) for _ in features)
        return lambda images: Views.of([features], sizes)

    cache = ViewCache(tmp_path, "h", SHAPE)
    for wrong in (torch.zeros(2, 4, 5), torch.zeros(1, 3, 6), torch.zeros(0, 4, 6)):
        with pytest.raises(ModelError, match=r"another shape.*picture of 5 x 6"):
            cache.get([image(1)], gives(wrong))
    with pytest.raises(ModelError, match=r"another shape.*1 images.*2"):
        cache.get([image(1)], gives(torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)))
    with pytest.raises(ModelError, match="not finite"):
        cache.get([image(1)], gives(torch.full((1, *SHAPE), np.nan)))
    assert len(ViewCache(tmp_path, "h", SHAPE)) == 0
    with pytest.raises(RunError, match="other features"):
        FeatureCache(tmp_path, "h", SHAPE)


def view_writer(folder, seed, count):
    cache = ViewCache(folder, "h", SHAPE, "float32")
    order = np.random.default_rng(seed).permutation(count)
    for start in range(0, count, 3):
        keys = order[start : start + 3]
        same(cache.get([image(k) for k in keys], ViewEncoder()), keys)


def test_two_processes_share_views(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=view_writer, args=(tmp_path, s, 40)) for s in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    cache = ViewCache(tmp_path, "h", SHAPE, "float32")
    assert len(cache) == 40
    same(cache.get([image(k) for k in range(40)], None), range(40))
