import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.metrics import (
    bootstrap_interval,
    bootstrap_mean,
    hierarchical_bootstrap,
    paired_difference,
    t_interval,
    wilson_interval,
)


def _x(n=80, seed=100):
    return np.random.default_rng(seed).exponential(size=n)


def test_t_interval_agrees_with_scipy():
    x = _x(7)
    peer = stats.ttest_1samp(x, 0).confidence_interval(0.9)
    ours = t_interval(x, 0.9)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=1e-12)
    assert ours.estimate == pytest.approx(x.mean())


def test_one_run_says_nothing():
    i = t_interval([0.5])
    assert (i.low, i.estimate, i.high) == (-np.inf, 0.5, np.inf)


@pytest.mark.parametrize("successes", [0, 3, 17, 20])
def test_wilson_interval_agrees_with_scipy(successes):
    peer = stats.binomtest(successes, 20).proportion_ci(0.95, method="wilson")
    ours = wilson_interval(successes, 20)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=1e-10)
    assert 0 <= ours.low <= ours.estimate <= ours.high <= 1


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method):
    x = _x()
    ours = bootstrap_mean(x, seed=100, n_resamples=40_000, method=method)
    peer = stats.bootstrap((x,), np.mean, n_resamples=40_000, method=method, rng=100).confidence_interval
    # Two independent sets of resamples: the quantiles differ by Monte Carlo error of about 1 % of the width.
    width = peer.high - peer.low
    assert ours.low == pytest.approx(peer.low, abs=0.03 * width)
    assert ours.high == pytest.approx(peer.high, abs=0.03 * width)


def test_bca_equals_percentile_for_symmetric_data_and_shifts_right_for_right_skew():
    half = np.abs(np.random.default_rng(100).normal(size=50))
    x = np.r_[half, -half]
    a = bootstrap_mean(x, seed=100, n_resamples=20_000)
    b = bootstrap_mean(x, seed=100, n_resamples=20_000, method="bca")
    assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=0.03 * (a.high - a.low))
    a = bootstrap_mean(_x(30), seed=100, n_resamples=20_000)
    b = bootstrap_mean(_x(30), seed=100, n_resamples=20_000, method="bca")
    assert b.high > a.high
    assert b.low > a.low


def test_statistic_of_rows_equals_the_mean_shortcut():
    x = torch.as_tensor(_x())
    for method in ("percentile", "bca"):
        a = bootstrap_interval(lambda rows: x[rows].mean(1), len(x), seed=101, method=method)
        assert a == bootstrap_mean(x, seed=101, method=method)


def test_same_seed_same_interval_and_the_global_state_is_untouched():
    before = torch.get_rng_state()
    assert bootstrap_mean(_x(), seed=100) == bootstrap_mean(_x(), seed=100)
    assert bootstrap_mean(_x(), seed=100) != bootstrap_mean(_x(), seed=101)
    hierarchical_bootstrap(np.ones((2, 3)) * _x(3), seed=100)
    assert torch.equal(before, torch.get_rng_state())


def test_bootstrap_interval_covers_the_truth_at_about_its_level():
    rng = np.random.default_rng(100)
    runs = 300
    hits = sum(
        not bootstrap_mean(rng.normal(size=60), seed=100 + i, n_resamples=400, confidence=0.9).excludes(0.0)
        for i in range(runs)
    )
    assert abs(hits / runs - 0.9) < 4 * np.sqrt(0.09 / runs) + 0.01


def test_a_constant_has_an_interval_of_no_width():
    for method in ("percentile", "bca"):
        i = bootstrap_mean(np.full(20, 3.0), seed=100, method=method)
        assert (i.low, i.estimate, i.high) == (3.0, 3.0, 3.0)


def test_hierarchical_spread_adds_the_variances_of_seeds_and_samples():
    # Values = seed effect + sample effect + noise. The bootstrap variance of the grand mean is, to first order,
    # (between-seed variance)/S + (between-sample variance)/n of the observed means.
    rng = np.random.default_rng(100)
    s, n = 12, 200
    v = 0.3 * rng.normal(size=(s, 1)) + 2.0 * rng.normal(size=(1, n)) + 0.1 * rng.normal(size=(s, n))
    i = hierarchical_bootstrap(v, seed=100, n_resamples=20_000, confidence=0.6827)
    expected = np.sqrt(v.mean(1).var() / s + v.mean(0).var() / n)
    assert (i.high - i.low) / 2 == pytest.approx(expected, rel=0.06)
    # With samples of their own for each seed, sample noise averages over all of them.
    own = hierarchical_bootstrap(v, seed=100, crossed=False, n_resamples=20_000, confidence=0.6827)
    expected = np.sqrt(v.mean(1).var() / s + v.var(1).mean() / (s * n))
    assert (own.high - own.low) / 2 == pytest.approx(expected, rel=0.06)


def test_paired_difference_uses_the_pairing():
    rng = np.random.default_rng(100)
    shared, noise = 10 * rng.normal(size=100), 0.1 * rng.normal(size=100)
    for method in ("t", "percentile", "bca"):
        i = paired_difference(shared + 0.2 + noise, shared, method=method, seed=100)
        assert i.excludes(0)
        assert not i.excludes(0.2)
    peer = stats.ttest_rel(shared + noise, shared).confidence_interval()
    ours = paired_difference(shared + noise, shared)
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=1e-10)
    v = np.tile(shared, (3, 1))
    i = paired_difference(v + 0.2, v, method="percentile")
    assert (i.low, i.high) == pytest.approx((0.2, 0.2))


def test_paired_difference_is_antisymmetric():
    a, b = _x(10), _x(10, 101)
    i, j = paired_difference(a, b), paired_difference(b, a)
    assert (i.low, i.high) == pytest.approx((-j.high, -j.low))


def test_intervals_refuse_bad_input():
    with pytest.raises(ValueError, match="empty"):
        t_interval([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([0.0, np.nan], seed=0)
    with pytest.raises(ValueError, match="confidence"):
        t_interval([0.0, 1.0], 95)
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match="n_resamples"):
        bootstrap_mean([0.0, 1.0], seed=0, n_resamples=10)
    with pytest.raises(ValueError, match="one value per resample"):
        bootstrap_interval(lambda rows: rows.double(), 5, seed=0)
    with pytest.raises(ValueError, match="not finite on a resample"):
        bootstrap_interval(lambda rows: rows.double().mean(1) / 0, 5, seed=0)
    with pytest.raises(ValueError, match="must both be"):
        paired_difference([0.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="percentile"):
        paired_difference(np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="at least 2 seeds"):
        hierarchical_bootstrap([[1.0, 2.0]], seed=0)
