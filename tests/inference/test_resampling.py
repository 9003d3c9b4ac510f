"""Resamplers: every one gives each particle its expected number of offspring."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.inference import (
    RESAMPLERS,
    Population,
    ancestors,
    collapse,
    effective_sample_size,
    enumerate_measure,
    log_mean_exp,
    log_total,
    resample,
    resample_indices,
    run,
)

METHODS = sorted(RESAMPLERS)
LOGW = torch.tensor([0.1, 0.37, 0.0, 0.03, 0.5]).double().log()


WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1.0)), min_size=1, max_size=4).filter(any)


def expected(logw):
    return len(logw) * torch.softmax(logw, -1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1.0)), min_size=1, max_size=4).filter(any),
    st.sampled_from(METHODS),
)
def test_expected_offspring_are_exact_by_enumeration(w, method):
    n, total = len(w), sum(w)
    law = enumerate_measure(ancestors([math.log(x) if x else -math.inf for x in w], method), key=tuple)
    assert abs(sum(law.values()) - 1) < 1e-12
    for i in range(n):
        assert abs(sum(m * a.count(i) for a, m in law.items()) - n * w[i] / total) < 1e-12 * n + 1e-11
    shares = [n * x / total for x in w]
    if method == "systematic":
        low, high = [math.floor(x - 1e-9) for x in shares], [math.ceil(x + 1e-9) for x in shares]
        assert all(low[i] <= a.count(i) <= high[i] for a in law for i in range(n))
    if method == "residual":
        assert all(a.count(i) >= math.floor(x) for a in law for i, x in enumerate(shares))


@pytest.mark.parametrize("method", METHODS)
def test_offspring_of_tensors_have_the_expected_mean_and_law(method):
    rows = 100_000
    a = resample_indices(LOGW.expand(rows, -1), method, torch.Generator().manual_seed(100))
    counts = torch.nn.functional.one_hot(a, 5).sum(1).double()
    error = (counts.mean(0) - expected(LOGW)).abs()
    assert (error <= 4 * counts.std(0) / rows**0.5 + 1e-12).all()
    # The law of the counts is the one of the enumerable program.
    law = enumerate_measure(ancestors(LOGW.tolist(), method), key=lambda a: tuple(a.count(i) for i in range(5)))
    found: dict[tuple[int, ...], int] = {}
    unique, times = counts.long().unique(dim=0, return_counts=True)
    for row, k in zip(unique.tolist(), times.tolist()):
        found[tuple(row)] = k
    assert set(found) <= set(law)
    for key, p in law.items():
        assert abs(found.get(key, 0) / rows - p) <= 5 * math.sqrt(p * (1 - p) / rows) + 1e-9


def test_systematic_counts_are_the_floor_or_the_ceiling():
    logw = torch.randn(50, 200, generator=torch.Generator().manual_seed(100)).double()
    a = resample_indices(logw, "systematic", torch.Generator().manual_seed(101))
    counts = torch.stack([torch.bincount(row, minlength=200) for row in a])
    share = 200 * torch.softmax(logw, -1)
    assert (counts >= (share - 1e-9).floor()).all()
    assert (counts <= (share + 1e-9).ceil()).all()


def test_residual_keeps_the_whole_part():
    logw = torch.tensor([0.5, 0.3, 0.15, 0.05]).repeat_interleave(5).double().log()
    a = resample_indices(logw, "residual", torch.Generator().manual_seed(100))
    counts = torch.bincount(a, minlength=20)
    assert (counts >= (20 * torch.softmax(logw, 0) + 1e-9).floor()).all()
    whole = torch.tensor([0.5, 0.25, 0.25, 0.0]).double().log()
    assert resample_indices(whole, "residual", torch.Generator().manual_seed(0)).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_particle_of_weight_zero_has_no_offspring_and_a_dead_row_stays(method):
    logw = torch.full((1000, 6), -math.inf)
    logw[:-1, 2] = 0.0
    logw[:500, 4] = -1.0
    a = resample_indices(logw, method, torch.Generator().manual_seed(100))
    assert set(a[:500].unique().tolist()) <= {2, 4}
    assert (a[500:-1] == 2).all()
    assert a[-1].tolist() == list(range(6))


@pytest.mark.parametrize("method", METHODS)
def test_resampling_does_not_depend_on_the_scale_of_the_weights_and_is_reproducible(method):
    draws = [
        resample_indices(LOGW + shift, method, torch.Generator().manual_seed(7)) for shift in (0.0, -2000.0, 500.0)
    ]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("method", METHODS)
def test_resampling_a_population_keeps_its_measure_exactly(method):
    pop = Population(["a", "b", "c", "d"], [math.log(0.2), math.log(1.7), -math.inf, math.log(0.6)])
    exact = enumerate_measure(resample(pop, method))
    for x, w in zip(pop.values, pop.logw):
        assert abs(exact.get(x, 0.0) - math.exp(w)) < 1e-12
    survivors = enumerate_measure(collapse(pop))
    assert abs(survivors["b"] - 1.7) < 1e-12


def test_below_the_threshold_only_is_a_population_resampled():
    even, uneven = Population([0, 1], [0.0, -0.1]), Population([0, 1], [0.0, -20.0])
    assert run(resample(even, ess_threshold=0.5)).value is even
    assert run(resample(uneven, ess_threshold=0.6), rng=0).value.values == [0, 0]
    dead = Population([0, 1], [-math.inf, -math.inf])
    assert run(resample(dead)).value is dead


def test_weights_in_logs_do_not_overflow_and_zeros_give_no_nan():
    big = torch.tensor([1e4, 1e4 + 1.0])
    assert abs(float(log_mean_exp(big)) - (1e4 + math.log((1 + math.e) / 2))) < 1e-2
    assert abs(float(effective_sample_size(big)) - (1 + math.e) ** 2 / (1 + math.e**2)) < 1e-2
    zero = torch.full((2, 3), -math.inf)
    assert (log_mean_exp(zero) == -math.inf).all()
    assert (effective_sample_size(zero) == 0).all()
    assert log_total([-math.inf, -1e5]) == -1e5
    assert np.isclose(log_total([1000.0, 1000.0]), 1000 + math.log(2))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("at least one particle", lambda: resample_indices(torch.zeros(0))),
        ("at least one particle", lambda: resample_indices(torch.zeros(()))),
        ("not NaN", lambda: resample_indices(torch.tensor([0.0, math.nan]))),
        ("below \\+inf", lambda: resample_indices(torch.tensor([0.0, math.inf]))),
        ("method must be one of 'multinomial', 'residual'", lambda: resample_indices(torch.zeros(2), "best")),
        ("empty population", lambda: resample(Population([], []))),
        ("empty population", lambda: ancestors([])),
        ("method must be one of", lambda: ancestors([0.0], "best")),
        ("finite positive weight", lambda: ancestors([-math.inf])),
        ("ess_threshold must be in", lambda: resample(Population([1], [0.0]), ess_threshold=1.5)),
        ("one weight per value", lambda: Population([1, 2], [0.0])),
        ("not NaN", lambda: Population([1], [math.nan])),
        ("empty population", lambda: collapse(Population([], []))),
        ("no weights", lambda: log_mean_exp(torch.zeros(3, 0))),
    ],
)
def test_what_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()
