"""Orders of a stream: equal to slow, obvious versions; the same for any ranks; resumed exactly."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucida.core.errors import DataError, RecipeError, RunError
from lucida.core.spec import BatchSpec, BudgetSpec
from lucida.data.lengths import Lengths, Measuring
from lucida.data.loader import DropLimit, Loader
from lucida.data.mixture import Mixture
from lucida.data.order import deal, group_by_length, group_by_modality
from lucida.data.reader import TooLong
from lucida.data.sample import ImageSource, Sample, Tokens
from lucida.data.stage import Spread, StageData


class Records:
    """Records of given lengths; each says its own number; those in `bad` cannot be used."""

    def __init__(self, lengths, images=False, bad=()):
        self.lengths, self.images, self.bad = lengths, images, bad
        self.read = Counter()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        self.read[index] += 1
        if index in self.bad:
            raise DataError("broken", origin=f"record {index}")
        images = (ImageSource("image", "key", None),) if self.images else ()
        return Sample(f"{index} {self.lengths[index]}", images)


def encode(sample, counts=None):
    index, length = map(int, sample.origin.split())
    ids = np.full(length, index, dtype=np.int64)
    return Tokens(sample.origin, (), ids, ids * 0, np.arange(length), ids * 0, ids)


def encode_with_images(sample, counts=None):
    tokens = encode(sample)
    image = np.minimum(tokens.position, 0) + (tokens.position == 0) * len(sample.images)
    return Tokens(
        sample.origin,
        sample.images,
        tokens.input_ids,
        tokens.branch,
        tokens.position,
        image,
        tokens.target,
    )


def mixture(seed=0, small=80, **more):
    rng = np.random.default_rng(seed)
    sources = {
        "seen": Records(rng.integers(8, 30, 2 * small), images=True, **more),
        "read": Records(rng.integers(1, 20, small)),
    }
    return Mixture(sources, {"seen": 2.0, "read": 1.0}, seed)


def made(mixture, **batch):
    data = StageData(mixture, encode_with_images, BatchSpec(**batch))
    if data.lengths is not None:
        data.lengths.complete()
    return data.order


def first(stream, many):
    return list(itertools.islice(stream, many))


def slow_modality(lengths, shows, samples):
    """Deal into two heaps; a heap that is full is a step; what stays is the last one."""
    heaps, steps = {True: [], False: []}, []
    for number, kind in enumerate(shows):
        heaps[bool(kind)].append(number)
        if len(heaps[bool(kind)]) == samples:
            steps.append(heaps[bool(kind)])
            heaps[bool(kind)] = []
    left = heaps[True] + heaps[False]
    return [set(step) for step in steps] + ([set(left)] if left else [])


@given(st.data(), st.integers(1, 6), st.integers(1, 8))
def test_split_modality_is_the_slow_version(data, samples, steps):
    size = samples * steps
    shows = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    lengths = np.array(data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size)))
    found = group_by_modality(lengths, shows, samples)
    key = sorted
    assert key(map(sorted, found)) == key(map(sorted, slow_modality(lengths, shows, samples)))
    assert all(len(step) == samples for step in found)
    mixed = [step for step in found if len({bool(shows[i]) for i in step}) == 2]
    assert len(mixed) <= 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 7))
def test_steps_of_like_length_are_the_slow_version(lengths, samples):
    slow = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    assert group_by_length(lengths, samples) == [
        slow[at : at + samples] for at in range(0, len(slow), samples)
    ]


@given(st.integers(0, 30), st.integers(1, 7))
def test_dealing_keeps_all_and_balances_parts(many, parts):
    items = list(range(many, 0, -1))
    found = deal(items, parts)
    assert sorted(found) == sorted(items)
    bounds = [many * part // parts for part in range(parts + 1)]
    sums = [sum(found[a:b]) for a, b in itertools.pairwise(bounds) if b - a == -(-many // parts)]
    # Parts of the same size are dealt in turn: they differ by less than one item a round.
    assert not sums or max(sums) - min(sums) <= (many // parts + 1) * parts


BATCHES = [
    {"samples": 8},
    {"samples": 8, "order": "modality", "accumulate": 2},
    {"samples": 8, "order": "length"},
    {"tokens": 128, "row": 32},
    {"tokens": 128, "row": 32, "accumulate": 2},
    {"tokens": 100, "accumulate": 2},
]


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_every_draw_comes_once(batch):
    stream = made(mixture(), **batch)
    windows, seen = 3, Counter()
    for rows in stream.passes():
        seen.update(n for row in rows for n in row)
        if min(seen.values()) == 1 and max(seen) >= (windows + 1) * stream.window:
            break
    assert set(seen.values()) == {1}
    assert set(range(windows * stream.window)) <= set(seen)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("step", [1, 7, 31, 60])
def test_resumed_at_any_step(batch, step):
    parts = batch.get("accumulate", 1)
    whole = first(made(mixture(), **batch).passes(), (step + 20) * parts)
    assert first(made(mixture(), **batch).passes(step), 20 * parts) == whole[step * parts :]


@pytest.mark.parametrize("batch", BATCHES[1:], ids=str)
def test_the_order_goes_by_the_seed(batch):
    sources = {"one": Records(np.full(200, 10), images=True)}
    streams = [made(Mixture(sources, {"one": 1.0}, seed), **batch) for seed in (1, 1, 2)]
    one, same, other = [first(stream.passes(), 5) for stream in streams]
    assert one == same != other


def test_rows_hold_what_fits():
    stream = made(mixture(), tokens=128, row=32)
    records = stream.mixture.sources
    full = []
    for rows in first(stream.passes(), 60):
        assert len(rows) == 4
        for row in rows:
            drawn = [stream.mixture.draw(n) for n in row]
            full.append(sum(records[d.source].lengths[d.index] for d in drawn))
    assert max(full) <= 32
    assert sum(full) > 0.9 * 32 * len(full)


def test_modality_is_pure_but_for_a_step_of_each_window():
    stream = made(mixture(), samples=8, order="modality")
    mixed = 0
    steps = 3 * stream.window // 8
    for (row,) in first(stream.passes(), steps):
        mixed += len({stream.mixture.draw(n).source for n in row}) == 2
    assert mixed <= 3


def loader(batch, skip=False, rank=0, world=1, bad=(), dropped=None, lengths=None):
    stream = mixture(bad=bad)
    data = StageData(stream, encode, BatchSpec(**batch), skip=skip)
    limit = DropLimit(0.5, len(stream), dropped)
    return Loader(data, pad_id=0, rank=rank, world=world, limit=limit, lengths=lengths)


def contents(stream, steps, from_step=0):
    """For each step the sorted samples in it."""
    iterator = stream.batches(from_step)
    found = [sorted(o for batch in next(iterator) for o in batch.origins) for _ in range(steps)]
    iterator.close()
    return found


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_ranks_share_one_stream(batch):
    if batch.get("row") is None and batch.get("tokens"):
        return  # a row is a whole pass there: refused, see below
    whole = contents(loader(batch), 12)
    parts = [contents(loader(batch, rank=rank, world=2), 12) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("batch", [BATCHES[1], BATCHES[4]], ids=str)
def test_workers_share_one_stream(batch):
    assert contents(loader(batch | {"workers": 2}), 6) == contents(loader(batch), 6)


def test_fixed_rows_have_one_shape_and_open_ones_no_padding():
    fixed = loader({"tokens": 128, "row": 32}).batches()
    for (batch,) in first(fixed, 5):
        assert batch.input_ids.shape == (4, 32)
    tight = loader({"tokens": 100}).batches()
    for (batch,) in first(tight, 5):
        assert (batch.segment > 0).all()
        assert batch.input_ids.shape[1] <= 100


def test_each_rank_needs_a_row():
    with pytest.raises(RecipeError, match="each rank needs a row"):
        loader({"tokens": 100}, world=2)
    with pytest.raises(RecipeError, match="each rank needs a row"):
        loader({"tokens": 64, "row": 32}, world=3)


def test_stand_ins_fit_the_place_that_was_planned(tmp_path):
    dropped = tmp_path / "dropped.jsonl"
    stream = loader({"tokens": 128, "row": 32}, skip=True, bad=range(20, 40), dropped=dropped)
    for passes in first(stream.batches(), 60):
        assert all(batch.input_ids.shape == (4, 32) for batch in passes)
    assert stream.counts["seen/dropped"] >= 20
    assert len(dropped.read_text().splitlines()) == 20


def test_records_longer_than_a_row(tmp_path):
    with pytest.raises(DataError, match=r"longer than a row(.|\n)*29"):
        contents(loader({"tokens": 100, "row": 25}), 1)
    dropped = tmp_path / "dropped.jsonl"
    stream = loader({"tokens": 100, "row": 25}, skip=True, dropped=dropped)
    for (batch,) in first(stream.batches(), 80):
        assert batch.input_ids.shape == (4, 25)
    assert "longer than a row" in dropped.read_text()


def test_the_longest_record_has_the_number_of_its_file():
    rest = Spread(Records([3, 3, 9, 3]), 2, held_out=False)  # records 0 and 2
    held = Mixture({"a": rest}, {"a": 1.0}, seed=0)
    with pytest.raises(TooLong, match=r"a: record 2: .* got 9"):
        Lengths.unknown(Measuring(held, encode, capacity=5)).complete()


def test_lengths_are_measured_once_and_resumed_from_disk(tmp_path):
    file = tmp_path / "lengths.npz"
    whole = contents(loader({"tokens": 128, "row": 32}, lengths=file), 30)
    again = loader({"tokens": 128, "row": 32}, lengths=file)
    assert contents(again, 10, from_step=20) == whole[20:]
    read = sum(sum(s.read.values()) for s in again.mixture.sources.values())
    assert read < len(again.mixture)  # a few to compare, and those of the ten steps


def test_data_that_changed_under_a_run_is_refused(tmp_path):
    file = tmp_path / "lengths.npz"
    stream = mixture()
    sources = stream.sources

    def complete():
        Lengths.unknown(Measuring(stream, encode)).complete(file)

    complete()
    sources["read"].lengths = sources["read"].lengths + 1
    with pytest.raises(RunError, match="source read changed"):
        complete()
    sources["read"].lengths = sources["read"].lengths[:-1]
    with pytest.raises(RunError, match="records"):
        complete()
    file.write_bytes(b"PK not an archive")
    with pytest.raises(RunError, match="cannot be read"):
        complete()


def test_epochs_in_steps_of_tokens():
    stream = loader({"tokens": 128, "row": 32})
    total = sum(int(s.lengths.sum()) for s in stream.mixture.sources.values())
    steps = stream.steps(BudgetSpec(epochs=1))
    assert total / 128 <= steps <= 1.15 * total / 128 + 1


@pytest.mark.parametrize(
    "batch",
    [
        {"row": 32},
        {"tokens": 100, "row": 32},
        {"tokens": 64, "pack": False},
        {"tokens": 64, "order": "length"},
        {"tokens": 2, "accumulate": 3},
    ],
    ids=str,
)
def test_batches_that_make_no_sense(batch):
    with pytest.raises(ValueError, match=r"tokens|row"):
        BatchSpec(**batch)
