from __future__ import annotations

import math

import pytest
import torch

from holdfast.distribution import GaussianMixture
from holdfast.distribution.transformer import OutlierObservation
from holdfast.papers.p11_distribution_transformer import PAPER, _chain, _grid_kl, _kalman_chain

ONE = torch.eye(1)


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("dt", "blind", "kalman", "gaussian", "prior", "svi"):
        assert values[f"{row}/kl"] > 0
    for row in ("dt", "kalman-matched", "kalman-nominal", "particles"):
        assert math.isfinite(values[f"{row}/filter_nll"])
    assert 0 <= values["dt/sbc_p"] <= 1


def test_controls_that_need_no_training_are_in_the_order_of_what_they_know(values):
    # The best Gaussian is nearer than the Kalman update of the prior's moments.
    assert values["gaussian/kl"] < values["kalman/kl"]
    assert values["particles/filter_nll"] < values["kalman-matched/filter_nll"] < values["kalman-nominal/filter_nll"]


def test_divergence_on_the_grid_is_the_closed_form_of_gaussians():
    p = GaussianMixture.gaussian(torch.tensor([[1.0], [0.0]]), 0.49 * ONE)
    q = GaussianMixture.gaussian(torch.tensor([[0.0], [0.0]]), 2 * ONE)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(p.means[:, 0, 0], 0.7), torch.distributions.Normal(0.0, math.sqrt(2))
    )
    torch.testing.assert_close(_grid_kl(p, q).float(), exact, rtol=1e-5, atol=1e-6)


def test_states_of_the_chain_have_the_variance_of_the_recursion():
    x, z = _chain(20_000, 6, OutlierObservation(), 100)
    variance = 1.0
    for t in range(6):
        variance = 0.95**2 * variance + 0.25
        assert float(x[:, t].var()) == pytest.approx(variance, rel=0.05)
    good = ((z[..., 0, 0] - x[..., 0]).abs() < 1.2).float().mean()
    assert float(good) == pytest.approx(0.8 + 0.2 * 0.12, abs=0.01)


def test_the_kalman_control_shrinks_to_the_fixed_point_of_riccati():
    x0 = GaussianMixture.gaussian(torch.zeros(1, 1), ONE)
    laws = _kalman_chain(torch.zeros(1, 60, 1, 1), x0, 0.95 * ONE, 0.25 * ONE, 6.74)
    v = float(laws[-1].covariances)
    predicted = 0.95**2 * v + 0.25
    assert v == pytest.approx(predicted * 6.74 / (predicted + 6.74), rel=1e-4)
