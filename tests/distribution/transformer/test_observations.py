"""Samplers and densities of priors and observations are of one law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.distribution.transformer import (
    BearingObservation,
    BetaMetaPrior,
    InferenceProblem,
    InverseGammaMetaPrior,
    LinearObservation,
    MixtureMetaPrior,
    OutlierObservation,
    RangeObservation,
    TwoLevelObservation,
    VarianceObservation,
    WishartMixtureMetaPrior,
)


def rng(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("law", "x", "low", "high"),
    [
        (OutlierObservation(), [1.3], -10, 10),
        (VarianceObservation(), [0.7], -6, 6),
        (LinearObservation(torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5]])), [1.0, 0.5], -6, 8),
        (BearingObservation((0, 1), 0.4), [0.1, -2.0], -math.pi, math.pi),
        (RangeObservation((0, 1)), [3.0, 4.0], 0, 20),
        (RangeObservation((0, 1)), [0.2, 0.1], 0, 20),
        (RangeObservation((0, 1)), [14.0, 14.0], 0, 20),
    ],
)
def test_the_density_is_the_one_the_sampler_draws_from(law, x, low, high):
    state = torch.tensor(x, dtype=torch.float64)
    z = law.sample(state, 20_000, rng())[:, 0].numpy()
    edges = np.linspace(low, high, 41)
    mid = torch.linspace(low, high, 8001, dtype=torch.float64)[1:-1]
    density = law.log_prob(mid[:, None], state).exp().numpy()
    step = (high - low) / 8000
    mass = np.histogram(mid.numpy(), edges, weights=density * step)[0]
    inside = z[(z > low) & (z < high)]
    seen = np.histogram(inside, edges)[0]
    # Readings at the very ends of a clamped scale have mass of their own.
    ends = [law.log_prob(torch.tensor([[v]], dtype=torch.float64), state).exp().item() for v in (low, high)]
    atoms = isinstance(law, RangeObservation)
    expected = np.concatenate([mass, ends if atoms else [max(1e-9, 1 - mass.sum())]]) * len(z)
    counted = np.concatenate([seen, [(z == low).sum(), (z == high).sum()] if atoms else [len(z) - len(inside)]])
    assert expected.sum() == pytest.approx(len(z), rel=2e-3)
    few = expected < 5
    expected = np.append(expected[~few], expected[few].sum() + 1e-3)
    counted = np.append(counted[~few], counted[few].sum())
    assert stats.chisquare(counted, expected * counted.sum() / expected.sum()).pvalue > 1e-3


def test_an_outcome_of_the_two_level_system_is_what_the_matrix_exponential_says():
    law = TwoLevelObservation(time=1.3, spread=0.0)
    for delta in (0.05, 0.4, 0.9):
        sx, sz = torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([[1.0, 0], [0, -1]])
        H = (delta * sx + (1 - delta) * sz).to(torch.complex128)
        psi = torch.linalg.matrix_exp(-1.3j * H)[:, 0]
        found = law.probability(torch.tensor([[delta]], dtype=torch.float64))
        assert float(found) == pytest.approx(float(psi[0].abs() ** 2), abs=1e-7)


def test_an_uncertain_time_is_averaged_over():
    law, t = TwoLevelObservation(time=1.0, spread=0.3), 1.0 + 0.3 * torch.randn(200_000, generator=rng())
    x = torch.tensor([[0.6]])
    omega = math.hypot(0.6, 0.4)
    direct = 1 - (0.6 / omega) ** 2 * (omega * t).sin().square()
    assert float(law.probability(x)) == pytest.approx(float(direct.mean()), abs=5 * float(direct.std()) / 200_000**0.5)
    z = law.sample(x, 20_000, rng())
    assert float(z.mean()) == pytest.approx(float(law.probability(x)), abs=0.02)
    both = law.log_prob(torch.tensor([[[0.0], [1.0]]]), x).exp()
    assert float(both.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("meta", "law"),
    [
        (InverseGammaMetaPrior(), lambda a, b: stats.invgamma(a, scale=b)),
        (BetaMetaPrior(), lambda a, b: stats.beta(a, b)),
    ],
)
def test_states_are_drawn_from_the_prior_they_come_with(meta, law):
    a, b = 2.5, 1.5
    phi = torch.tensor([[a, b]]).expand(4000, 2)
    x = meta.draw(phi, rng())
    assert stats.kstest(x[:, 0].numpy(), law(a, b).cdf).pvalue > 1e-3
    torch.testing.assert_close(
        meta.prior(phi[:9]).log_prob(x[:9]), torch.tensor(law(a, b).logpdf(x[:9, 0].numpy())).float()
    )


def test_an_inverse_gamma_density_of_the_logarithm_integrates_to_one():
    u = torch.linspace(-8, 12, 4001, dtype=torch.float64)
    prior = InverseGammaMetaPrior().prior(torch.tensor([[1.5, 0.7]], dtype=torch.float64).expand(len(u), 2))
    log_density = prior.log_prob(u.exp()[:, None]) + u
    assert float(torch.trapezoid(log_density.exp(), u)) == pytest.approx(1, abs=1e-4)


def test_mixture_priors_have_the_scales_that_were_asked_for():
    phi = MixtureMetaPrior(3, 2, mean_scale=2.0, log_scale=(-0.5, 0.4)).sample(20_000, rng())
    assert float(phi.means.std()) == pytest.approx(2.0, rel=0.02)
    logdet = torch.linalg.slogdet(phi.covariances).logabsdet / 2
    assert float(logdet.mean()) == pytest.approx(-1.0, abs=0.02)
    assert float(logdet.std()) == pytest.approx(0.4 * math.sqrt(2), rel=0.03)
    assert float(phi.weights.var()) == pytest.approx(1 / 18, rel=0.05)  # Dirichlet(1, 1, 1)


def test_wishart_priors_have_the_mean_precision_of_the_wishart_law():
    phi = WishartMixtureMetaPrior(2, 2).sample(20_000, rng())
    precision = torch.linalg.inv(phi.covariances.double()).mean((0, 1))
    torch.testing.assert_close(precision, (4 * 3 + 1e-4) * torch.eye(2, dtype=torch.float64), rtol=0.03, atol=0.2)
    means = phi.means[:, 0]
    torch.testing.assert_close(means.T.cov(), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), rtol=0.05, atol=0.05)


def test_absent_observations_leave_the_likelihood_alone():
    problem = InferenceProblem(MixtureMetaPrior(2), {"z": OutlierObservation()}, {"z": 3}, keep=0.5)
    batch = problem.sample(2000, rng())
    assert float(batch.mask["z"].float().mean()) == pytest.approx(0.5, abs=0.03)
    seen = problem.log_likelihood(batch.x, batch.obs, batch.mask)
    wild = {"z": torch.where(batch.mask["z"][..., None], batch.obs["z"], 3.0)}
    torch.testing.assert_close(seen, problem.log_likelihood(batch.x, wild, batch.mask))
    torch.testing.assert_close(
        problem.log_joint(batch.phi, batch.x, batch.obs, batch.mask), batch.phi.log_prob(batch.x) + seen
    )


def _problem() -> InferenceProblem:
    return InferenceProblem(MixtureMetaPrior(2), {"z": RangeObservation((0, 1)), "coin": TwoLevelObservation()})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: InferenceProblem(MixtureMetaPrior(2), {}), "at least one type"),
        (lambda: InferenceProblem(MixtureMetaPrior(2), {"z": OutlierObservation()}, {"y": 2}), r"unknown .*'y'"),
        (lambda: InferenceProblem(MixtureMetaPrior(2), {"z": OutlierObservation()}, keep=0.0), "keep must be in"),
        (lambda: MixtureMetaPrior(0), "components must be in"),
        (lambda: InverseGammaMetaPrior((0.0, 1.0)), "concentration must be in"),
        (lambda: LinearObservation(torch.eye(2), torch.eye(1)), "H must be"),
        (lambda: OutlierObservation(correct=1.5), "correct must be in"),
        (lambda: _problem().check({"y": torch.zeros(1, 1, 1)}), "unknown observation type 'y'; known are"),
        (lambda: _problem().check({"z": torch.zeros(1, 1, 2)}), r"must be \(batch, m, 1\)"),
        (lambda: _problem().check({"z": torch.full((1, 1, 1), math.nan)}), "hold NaN; leave absent ones out by mask"),
        (lambda: _problem().check({"z": torch.full((1, 1, 1), -1.0)}), "RangeObservation cannot yield"),
        (lambda: _problem().check({"coin": torch.full((1, 1, 1), 0.5)}), "TwoLevelObservation cannot yield"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
