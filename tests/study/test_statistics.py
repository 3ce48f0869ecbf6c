"""Intervals and verdicts: against scipy and statsmodels, and by simulation."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from lucida.study import statistics as s

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [1, 2, 2.7, 8, 60.5])
def test_t_is_student_s(freedom):
    for t in (-3.0, 0.0, 0.4, 2.0, 12.0):
        assert s.t_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-9)
    for share in (0.9, 0.975, 0.999):
        assert s.t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-7)


def test_noncentral_t_gives_the_power_of_a_paired_test():
    from statsmodels.stats.power import TTestPower

    for seeds, effect in ((3, 2.0), (5, 1.0), (12, 0.9)):
        noise = s.Components(seed=1.0, picture=0.0, rest=0.0)
        known = TTestPower().power(effect, seeds, 0.05, alternative="two-sided")
        assert s.power(effect, noise, seeds, 100) == pytest.approx(known, abs=1e-4)
    found = s.smallest_effect(s.Components(1.0, 0.0, 0.0), 5, 100)
    assert TTestPower().power(found, 5, 0.05) == pytest.approx(0.8, abs=1e-4)


def test_power_with_pooled_noise_is_what_simulated_studies_have():
    arms, seeds, effect, draws = 4, 3, 3.0, 20_000
    scores = np.random.default_rng(0).normal(size=(draws, arms, seeds))
    scores[:, 1] += effect
    left = scores - scores.mean(axis=2, keepdims=True) - scores.mean(axis=1, keepdims=True)
    left += scores.mean(axis=(1, 2), keepdims=True)
    free = (arms - 1) * (seeds - 1)
    error = np.sqrt(2 * (left**2).sum(axis=(1, 2)) / free / seeds)
    t = (scores[:, 1] - scores[:, 0]).mean(axis=1) / error
    found = (np.abs(t) > s.t_quantile(0.975, free)).mean()
    noise = s.Components(seed=2**0.5, picture=0.0, rest=0.0)
    assert s.power(effect, noise, seeds, 100, arms=arms) == pytest.approx(found, abs=0.012)


def test_holm_as_statsmodels_has_it():
    from statsmodels.stats.multitest import multipletests

    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    values = np.random.default_rng(0).uniform(0, 0.2, 9)
    assert s.holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert s.holm([]) == []


def test_equivalence_as_statsmodels_has_it():
    from statsmodels.stats.weightstats import ttost_paired

    first = np.array([50.0, 52.0, 49.0, 51.0, 50.5])
    second = np.array([50.4, 52.1, 49.9, 50.8, 51.0])
    change = second - first
    found = s.Estimate(change.mean(), change.std(ddof=1) / math.sqrt(5), ((1.0, 4),), 5, 1)
    assert found.p_equivalent(1.0) == pytest.approx(ttost_paired(second, first, -1, 1)[0])
    assert found.p == pytest.approx(stats.ttest_rel(second, first).pvalue)


def test_pooled_variance_is_the_residual_of_a_two_way_layout():
    scores = np.array([[50.0, 53.0, 49.0], [55.0, 56.0, 55.0], [47.0, 52.0, 49.0]])
    variance, free = s.pooled_variance(scores)
    assert free == 4
    own = [np.var(scores[a] - scores[b], ddof=1) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert variance == pytest.approx(np.mean(own))


def test_components_of_a_crossed_table_are_found():
    rng = np.random.default_rng(1)
    tables = [
        3 * rng.standard_normal((8, 1))
        + 10 * rng.standard_normal((1, 80))
        + 20 * rng.standard_normal((8, 80))
        for _ in range(60)
    ]
    found = [s.contrast([table])[1][0] for table in tables]
    assert np.mean([each.seed**2 for each in found]) == pytest.approx(9, rel=0.2)
    assert np.mean([each.picture**2 for each in found]) == pytest.approx(100, rel=0.1)
    assert np.mean([each.rest**2 for each in found]) == pytest.approx(400, rel=0.05)


def tables(rng, seeds, effect=0.0, noise=(3.0, 12.0, 30.0), tasks=2, pictures=60):
    """Paired differences of a study with known noise; the seed's part is shared by its pictures."""
    return [
        effect
        + noise[0] * rng.standard_normal((seeds, 1))
        + noise[1] * rng.standard_normal((1, pictures))
        + noise[2] * rng.standard_normal((seeds, pictures))
        for _ in range(tasks)
    ]


@pytest.mark.parametrize("noise", [(3.0, 12.0, 30.0), (4.0, 0.0, 10.0), (1.0, 25.0, 20.0)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, noise):
    rng, times, covered = np.random.default_rng(seeds), 1500, 0
    for _ in range(times):
        found = s.contrast(tables(rng, seeds, 0.0, noise))[0]
        covered += found.p > 0.05  # the interval holds the true difference, which is 0
    assert 0.93 <= covered / times <= 0.97, covered / times


def test_a_bootstrap_over_three_seeds_is_too_narrow():
    rng, covered = np.random.default_rng(0), {3: 0, 12: 0}
    for seeds in covered:
        for number in range(200):
            found = tables(rng, seeds, 0.0, (4.0, 0.0, 10.0))
            low, high = s.hierarchical_bootstrap(found, samples=400, seed=number)
            covered[seeds] += low <= 0 <= high
    assert covered[3] / 200 < 0.88
    assert covered[12] > covered[3] + 8


def test_studies_of_equal_arms_rarely_cry_wolf():
    """Four arms equal to the baseline, seed noise pooled, Holm over all four."""
    rng, times, wolves = np.random.default_rng(4), 800, 0
    for _ in range(times):
        arms = [tables(rng, 3, 50.0, (3.0, 10.0, 25.0), 1) for _ in range(5)]
        pooled = s.pooled_variance(np.array([arm[0].mean(axis=1) for arm in arms]))
        found = [s.contrast([arm[0] - arms[0][0]], pooled)[0] for arm in arms[1:]]
        p = s.holm([each.p for each in found])
        same = s.holm([each.p_equivalent(1.0) for each in found])
        told = [s.verdict(*row) for row in zip(found, [1.0] * 4, [0.05] * 4, p, same, strict=True)]
        wolves += any(each in ("better", "worse") for each in told)
    assert wolves / times <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / times), wolves / times


def test_verdicts():
    clear = s.Estimate(6.0, 1.0, ((1.0, 8),), 3, 100)
    small = s.Estimate(0.1, 0.3, ((1.0, 8),), 3, 100)
    open_ = s.Estimate(1.0, 3.0, ((1.0, 8),), 3, 100)
    said = [s.verdict(e, 3.0, 0.05, e.p, e.p_equivalent(3.0)) for e in (clear, small, open_)]
    assert said == ["better", "equivalent", "cannot tell"]
    assert clear.interval(1.0) == (-math.inf, math.inf)
    sure = s.Estimate(0.0, 0.0, ((0.0, 8),), 3, 100)  # all seeds and pictures agree
    assert s.verdict(sure, 3.0, 0.0, sure.p, sure.p_equivalent(3.0)) == "cannot tell"
    lone = s.contrast([np.array([[5.0, 5.0, 5.0]])])[0]
    assert lone.interval() == (-math.inf, math.inf)
    assert s.verdict(lone, 3.0, 0.05, lone.p, lone.p_equivalent(3.0)) == "cannot tell"


def test_intervals_near_an_end_stay_on_the_scale():
    low, high = s.stabilised([0.96, 0.97, 0.965], [0.99, 0.99, 0.995])
    assert 0 < low < high <= 1 - 0.96
    assert s.stabilised([0.5], [0.6]) == (-1.0, 1.0)


def test_aggregates_by_their_definitions():
    assert s.interquartile_mean([1, 2, 3, 4, 100]) == pytest.approx(3)
    values = np.random.default_rng(0).normal(size=24)
    assert s.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    assert s.probability_of_improvement([1, 2], [2, 3]) == pytest.approx(0.875)


def test_the_cheapest_plan_finds_the_effect_and_a_smaller_one_does_not():
    noise = s.Components(seed=1.0, picture=10.0, rest=30.0)
    seeds, pictures, _ = s.cheapest(3.0, noise, train=100.0, ask=0.1, most_pictures=2000)
    assert s.power(3.0, noise, seeds, pictures) >= 0.8 > s.power(3.0, noise, seeds, pictures - 1)
    assert s.cheapest(0.01, noise, 100.0, 0.1, 100, most_seeds=5) is None


def test_levels_of_looks_are_those_of_the_literature():
    """Bounds for five and two equal looks under O'Brien and Fleming's spending (DeMets and Lan,
    1994, table 1; five looks)."""
    levels = s.spend_alpha([0.2, 0.4, 0.6, 0.8, 1.0])
    bounds = [NormalDist().inv_cdf(1 - level / 2) for level in levels]
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=2e-3)
    assert s.spend_alpha([1.0], 0.1) == pytest.approx([0.1])


def test_looks_together_are_wrong_as_often_as_one():
    """Paired differences of studies without an effect, looked at after 3, 5 and 8 seeds; t at the
    normal's levels keeps close to 5%, three looks at 5% each would not."""
    from scipy import stats

    looks, draws = (3, 5, 8), 40_000
    values = np.random.default_rng(1).normal(size=(draws, looks[-1]))
    levels = s.spend_alpha([count / looks[-1] for count in looks])
    wrong, naive = np.zeros(draws, bool), np.zeros(draws, bool)
    for count, level in zip(looks, levels, strict=True):
        part = values[:, :count]
        t = part.mean(1) / (part.std(1, ddof=1) / count**0.5)
        p = 2 * stats.t.sf(np.abs(t), count - 1)
        wrong |= p <= level
        naive |= p <= 0.05
    assert 0.045 < wrong.mean() < 0.056
    assert naive.mean() > 0.09
