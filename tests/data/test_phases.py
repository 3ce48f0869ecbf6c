"""Sources that run out: exact amounts, the same stream however it is asked, and its end."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import RecipeError
from lucida.core.spec import BatchSpec, BudgetSpec, MixtureSpec, SourceBudgetSpec
from lucida.data.lengths import Lengths
from lucida.data.loader import Loader
from lucida.data.mixture import Draw, Mixture
from lucida.data.order import Order
from lucida.data.phases import phases
from lucida.data.sample import Sample, Tokens
from lucida.data.stage import StageData, limit_samples

WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=4)
LIMIT = st.one_of(st.none(), st.integers(1, 500))


def stream(weights, limits, seed=0, size=30):
    names = [f"s{number}" for number in range(len(weights))]
    most = {name: limit for name, limit in zip(names, limits, strict=True) if limit}
    sources = {name: range(size + number) for number, name in enumerate(names)}
    return Mixture(sources, dict(zip(names, map(float, weights), strict=True)), seed, most)


@st.composite
def limited(draw):
    weights = draw(WEIGHTS)
    return weights, draw(st.lists(LIMIT, min_size=len(weights), max_size=len(weights)))


@given(limited())
@settings(max_examples=60, deadline=None)
def test_each_source_gives_exactly_what_it_may(case):
    weights, limits = case
    mixed = stream(weights, limits)
    total = mixed.end if mixed.end is not None else mixed.phases[-1].begin + 300
    which, _, _ = mixed.draws(range(total))
    given_ = np.bincount(which, minlength=len(weights))
    for many, limit in zip(given_, limits, strict=True):
        assert many == limit if limit and mixed.end is None else limit is None or many <= limit
    if None not in limits:
        assert mixed.end == sum(limits) and given_.tolist() == limits


@given(limited(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_draws_at_once_are_the_draws_over_every_border(case, seed):
    mixed = stream(*case, seed=seed)
    borders = [phase.begin for phase in mixed.phases]
    end = mixed.end or borders[-1] + 200
    for border in borders:
        begin, stop = max(0, border - 40), min(end, border + 40)
        which, index, _ = mixed.draws(range(begin, stop))
        slow = [mixed.draw(n) for n in range(begin, stop)]
        assert [mixed.names[w] for w in which] == [draw.source for draw in slow]
        assert index.tolist() == [draw.index for draw in slow]


@given(limited())
@settings(max_examples=30, deadline=None)
def test_every_epoch_holds_every_record_once(case):
    mixed = stream(*case, size=11)
    end = min(mixed.end or 10**9, mixed.phases[-1].begin + 200)
    draws = zip(*map(np.ndarray.tolist, mixed.draws(range(end))), strict=True)
    seen = Counter(Draw(mixed.names[which], *rest) for which, *rest in draws)
    assert set(seen.values()) == {1}  # a draw names its epoch
    for number, name in enumerate(mixed.names):
        epochs = Counter(draw.epoch for draw in seen if draw.source == name)
        assert all(many == 11 + number for many in list(epochs.values())[:-1])


@given(WEIGHTS)
def test_without_limits_nothing_changes(weights):
    (only,) = phases(weights, [None] * len(weights))
    assert (only.begin, only.block, only.blocks, only.end) == (0, 0, None, None)
    assert not any(only.given)


def test_worked_example():
    found = phases([2.0, 1.0, 1.0], [None, 40, None])
    assert [(phase.begin, phase.slots) for phase in found] == [
        (0, (64, 32, 32)),
        (128, (64, 8, 32)),
        (232, (64, 0, 32)),
    ]
    assert found[-1].given == (128, 40, 64) and found[-1].blocks is None


def test_the_end_is_an_end():
    mixed = stream([1, 1], [10, 5])
    assert mixed.end == 15
    for ask in (lambda: mixed.draw(15), lambda: mixed.draws(range(10, 16))):
        with pytest.raises(IndexError, match="15 of 15"):
            ask()


def encode(sample, counts=None):
    number = int(sample.origin)
    ids = np.full(1 + number % 7, number, dtype=np.int64)
    return Tokens(sample.origin, (), ids, ids * 0, np.arange(len(ids)), ids * 0, ids)


class Numbers:
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return Sample(str(index))


BATCHES = [
    {"samples": 8},
    {"samples": 8, "accumulate": 2, "workers": 1},
    {"samples": 8, "order": "length"},
    {"samples": 8, "order": "modality"},
    {"tokens": 64, "row": 16},
    {"tokens": 32},
]


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_stream_that_ends_gives_whole_steps_and_then_stops(batch):
    sources = {"a": Numbers(), "b": Numbers()}

    def loader(rank=0, world=1):
        mixture = Mixture(sources, {"a": 3.0, "b": 1.0}, 0, {"a": 70, "b": 130})
        data = StageData(mixture, encode, BatchSpec(**batch))
        return Loader(data, pad_id=0, rank=rank, world=world)

    one = loader()
    steps = [[o for each in passes for o in each.origins] for passes in one.batches()]
    assert len(steps) == one.order.end == one.steps(BudgetSpec(epochs=100))
    assert one.steps(BudgetSpec(steps=3)) == 3 and one.steps(BudgetSpec(steps=10**6)) == len(steps)
    used = sum(map(len, steps))
    left = 200 - used
    assert 0 <= left < (8 if "samples" in batch else 70)
    if "samples" in batch:
        assert {len(step) for step in steps} == {8}
    again = [[o for each in p for o in each.origins] for p in loader().batches(len(steps) - 2)]
    assert again == steps[-2:]
    assert list(loader().batches(len(steps))) == []


def test_no_step_at_all_is_refused():
    mixture = Mixture({"a": Numbers()}, {"a": 1.0}, 0, {"a": 5})
    with pytest.raises(RecipeError, match="do not make one step"):
        data = StageData(mixture, encode, BatchSpec(samples=8))
        Loader(data, pad_id=0).steps(BudgetSpec(steps=1))


def test_limits_of_budgets():
    sources = {"a": Numbers(), "b": Numbers(), "c": Numbers()}
    budgets = {
        "a": SourceBudgetSpec(samples=7),
        "b": SourceBudgetSpec(epochs=1.5),
        "c": SourceBudgetSpec(tokens=1000),
    }
    mean = np.mean([1 + n % 7 for n in range(40)])
    found = limit_samples(budgets, sources, encode)
    assert found == {"a": 7, "b": 60, "c": int(1000 / mean)}
    assert limit_samples({"a": SourceBudgetSpec(epochs=0.001)}, sources, None) == {"a": 1}
    with pytest.raises(ValueError, match="need `encode`"):
        limit_samples(budgets, sources, None)


@pytest.mark.parametrize(
    "budgets",
    [
        {"a": {}},
        {"a": {"samples": 1, "epochs": 1}},
        {"a": {"samples": 0}},
        {"c": {"samples": 1}},
    ],
)
def test_budgets_that_make_no_sense(budgets):
    source = {"kind": "text", "path": "x"}
    with pytest.raises(ValueError, match=r"budgets|exactly one|greater than 0"):
        MixtureSpec.model_validate({"sources": {"a": source}, "budgets": budgets})


def test_a_bookmark_finds_a_step_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30, 5000).astype(np.int32)
    lengths = Lengths({"a": tokens}, {"a": np.zeros(5000, dtype=bool)})
    monkeypatch.setattr("lucida.data.order.WINDOW", 200)

    def order():
        mixture = Mixture({"a": range(5000)}, {"a": 1.0}, 0)
        return Order(mixture, BatchSpec(tokens=256, row=64), lengths)

    whole = order()
    first = list(itertools.islice(whole.passes(), 300))
    marks = [whole.bookmark(step) for step in range(300)]
    assert marks[0] == (0, 0) and marks[299][0] > 20
    for step in (0, 1, 17, 150, 299):
        later, planned = order(), []
        packed = later._packed
        monkeypatch.setattr(later, "_packed", lambda w, p=packed, s=planned: s.append(w) or p(w))
        assert next(later.passes(step, marks[step])) == first[step]
        assert len(planned) <= 2 and planned[0] == marks[step][0]
        assert later.bookmark(step) == marks[step]
        assert next(order().passes(step)) == first[step]
