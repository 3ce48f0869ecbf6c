"""The stream of batches: the same on any rank, thread or worker; what happens to bad records."""

import json
import os
import signal
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lucida.core.dropped import Dropped
from lucida.core.errors import DataError, RecipeError, RunError
from lucida.core.spec import BatchSpec, BudgetSpec
from lucida.data.loader import DropLimit, Loader
from lucida.data.mixture import Mixture
from lucida.data.policies import make_policy
from lucida.data.reader import OpenImages, draw_images
from lucida.data.sample import ImageSource, Sample, Tokens, Views
from lucida.data.stage import Capped, Spread, StageData
from lucida.data.views import draw

LEVELS = make_policy("resize", 1, (0.0,) * 3, (1 / 255,) * 3)
"""One pixel, which stays the number that it was."""


class Numbers:
    """Records that are their own number; those in `bad` cannot be used."""

    def __init__(self, size, bad=(), images=True):
        self.size, self.bad, self.images = size, bad, images

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError("broken", origin=f"record {index}")
        image = ImageSource(f"image {index}", f"{index}", partial(Image.new, "RGB", (4, 4), index))
        return Sample(f"{index}", (image,) if self.images else ())


def encode(sample, counts=None):
    if sample.origin == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    ids = np.full(3, int(sample.origin), dtype=np.int64)
    marks = np.array([1, 0, 0] if sample.images else [0, 0, 0], dtype=np.int64)
    counts["seen"] += 1
    return Tokens(sample.origin, sample.images, ids, ids * 0, np.arange(3), marks, ids)


def pixels(images):
    return draw(images, (LEVELS,))


def numbers(views):
    """The numbers that the pixels of images stand for: a red value of each."""
    return views.values.view(-1, 3)[:, 0]


def loader(size=50, samples=6, accumulate=1, workers=0, bad=(), **more):
    sources = {"big": Numbers(size, bad), "small": Numbers(7, images=False)}
    mixture = Mixture(sources, {"big": 2.0, "small": 1.0}, seed=3)
    batch = BatchSpec(samples=samples, accumulate=accumulate, workers=workers)
    return stream_of(mixture, batch, **{"pixels": pixels} | more)


def stream_of(
    mixture, batch, encode=encode, pixels=None, on_error="error", max_dropped=0.01, dropped=None,
    stage=None, **more,
):  # fmt: skip
    """A loader as a stage makes it: pixels with the samples, or features later."""
    skip = on_error == "skip"
    look = None if pixels is None else partial(draw_images, pixels)
    look = OpenImages() if skip and "features" in more else look
    data = StageData(mixture, encode, batch, skip=skip, look=look)
    limit = DropLimit(max_dropped, len(mixture), dropped, stage)
    return Loader(data, pad_id=0, limit=limit, **more)


def taken(stream, steps):
    batches = stream.batches if isinstance(stream, Loader) else stream
    iterator = batches(0)
    found = [next(iterator) for _ in range(steps)]
    iterator.close()
    return found


def origins(passes):
    return [origin for batch in passes for origin in batch.origins]


def test_pixels_follow_their_placeholders():
    for (batch,) in taken(loader(), 4):
        shown = batch.input_ids[batch.image > 0].float()
        torch.testing.assert_close(numbers(batch.pixel_values), shown)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_ranks_and_passes_share_one_stream(world, accumulate, extra):
    samples = world * accumulate + extra
    whole = [sorted(origins(step)) for step in taken(loader(samples=samples), 4)]
    shared = [[] for _ in range(4)]
    for rank in range(world):
        stream = loader(samples=samples, accumulate=accumulate, rank=rank, world=world)
        for number, step in enumerate(taken(stream, 4)):
            assert len(step) == accumulate
            assert all(len(batch.origins) for batch in step)
            shared[number] += origins(step)
    assert [sorted(step) for step in shared] == whole


def test_a_resumed_stream_is_the_same():
    whole = taken(loader(accumulate=2), 7)
    iterator = loader(accumulate=2).batches(4)
    later = [next(iterator) for _ in range(3)]
    for a, b in zip(whole[4:], later, strict=True):
        assert [x.input_ids.tolist() for x in a] == [x.input_ids.tolist() for x in b]


def test_workers_change_nothing_not_even_the_random_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    alone, helped = taken(loader(accumulate=2), 6), taken(loader(accumulate=2, workers=2), 6)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(alone, helped, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x.input_ids, y.input_ids)
            assert x.origins == y.origins
            same = x.pixel_values is None and y.pixel_values is None
            assert same or torch.equal(x.pixel_values.values, y.pixel_values.values)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_keeps_its_class_and_words(workers):
    with pytest.raises(DataError, match=r"record 5: broken.*on_error=skip leaves such"):
        taken(loader(bad={5}, workers=workers), 30)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_stays_a_bug(workers):
    def faulty(sample, counts=None):
        raise RuntimeError("a bug")

    stream = loader(workers=workers)
    stream = stream_of(stream.mixture, stream.batch, faulty)
    with pytest.raises(RuntimeError, match="a bug") as caught:
        taken(stream, 1)
    assert not isinstance(caught.value, RunError)


def test_a_killed_worker_is_explained():
    class Deadly(Numbers):
        def __getitem__(self, index):
            return Sample("die" if index == 3 else str(index))

    mixture = Mixture({"deadly": Deadly(9)}, {"deadly": 1.0}, 0)
    stream = stream_of(mixture, BatchSpec(samples=3, workers=1))
    with pytest.raises(RunError, match="data worker died") as caught:
        taken(stream, 9)
    assert "workers" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_is_replaced_written_down_and_counted(tmp_path, workers):
    file = tmp_path / "dropped.jsonl"
    more = {"on_error": "skip", "max_dropped": 0.1, "dropped": file, "bad": {5, 6, 40}}
    stream = loader(workers=workers, **more)
    steps = taken(stream, 30)
    assert all(len(origins(step)) == 6 for step in steps)
    shown = [batch.pixel_values for step in steps for batch in step]
    used = torch.cat([numbers(views) for views in shown if views is not None]).round().tolist()
    assert 7.0 in used and not {5.0, 6.0, 40.0} & set(used)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["record"] for line in lines) == [5, 6, 40]
    assert {line["source"] for line in lines} == {"big"}
    assert "broken" in lines[0]["reason"]
    assert stream.counts["big/samples"] + stream.counts["small/samples"] == 180
    assert stream.counts["big/seen"] == stream.counts["big/samples"] > 2 * 50
    assert stream.counts["big/dropped"] >= 4  # twice per epoch or more: 5 falls on 6 falls on 7
    # Resumed: the same places in the stream, and nothing is written twice.
    again = loader(workers=workers, **more)
    assert [origins(step) for step in taken(again, 30)] == [origins(step) for step in steps]
    assert len(file.read_text().splitlines()) == 3


def test_a_record_that_a_pass_meets_twice_is_written_once(tmp_path):
    """Nine samples of four records: the bad one is drawn twice before anything is reported."""
    file = tmp_path / "dropped.jsonl"
    mixture = Mixture({"few": Numbers(4, bad={2})}, {"few": 1.0}, 0)
    more = {"on_error": "skip", "max_dropped": 0.5, "dropped": file}
    stream = stream_of(mixture, BatchSpec(samples=9), pixels=pixels, **more)
    taken(stream, 2)
    assert [json.loads(line)["record"] for line in file.read_text().splitlines()] == [2]
    assert stream.counts["few/dropped"] >= 4


def test_too_many_bad_records_stop_the_run(tmp_path):
    file = tmp_path / "dropped.jsonl"
    stream = loader(bad=set(range(0, 50, 3)), on_error="skip", max_dropped=0.1, dropped=file)
    with pytest.raises(DataError, match="too many records") as caught:
        taken(stream, 60)
    assert "at most 5.7 of 57" in str(caught.value)
    with pytest.raises(DataError, match="16 records in a row"):
        taken(loader(bad=set(range(50)), on_error="skip", max_dropped=1.0), 60)


def test_what_other_stages_lost_is_not_held_against_this_one(tmp_path):
    file = tmp_path / "dropped.jsonl"
    Dropped(file).add({"stage": "one", "source": "big", "record": n} for n in range(40))
    more = {"on_error": "skip", "max_dropped": 0.1, "dropped": file}
    taken(loader(bad={5, 6, 40}, stage="two", **more), 30)
    mine = [line for line in Dropped(file).read() if line["stage"] == "two"]
    assert sorted(line["record"] for line in mine) == [5, 6, 40]
    with pytest.raises(DataError, match="too many records"):
        taken(loader(bad={5, 6, 40, 44}, stage="one", **more), 30)


def test_what_all_ranks_lost_before_is_measured_by_the_share_of_all(tmp_path):
    """Six of 57 were lost by two ranks; a resumed rank must not take all six for its own."""
    file = tmp_path / "dropped.jsonl"
    Dropped(file).add({"source": "big", "record": n} for n in range(6))
    more = {"on_error": "skip", "max_dropped": 0.2, "dropped": file, "world": 2}
    taken(loader(bad={*range(6), 20}, **more), 20)
    with pytest.raises(DataError, match="too many records"):
        taken(loader(bad=set(range(10)), rank=0, **more), 20)


def test_a_lost_record_has_the_number_it_has_in_its_source(tmp_path):
    file = tmp_path / "dropped.jsonl"
    part = Capped(Spread(Numbers(60, bad={42}), 20, held_out=False), 50, seed=1)
    mixture = Mixture({"part": part}, {"part": 1.0}, seed=0)
    more = {"on_error": "skip", "max_dropped": 0.5, "dropped": file}
    taken(stream_of(mixture, BatchSpec(samples=10), **more), 5)
    [line] = Dropped(file).read()
    assert (line["record"], line["reason"]) == (42, "record 42: broken")


def test_an_image_that_cannot_be_opened_is_a_bad_record(tmp_path):
    def refuse(number, images):
        if any(image.key == number for image in images):
            raise DataError("damaged", origin=f"image {number}")
        return pixels(images)

    more = {"on_error": "skip", "max_dropped": 0.5, "dropped": tmp_path / "d.jsonl"}
    stream = loader(pixels=partial(refuse, "11"), **more)
    taken(stream, 20)
    assert "image 11: damaged" in (tmp_path / "d.jsonl").read_text()


def test_features_are_taken_in_the_training_process_and_bad_images_show_before(tmp_path):
    class Damaged(Numbers):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            if index != 4:
                return sample

            def load():
                raise DataError("damaged", origin="image 4")

            return Sample("4", (ImageSource("image 4", "4", load),))

    asked = []

    def features(images):
        asked.extend(image.key for image in images)
        return Views.read(torch.tensor([[[float(image.key)]] for image in images]))

    mixture = Mixture({"damaged": Damaged(20)}, {"damaged": 1.0}, 0)
    more = {"on_error": "skip", "max_dropped": 0.5, "dropped": tmp_path / "d.jsonl"}
    stream = stream_of(mixture, BatchSpec(samples=4), features=features, **more)
    for (batch,) in taken(stream, 10):
        assert batch.pixel_values is None
        assert torch.equal(batch.features.values, batch.input_ids[batch.image > 0].float())
    assert "4" not in asked
    assert stream.counts["damaged/dropped"] == 2


def test_what_is_counted_is_what_was_handed_out():
    stream = loader()
    iterator = stream.batches(0)
    next(iterator)
    assert sum(stream.counts[f"{name}/samples"] for name in ("big", "small")) == 6
    iterator.close()


def test_each_rank_needs_a_sample_in_each_pass():
    with pytest.raises(RecipeError, match="at least 8"):
        loader(samples=7, accumulate=2, world=4)


def test_steps_of_a_budget():
    stream = loader(size=50, samples=6)  # 57 records
    assert stream.steps(BudgetSpec(steps=3)) == 3
    assert stream.steps(BudgetSpec(epochs=1)) == 10
    assert stream.steps(BudgetSpec(epochs=0.001)) == 1


def test_closing_early_leaves_no_thread_at_work():
    stream = loader()
    calls = Counter()

    def slow(sample, counts=None):
        calls["made"] += 1
        return encode(sample, counts)

    iterator = stream_of(stream.mixture, stream.batch, slow, pixels).batches(0)
    next(iterator)
    iterator.close()
    made = calls["made"]
    assert made <= 4 * 6
    assert calls["made"] == made


def slow_pixels(images, seconds):
    time.sleep(seconds)
    return pixels(images)


@pytest.mark.parametrize("workers, share", [(0, 0.5), (2, 1.4)])
def test_a_step_never_waits_for_data_that_is_prepared_as_fast(workers, share):
    # Preparing takes this share of a step in each thread or worker: sleep, so that it is the
    # loader's own order of things that is measured and not a busy machine.
    a_step, samples = 0.08, 2
    slow = partial(slow_pixels, seconds=share * a_step / samples)
    mixture = Mixture({"one": Numbers(500)}, {"one": 1.0}, seed=0)
    batch = BatchSpec(samples=samples, workers=workers)
    stream = stream_of(mixture, batch, pixels=slow)
    batches, waits = stream.batches(), []
    for _ in range(12):
        begun = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - begun)
        time.sleep(a_step)
    batches.close()
    assert sorted(waits[3:])[len(waits[3:]) // 2] < a_step / 4, waits
