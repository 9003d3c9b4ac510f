from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.grassmann import random_frame
from holdfast.core.random import generator
from holdfast.diffusion import Denoiser, GaussianMixtureOracle, VEPath, VPPath, denoising_loss, edm_heun, prior
from holdfast.diffusion.jacobian import jacobian_spectrum, numerical_rank
from holdfast.distribution import GaussianMixture
from holdfast.distribution.subspaces import (
    LowRankMixtureDenoiser,
    MixtureOfLowRankGaussians,
    make_subspace_samples,
    random_subspaces,
)


def frame(n: int, d: int, seed: int):
    return random_frame(n, d, generator=generator(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 100):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def general():
    """Unequal dimensions, weights, eigenvalues and means."""
    return MixtureOfLowRankGaussians(
        [frame(6, 2, 100), frame(6, 3, 101)],
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        [torch.tensor([2.0, 0.5]).double(), torch.tensor([1.0, 0.2, 3.0]).double()],
        normal(2, 6, seed=102),
    )


def test_the_posterior_mean_is_the_ratio_of_integrals():
    p = MixtureOfLowRankGaussians([frame(3, 1, 100), frame(3, 2, 101)], torch.tensor([0.4, 0.6]).double())
    x0 = p.sample(1_000_000, generator(103))
    s, gamma = 0.8, 0.7
    for x in normal(3, 3, seed=104):
        w = torch.softmax(-(x - s * x0).square().sum(1) / (2 * gamma**2), 0)
        torch.testing.assert_close(p.posterior_mean(x[None], s, gamma)[0], w @ x0, atol=1e-2, rtol=0)


def test_posterior_mean_score_and_density_obey_tweedie(general):
    x, s, gamma = normal(50, 6), 0.9, 0.4
    D = (x + gamma**2 * general.score(x, s, gamma)) / s
    torch.testing.assert_close(general.posterior_mean(x, s, gamma), D, atol=1e-6, rtol=1e-6)


def test_the_noised_law_is_the_mixture_with_full_covariances(general):
    s, gamma, x = 0.9, 0.4, normal(20, 6)
    cov = torch.stack([U @ torch.diag(v[: U.shape[1]]) @ U.mT for U, v in zip(general.bases, general.law.eigenvalues)])
    full = GaussianMixture.from_covariance(general.weights, s * general.law.means, s**2 * cov + gamma**2 * torch.eye(6))
    torch.testing.assert_close(general.log_prob_noisy(x, s, gamma), full.log_prob(x))
    torch.testing.assert_close(general.responsibilities(x, s, gamma), full.responsibilities(x))
    oracle = GaussianMixtureOracle(general.law.means, cov, VPPath(), general.weights)
    c = VPPath().coefficients(torch.tensor([0.3], dtype=torch.float64))
    torch.testing.assert_close(
        general.posterior_mean(x, float(c.alpha), float(c.sigma)), oracle.predict(x, 0.3, target="data")
    )
    torch.testing.assert_close(s**2 * general.cov + gamma**2 * torch.eye(6), full.cov)


def test_noise_levels_per_sample_are_those_samples_alone(general):
    x, gamma = normal(4, 6), torch.tensor([0.1, 0.5, 1.0, 5.0], dtype=torch.float64)
    each = torch.cat([general.posterior_mean(row[None], 1.0, float(g)) for row, g in zip(x, gamma)])
    torch.testing.assert_close(general.posterior_mean(x, 1.0, gamma), each)
    each = torch.cat([general.log_prob_noisy(row[None], 1.0, float(g)) for row, g in zip(x, gamma)])
    torch.testing.assert_close(general.log_prob_noisy(x, 1.0, gamma), each)


def test_without_noise_it_projects_on_the_nearest_subspace_and_in_noise_it_gives_up():
    p = MixtureOfLowRankGaussians([frame(8, 3, 100), frame(8, 3, 101)])
    x, s = normal(30, 8), 0.5
    near = torch.stack([x @ U @ U.mT for U in p.bases])
    best = near.norm(dim=-1).argmax(0)
    torch.testing.assert_close(p.posterior_mean(s * x, s, 1e-6), near[best, torch.arange(30)], atol=1e-9, rtol=1e-9)
    assert float(p.posterior_mean(x, 1.0, 1e6).abs().max()) < 1e-9


def test_one_component_is_the_wiener_filter():
    U, lam, mu = frame(8, 3, 100), torch.tensor([3.0, 1.0, 0.1]).double(), normal(8)
    p = MixtureOfLowRankGaussians([U], eigenvalues=[lam], means=[mu])
    S, x, s, gamma = U @ torch.diag(lam) @ U.mT, normal(20, 8, seed=105), 0.7, 0.3
    gain = s * S @ torch.linalg.inv(s**2 * S + gamma**2 * torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(p.posterior_mean(x, s, gamma), mu + (x - s * mu) @ gain.mT, atol=1e-12, rtol=1e-12)


def test_the_jacobian_of_one_component_has_rank_d_and_equal_singular_values():
    p = MixtureOfLowRankGaussians([frame(10, 4, 100)])
    for s, gamma in ((1.0, 0.5), (0.6, 0.8)):
        values = jacobian_spectrum(lambda x, s=s, g=gamma: p.posterior_mean(x, s, g), normal(3, 10))
        expected = torch.zeros(3, 10, dtype=torch.float64)
        expected[:, :4] = s / (s**2 + gamma**2)
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
        assert numerical_rank(values, 1 - 1e-9).tolist() == [4, 4, 4]


def test_generated_samples_have_the_covariance_of_the_mixture():
    p = MixtureOfLowRankGaussians(random_subspaces(6, (2, 2), generator=generator(100)), eigenvalues=[
        torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.5])
    ])  # fmt: skip
    model = Denoiser(LowRankMixtureDenoiser.from_mixture(p), VEPath(), "data")
    x = edm_heun(model, prior(model.path, (20_000, 6), generator(101)), steps=60).x
    assert float(torch.linalg.matrix_norm(x.T.cov() - p.cov) / torch.linalg.matrix_norm(p.cov)) < 0.03


def test_samples_lie_in_their_subspaces_with_their_variances(general):
    x, y = general.sample_labelled(40_000, generator(100))
    for k, U in enumerate(general.bases):
        away = x[y == k] - general.law.means[k]
        torch.testing.assert_close(away @ U @ U.mT, away)
        seen = (away @ U).var(0) / general.law.eigenvalues[k, : U.shape[1]]
        assert float((seen - 1).abs().max()) < 5 * math.sqrt(2 / len(away))
    assert float((y == 0).double().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 40_000))


def test_the_denoiser_is_the_posterior_mean_of_its_mixture(general):
    model = LowRankMixtureDenoiser.from_mixture(general).double()
    x = normal(20, 6)
    torch.testing.assert_close(model(x, 0.3), general.posterior_mean(x, 1.0, 0.3))
    torch.testing.assert_close(model.mixture().posterior_mean(x, 1.0, 0.3), general.posterior_mean(x, 1.0, 0.3))


def test_the_loss_does_not_see_rotations_of_bases_or_the_order_of_components():
    model = LowRankMixtureDenoiser(8, (3, 3, 2), generator=generator(100)).double()
    x, t = normal(40, 8), torch.full((40,), 0.3, dtype=torch.float64)
    loss = denoising_loss(model, x, t, generator=generator(1))
    turned = LowRankMixtureDenoiser(8, (2, 3, 3)).double()
    with torch.no_grad():
        for U, k in zip(turned.frames, (2, 0, 1)):
            d = U.shape[1]
            U.copy_(model.frames[k] @ frame(d, d, 200 + k))
    torch.testing.assert_close(denoising_loss(turned, x, t, generator=generator(1)), loss, atol=1e-6, rtol=1e-6)


def test_the_loss_of_one_subspace_is_its_closed_form():
    U, x = frame(6, 2, 100), normal(1, 6)
    p = MixtureOfLowRankGaussians([U])
    for s, gamma in ((1.0, 0.3), (0.7, 0.9)):
        m = 200_000
        x_t = s * x + gamma * torch.randn(m, 6, generator=generator(101), dtype=torch.float64)
        loss = (p.posterior_mean(x_t, s, gamma) - x).square().sum(1)
        total = s**2 + gamma**2
        c, rest = 2 * s**2 / total - s**4 / total**2, s**2 * gamma**2 / total**2
        exact = float(x.square().sum() - c * (x @ U).square().sum()) + rest * 2
        assert abs(float(loss.mean()) - exact) < 4 * float(loss.std()) / math.sqrt(m)


def test_hard_weights_are_the_limit_of_the_soft_ones_and_both_sum_to_one(general):
    for mixture in (general, MixtureOfLowRankGaussians([frame(6, 2, 100), frame(6, 3, 101)])):
        soft = LowRankMixtureDenoiser.from_mixture(mixture).double()
        hard = LowRankMixtureDenoiser.from_mixture(mixture, hard=True).double()
        x = mixture.sample(200, generator(105)) + 0.01 * normal(200, 6)
        torch.testing.assert_close(soft.weights(x, 1e-5), hard.weights(x, 1e-5))
        for model in (soft, hard):
            torch.testing.assert_close(model.weights(x, 0.5).sum(-1), torch.ones(200, dtype=torch.float64))


def test_hard_weights_are_those_of_the_clean_sample():
    p = MixtureOfLowRankGaussians([torch.eye(4)[:, :2], torch.eye(4)[:, 2:]])
    model = LowRankMixtureDenoiser.from_mixture(p, hard=True)
    x, x0 = torch.tensor([[1.0, 0.0, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    torch.testing.assert_close(model(x, 1.0, x0=x0), torch.tensor([[0.0, 0.0, 0.25, 0.0]]))
    torch.testing.assert_close(model(x, 1.0), torch.tensor([[0.5, 0.0, 0.0, 0.0]]))


def test_nothing_overflows_at_the_least_noise_in_single_precision():
    data = make_subspace_samples(24, (4, 3), 50, seed=100)
    model = LowRankMixtureDenoiser.from_mixture(data.mixture)
    for sigma in (1e-4, 0.0, 1e4):
        assert bool(torch.isfinite(model(data.x, sigma)).all())
        assert bool(torch.isfinite(model.weights(data.x, sigma)).all())
    assert bool(torch.isfinite(data.mixture.log_prob_noisy(data.x, 1.0, 1e-4)).all())


def test_copies_are_separate_denoisers():
    many = LowRankMixtureDenoiser(6, (2, 1), copies=3, generator=generator(100))
    x = torch.randn(5, 6, generator=generator(101))
    out = many(x, 0.3)
    for r in range(3):
        one = LowRankMixtureDenoiser(6, (2, 1))
        with torch.no_grad():
            for U, V in zip(one.frames, many.frames):
                U.copy_(V[r])
        torch.testing.assert_close(out[r], one(x, 0.3))


def test_bad_mixtures_are_refused():
    U = torch.eye(4)[:, :2]
    with pytest.raises(ValueError, match=r"bases\[1\] must have orthonormal columns within 0\.001"):
        MixtureOfLowRankGaussians([U, 2 * U])
    assert MixtureOfLowRankGaussians([U, 2 * U], orthonormalise=True).dims == (2, 2)
    with pytest.raises(ValueError, match="linearly dependent"):
        MixtureOfLowRankGaussians([torch.ones(4, 2)], orthonormalise=True)
    with pytest.raises(ValueError, match="a subspace of 4 dimensions has 1 to 3, but dims\\[0\\] is 4"):
        MixtureOfLowRankGaussians([torch.eye(4)])
    with pytest.raises(ValueError, match="weights must be 2 non-negative numbers that add up to 1"):
        MixtureOfLowRankGaussians([U, U], [0.5, 0.6])
    with pytest.raises(ValueError, match="eigenvalues must have the lengths \\(2,\\)"):
        MixtureOfLowRankGaussians([U], eigenvalues=[torch.ones(3)])
    with pytest.raises(ValueError, match="eigenvalues must be positive, but the least of component 0 is 0"):
        MixtureOfLowRankGaussians([U], eigenvalues=[torch.tensor([1.0, 0.0])])
    with pytest.raises(ValueError, match="means must have shape \\(1, 4\\), got \\(1, 3\\)"):
        MixtureOfLowRankGaussians([U], means=[torch.zeros(3)])
    with pytest.raises(ValueError, match="bases\\[0\\] must be finite"):
        MixtureOfLowRankGaussians([U * math.nan])
    p = MixtureOfLowRankGaussians([U])
    with pytest.raises(ValueError, match="gamma must be in \\(0, inf\\), got 0"):
        p.posterior_mean(torch.zeros(1, 4), 1.0, 0.0)
    with pytest.raises(ValueError, match="x_t must have shape \\(batch, 4\\)"):
        p.posterior_mean(torch.zeros(1, 3), 1.0, 1.0)
    with pytest.raises(ValueError, match="x_t must be finite"):
        p.log_prob_noisy(torch.full((1, 4), math.nan), 1.0, 1.0)
    with pytest.raises(ValueError, match="one number or one per sample"):
        p.posterior_mean(torch.zeros(3, 4), 1.0, torch.ones(2))
    with pytest.raises(ValueError, match="do not fit into 6"):
        random_subspaces(6, (4, 3))
    with pytest.raises(ValueError, match="dims\\[1\\] is 0"):
        LowRankMixtureDenoiser(6, (2, 0))
    with pytest.raises(ValueError, match="takes no labels"):
        LowRankMixtureDenoiser(6, (2,))(torch.zeros(1, 6), 1.0, torch.zeros(1, dtype=torch.long))
