"""Intervals: worked examples and properties of the clustered bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.eval.statistics import bootstrap, compare_paired, resolve_difference

score_lists = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=40)


@settings(deadline=None, max_examples=50)
@given(score_lists)
def test_the_interval_stays_within_the_scores(scores):
    interval = bootstrap(scores, samples=200)
    assert min(scores) - 1e-9 <= interval.low <= interval.high <= max(scores) + 1e-9
    assert interval.mean == pytest.approx(np.mean(scores), abs=1e-9)
    assert (interval.n, interval.clusters) == (len(scores), len(scores))


@settings(deadline=None, max_examples=50)
@given(score_lists, st.integers(2, 5))
def test_repeating_questions_within_images_adds_no_certainty(scores, times):
    images = [i for i in range(len(scores)) for _ in range(times)]
    repeated = [score for score in scores for _ in range(times)]
    plain, clustered = bootstrap(scores, samples=200), bootstrap(repeated, images, samples=200)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    assert clustered.clusters == len(scores)


@settings(deadline=None, max_examples=50)
@given(score_lists)
def test_paired_with_itself_is_exactly_zero(scores):
    interval = compare_paired(scores, scores, samples=200)
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


@settings(deadline=None, max_examples=50)
@given(score_lists, st.floats(-1, 1, width=32))
def test_paired_of_a_shifted_list_is_the_shift(scores, shift):
    interval = compare_paired([score + shift for score in scores], scores, samples=200)
    assert (interval.low, interval.high) == pytest.approx((shift, shift), abs=1e-6)


def test_worked_example_two_coins():
    interval = bootstrap([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_blocks_do_not_change_the_draws(monkeypatch):
    scores = np.random.default_rng(0).random(50)
    whole = bootstrap(scores, samples=500, seed=3)
    monkeypatch.setattr("lucida.eval.statistics._CELLS", 1000)
    assert bootstrap(scores, samples=500, seed=3) == whole


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(0).random(50)
    assert bootstrap(scores, seed=1) == bootstrap(scores, seed=1)
    assert bootstrap(scores, seed=1) != bootstrap(scores, seed=2)


def test_about_95_of_100_intervals_hold_the_truth():
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        ability = generator.beta(2, 2, size=100).repeat(4)  # images differ; mean ability 0.5
        scores = (generator.random(400) < ability).astype(float)
        interval = bootstrap(scores, np.arange(100).repeat(4), samples=400, seed=trial)
        held += interval.low <= 0.5 <= interval.high
    assert 0.90 <= held / 200 <= 0.99


def test_one_cluster_has_no_spread():
    interval = bootstrap([0, 1], ["a", "a"])
    assert (interval.mean, interval.low, interval.high, interval.clusters) == (0.5, 0.5, 0.5, 1)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="no scores"):
        bootstrap([])
    with pytest.raises(ValueError, match="2 scores but 1 cluster"):
        bootstrap([1, 0], ["a"])
    with pytest.raises(ValueError, match="1 and 2"):
        compare_paired([1], [1, 0])


def test_a_small_set_says_which_difference_it_resolves():
    scores = [1.0] * 15 + [0.0] * 10
    assert resolve_difference(scores, range(25)) == pytest.approx(2.8016 * 2**0.5 * 0.1, rel=1e-4)
    # Four times the questions about the same pictures say no more, four times the pictures twice.
    repeated = [score for score in scores for _ in range(4)]
    clusters = [number for number in range(25) for _ in range(4)]
    single = resolve_difference(scores, range(25))
    assert resolve_difference(repeated, clusters) == pytest.approx(single)
    apart = resolve_difference(repeated, range(100))
    assert apart == pytest.approx(single / 2, rel=0.02)
    assert resolve_difference([1.0] * 10, range(10)) > 0.3, "ten right answers do not prove a rule"
    assert resolve_difference([0.0, 1.0], [0, 0]) is None
