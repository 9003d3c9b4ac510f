from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from holdfast.causal import LinearInvariancePenalty, mmr_test
from holdfast.causal.interventions.linear_invariance import linear_residual, standardised
from holdfast.core.random import generator


def randn(*shape, seed=100):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def uniform(*shape, seed=101):
    return 2 * torch.rand(*shape, generator=generator(seed), dtype=torch.float64) - 1


def test_zero_where_the_code_is_affine_in_the_action():
    a = uniform(300, 2)
    for standardise in ("scale", "whiten", "none"):
        penalty = LinearInvariancePenalty(estimator="v", standardise=standardise)
        assert abs(float(penalty(a @ randn(2, 2) + 3, a))) <= 1e-10


def test_grows_with_the_square_of_what_is_not_linear():
    a = uniform(400, 1)
    penalty = LinearInvariancePenalty(estimator="v", standardise="none")
    values = [float(penalty(a + c * a**2, a)) for c in (0.1, 0.2, 0.4)]
    assert values[0] > 1e-6
    assert values[1] / values[0] == pytest.approx(4, rel=1e-6)
    assert values[2] / values[1] == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("estimator", ["features", "u", "v"])
def test_an_affine_function_of_the_action_is_projected_away(estimator):
    a, code = uniform(300, 2), randn(300, 3)
    penalty = LinearInvariancePenalty(estimator=estimator, standardise="none")
    torch.testing.assert_close(penalty(code + a @ randn(2, 3) * 5 - 7, a), penalty(code, a), rtol=0, atol=1e-10)


@pytest.mark.parametrize("estimator", ["features", "u", "v"])
def test_what_a_standardised_penalty_does_not_see(estimator):
    a = uniform(300, 2)
    code = randn(300, 3) + torch.stack([a[:, 0] ** 2, a[:, 1], a[:, 0] * a[:, 1]], 1)

    def q(code, how):
        return float(LinearInvariancePenalty(estimator=estimator, standardise=how)(code, a))

    rotation = torch.linalg.qr(randn(3, 3, seed=7)).Q
    assert q(code @ rotation, "none") == pytest.approx(q(code, "none"), abs=1e-10)
    assert q(code * torch.tensor([3.0, 0.01, -5.0]), "scale") == pytest.approx(q(code, "scale"), abs=1e-10)
    assert q(code @ randn(3, 3, seed=8), "whiten") == pytest.approx(q(code, "whiten"), abs=1e-8)
    assert q(2 * code, "none") == pytest.approx(4 * q(code, "none"), rel=1e-9)
    order = torch.randperm(300, generator=generator(9))
    for how in ("none", "scale", "whiten"):
        penalty = LinearInvariancePenalty(1.0, estimator=estimator, standardise=how)
        torch.testing.assert_close(penalty(code[order], a[order]), penalty(code, a), rtol=0, atol=1e-10)


def test_without_diagonal_unbiased_with_a_line_from_other_rows():
    penalty = LinearInvariancePenalty(1.0, estimator="u")
    values = torch.stack([penalty.moment(randn(64, 1, seed=s), uniform(64, 1, seed=5000 + s)) for s in range(2000)])
    error = float(values.std()) / 2000**0.5
    assert abs(float(values.mean())) < 4 * error


def test_a_line_from_the_same_rows_makes_it_slightly_negative():
    means = {}
    for n in (64, 256):
        penalty = LinearInvariancePenalty(1.0, estimator="u", standardise="none")
        values = [float(penalty(randn(n, 1, seed=s), uniform(n, 1, seed=5000 + s))) for s in range(400)]
        means[n] = sum(values) / len(values)
        assert -2 * 2 / n < means[n] < 0  # of order -(k + 1) / B
    assert abs(means[64]) > 2 * abs(means[256])


def test_random_features_agree_with_the_kernel_and_leave_the_diagonal_out_exactly():
    a = uniform(400, 1)
    code = a**2 + 0.1 * randn(400, 1)
    exact = float(LinearInvariancePenalty(0.5, "u")(code, a))
    approximate = LinearInvariancePenalty(0.5, "features", features=2000)
    assert float(approximate(code, a)) == pytest.approx(exact, rel=0.03)
    r, psi = linear_residual(standardised(code, "scale"), a), approximate.feature_map(a)
    gram = (r @ r.T) * (psi @ psi.T)
    direct = (gram.sum() - gram.diagonal().sum()) / (400 * 399)
    assert float(approximate(code, a)) == pytest.approx(float(direct), abs=1e-12)
    torch.testing.assert_close(psi.square().sum(1), torch.ones(400, dtype=psi.dtype))


def test_several_bandwidths_are_the_mean_kernel():
    a, code = uniform(200, 2), randn(200, 2)
    one = [LinearInvariancePenalty(0.5 * s, "v")(code, a) for s in (0.5, 1.0, 2.0)]
    many = LinearInvariancePenalty(0.5, "v", scales=(0.5, 1.0, 2.0))(code, a)
    torch.testing.assert_close(many, torch.stack(one).mean())


def test_the_fitted_median_is_used_for_every_batch():
    a, code = uniform(200, 1), randn(200, 1)
    fitted = LinearInvariancePenalty(estimator="v").fit(a)
    torch.testing.assert_close(
        fitted(code[:50], a[:50]), LinearInvariancePenalty(float(fitted.scale), "v")(code[:50], a[:50])
    )


def test_a_step_against_the_gradient_lowers_the_penalty():
    a = uniform(300, 1).float()
    code = (a**2 + a).requires_grad_()
    penalty = LinearInvariancePenalty()
    value = penalty(code, a)
    (gradient,) = torch.autograd.grad(value, code)
    assert float((penalty(code - 1e-2 * gradient / gradient.norm(), a) - value).detach()) < 0


def test_p_values_are_uniform_where_the_effect_is_linear():
    p = []
    for s in range(200):
        a = uniform(200, 1, seed=s)
        p.append(mmr_test(a + randn(200, 1, seed=900 + s), a, 100, seed=s).p_value)
    assert kstest(p, "uniform").pvalue > 0.01


def test_a_bent_effect_is_found_and_any_invertible_map_of_the_code_changes_nothing():
    found = []
    for s in range(10):
        a = 1.5 * uniform(3000, 1, seed=s)
        z = a + 0.2 * a**2 + randn(3000, 1, seed=300 + s)
        found.append(mmr_test(z, a, 200, seed=s).p_value <= 0.05)
    assert sum(found) >= 9
    a, z = uniform(300, 2), randn(300, 2)
    assert mmr_test(z @ randn(2, 2, seed=3) + 4, a).statistic == pytest.approx(mmr_test(z, a).statistic, abs=1e-10)
    assert mmr_test(z, a) == mmr_test(z, a)


def test_bad_input_is_refused_with_the_reason():
    a, z = uniform(40, 1), randn(40, 1)
    with pytest.raises(ValueError, match="estimator must be one of"):
        LinearInvariancePenalty(estimator="w")
    with pytest.raises(ValueError, match="bandwidth must be in"):
        LinearInvariancePenalty(0.0)
    with pytest.raises(ValueError, match="at least one multiple"):
        LinearInvariancePenalty(scales=())
    with pytest.raises(ValueError, match="too small for 1 actions"):
        LinearInvariancePenalty()(z[:3], a[:3])
    with pytest.raises(ValueError, match="lengths differ"):
        LinearInvariancePenalty()(z, a[:30])
    with pytest.raises(ValueError, match="cannot be whitened"):
        LinearInvariancePenalty(standardise="whiten")(torch.zeros(40, 1), a)
    with pytest.raises(ValueError, match="too few to test"):
        mmr_test(z[:15], a[:15])
    with pytest.raises(ValueError, match="n_resamples must be in"):
        mmr_test(z, a, 5)
