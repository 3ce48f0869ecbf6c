"""The stream is arithmetic: proportions, epochs, independence."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.data.mixture import Mixture, permuted

weights_of = st.lists(st.floats(0.1, 20), min_size=1, max_size=5)


def mixture(weights, sizes=None, seed=0):
    names = [f"source{i}" for i in range(len(weights))]
    sizes = sizes or [50 + 7 * i for i in range(len(weights))]
    sources = {name: range(size) for name, size in zip(names, sizes, strict=True)}
    return Mixture(sources, dict(zip(names, weights, strict=True)), seed)


@given(st.integers(1, 600), st.integers(0, 2**64 - 1))
def test_permutations_permute(size, key):
    assert sorted(permuted(place, size, key) for place in range(size)) == list(range(size))


@settings(max_examples=25, deadline=None)
@given(weights_of, st.integers(0, 9), st.integers(0, 5))
def test_every_block_holds_the_shares(weights, seed, block):
    mixed = mixture(weights, seed=seed)
    size = sum(mixed.slots)
    start = block * size
    counts = Counter(mixed.draw(n).source for n in range(start, start + min(size, 8000)))
    if size <= 8000:
        assert tuple(counts[name] for name in mixed.names) == mixed.slots
    total = sum(weights)
    for weight, slots in zip(weights, mixed.slots, strict=True):
        assert abs(slots / size - weight / total) <= 1 / size + 1e-9
        assert slots >= 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.data(),
)
def test_no_record_comes_twice_in_an_epoch(sizes, data):
    weights = [data.draw(st.floats(0.1, 4)) for _ in sizes]
    mixed = mixture(weights, sizes, seed=data.draw(st.integers(0, 3)))
    seen: dict[str, list[tuple[int, int]]] = {name: [] for name in mixed.names}
    for n in range(600):
        name, index, epoch = mixed.draw(n)
        seen[name].append((epoch, index))
    for name, came in seen.items():
        size = len(mixed.sources[name])
        for epoch in range(len(came) // size):
            part = came[epoch * size : (epoch + 1) * size]
            assert sorted(part) == [(epoch, index) for index in range(size)]
        assert len(set(came)) == len(came)


def test_draws_do_not_depend_on_what_was_drawn_before():
    mixed, again = mixture([3, 1]), mixture([3, 1])
    numbers = [10**12, 5, 10**12, 0, 77]
    assert [mixed.draw(n) for n in numbers] == [again.draw(n) for n in numbers[::-1]][::-1]


def test_seeds_and_epochs_shuffle_differently():
    orders = set()
    for seed in (0, 1):
        mixed = mixture([1], [200], seed)
        for epoch in (0, 1):
            orders.add(tuple(mixed.draw(epoch * 200 + i).index for i in range(200)))
    assert len(orders) == 4


def test_another_source_does_not_reshuffle_the_first():
    one = mixture([1], [200])
    two = mixture([1, 1], [200, 90])
    first = [draw.index for draw in map(two.draw, range(800)) if draw.source == "source0"]
    alone = [one.draw(n).index for n in range(len(first))]
    assert first == alone


def test_a_huge_source_needs_no_table():
    mixed = mixture([1], [10**12])
    draws = [mixed.draw(n).index for n in range(1000)]
    assert len(set(draws)) == 1000
    assert max(draws) > 9 * 10**11


def test_bad_mixtures():
    with pytest.raises(DataError, match="no records"):
        mixture([1.0, 1.0], [3, 0])
    with pytest.raises(DataError, match="weight"):
        mixture([1.0, 0.0])
    with pytest.raises(ValueError, match="differ"):
        Mixture({"a": range(3)}, {"b": 1.0}, 0)
