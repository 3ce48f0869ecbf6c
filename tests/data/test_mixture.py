"""The stream is arithmetic: proportions, epochs, independence."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.core.errors import DataError
from lucida.data.mixture import Mixture, permute

weights_of = st.lists(st.floats(0.1, 20), min_size=1, max_size=5)


def mixture(weights, sizes=None, seed=0):
    names = [f"source{i}" for i in range(len(weights))]
    sizes = sizes or [50 + 7 * i for i in range(len(weights))]
    sources = {name: range(size) for name, size in zip(names, sizes, strict=True)}
    return Mixture(sources, dict(zip(names, weights, strict=True)), seed)


def mix(value):
    """splitmix64's finaliser, one number at a time."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def slow_permuted(place, size, key):
    """A Feistel network of six rounds over the next power of four, walked until it is inside."""
    half = ((size - 1).bit_length() + 1) // 2
    while size > 1:
        left, right = place >> half, place % (1 << half)
        for turn in range(6):
            left, right = right, left ^ mix(key + turn + (right << 8)) % (1 << half)
        place = left << half | right
        if place < size:
            return place
    return 0


def slow_draw(mixed, n):
    """Block by block, slot by slot: whose is it, and how often did this source come before?"""
    which, earlier = 0, n
    if len(mixed.names) > 1:
        phase = [phase for phase in mixed.phases if phase.begin <= n][-1]
        block, slot = divmod(n - phase.begin, phase.size)
        key = mix(mixed._key ^ phase.block + block)
        owners = [which for which, count in enumerate(phase.slots) for _ in range(count)]
        order = sorted(range(phase.size), key=lambda lot: mix((key + lot) % 2**64))
        owners = [owners[lot] for lot in order]
        which = owners[slot]
        earlier = phase.given[which] + block * phase.slots[which] + owners[:slot].count(which)
    size = mixed.sizes[which]
    epoch, place = divmod(earlier, size)
    key = mix(mixed._source_keys[which] ^ epoch)
    return mixed.names[which], slow_permuted(place, size, key), epoch


@given(st.integers(1, 600), st.integers(0, 2**64 - 1))
def test_permutations_permute_as_the_slow_version_does(size, key):
    found = permute(np.arange(size), size, np.full(size, key, dtype=np.uint64)).tolist()
    assert sorted(found) == list(range(size))
    places = range(0, size, 37)
    assert [found[place] for place in places] == [slow_permuted(p, size, key) for p in places]


@settings(max_examples=30, deadline=None)
@given(weights_of, st.lists(st.integers(0, 10**13), max_size=8), st.integers(0, 3), st.booleans())
def test_draws_in_any_order_are_the_slow_ones(weights, numbers, seed, limited):
    mixed = mixture(weights, seed=seed)
    if limited and len(weights) > 1:  # the others go on without end
        mixed = Mixture(mixed.sources, mixed.weights, seed, {"source0": 70})
    which, index, epoch = mixed.draws(numbers)
    names = [mixed.names[each] for each in which]
    found = list(zip(names, index.tolist(), epoch.tolist(), strict=True))
    assert found == [slow_draw(mixed, n) for n in numbers]
    assert found == [tuple(mixed.draw(n)) for n in numbers]


@settings(max_examples=25, deadline=None)
@given(weights_of, st.integers(0, 9), st.integers(0, 5))
def test_every_block_holds_the_shares(weights, seed, block):
    mixed = mixture(weights, seed=seed)
    size = sum(mixed.slots)
    start = block * size
    which = mixed.draws(range(start, start + min(size, 8000)))[0]
    counts = Counter(mixed.names[each] for each in which)
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
    for which, index, epoch in zip(*map(np.ndarray.tolist, mixed.draws(range(600))), strict=True):
        seen[mixed.names[which]].append((epoch, index))
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
