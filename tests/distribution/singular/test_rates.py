from __future__ import annotations

import itertools

import pytest

from holdfast.distribution.singular import (
    effective_smoothness,
    hellinger_rate,
    perturbation_level,
    perturbation_rate,
)


@pytest.mark.parametrize(("beta", "t"), [(2.0, 1.0), (0.7, 3.0), (5.0, 2.0)])
def test_the_rate_falls_with_n_and_is_square_root_of_n_for_smooth_generators(beta, t):
    rates = [perturbation_rate(n, beta, t) for n in (10, 100, 1000, 10**6)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert perturbation_rate(1000, 1e9, t) == pytest.approx(1000**-0.5, rel=1e-6)


@pytest.mark.parametrize(("beta", "t"), [(2.0, 1.0), (0.7, 3.0), (5.0, 2.0)])
@pytest.mark.parametrize("n", [50, 1000, 10**7])
def test_both_errors_balance_at_the_best_perturbation(n, beta, t):
    a = beta / (2 * (beta + t))
    assert hellinger_rate(n, beta, t, a) == pytest.approx(perturbation_rate(n, beta, t), abs=1e-12)
    assert n**-a == pytest.approx(perturbation_rate(n, beta, t), abs=1e-12)
    for other in (0.9 * a, 1.1 * a):
        assert max(hellinger_rate(n, beta, t, other), n**-other) > perturbation_rate(n, beta, t)


def test_the_hellinger_rate_is_useless_without_noise():
    assert hellinger_rate(1000, 2, 1, 2.0) == pytest.approx(1.0)


def test_one_layer_is_its_own_smoothness_and_rough_outer_layers_spoil_inner_ones():
    assert effective_smoothness([1.5], [2]) == (1.5, 2)
    assert effective_smoothness([2, 0.5], [1, 3]) == (0.5, 3)
    # b_0 = 2 * 0.5 = 1 in four variables is worse than 0.5 in one.
    assert effective_smoothness([2, 0.5], [4, 1]) == (1.0, 4)
    # Smooth outer layers (beta above 1) take nothing away.
    assert effective_smoothness([0.5, 3], [1, 1]) == (0.5, 1)


def test_the_level_is_in_the_units_of_the_data():
    assert perturbation_level(1000, 1, scale=3.0) == pytest.approx(3 * 1000 ** (-1 / 3))
    assert perturbation_level(1000, 2) == pytest.approx(1000**-0.25)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"beta must be in \(0, inf\)"):
        perturbation_rate(100, 0, 1)
    with pytest.raises(ValueError, match=r"n must be in \[1, inf\)"):
        perturbation_rate(0, 1, 1)
    with pytest.raises(ValueError, match="betas has 2, ts has 1"):
        effective_smoothness([1, 2], [1])
    with pytest.raises(ValueError, match="at least one part"):
        effective_smoothness([], [])
