"""Laws of mixtures of Gaussians: against quadrature, torch.distributions and the Kalman filter's own formulas."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate
from torch import distributions as td

from holdfast.distribution import GaussianMixture, LowRankGaussianMixture


def rng(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(K: int, D: int, batch: tuple[int, ...] = (), seed: int = 100) -> GaussianMixture:
    g = rng(seed)
    w = torch.rand(*batch, K, generator=g, dtype=torch.float64) + 0.1
    m = 2 * torch.randn(*batch, K, D, generator=g, dtype=torch.float64)
    a = torch.randn(*batch, K, D, D, generator=g, dtype=torch.float64)
    return GaussianMixture.from_covariance(w / w.sum(-1, keepdim=True), m, a @ a.mT + 0.3 * torch.eye(D))


def low_rank(K: int, D: int, R: int, batch: tuple[int, ...] = (), seed: int = 100) -> LowRankGaussianMixture:
    g = rng(seed)
    w = torch.rand(*batch, K, generator=g, dtype=torch.float64) + 0.1
    parts = [torch.randn(*batch, K, D, *r, generator=g, dtype=torch.float64) for r in ((), (R,), ())]
    return LowRankGaussianMixture(w / w.sum(-1, keepdim=True), parts[0], parts[1], parts[2].exp())


def reference(p: GaussianMixture | LowRankGaussianMixture) -> td.MixtureSameFamily:
    return td.MixtureSameFamily(td.Categorical(p.weights), td.MultivariateNormal(p.means, p.covariances))


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("shape", [(), (7,), (2, 7)])
def test_log_density_is_that_of_torch_at_any_number_of_sample_dimensions(dim, shape):
    for p in (draw(4, dim, (5,)), low_rank(4, dim, 2, (5,))):
        x = 3 * torch.randn(*shape, 5, dim, generator=rng(), dtype=torch.float64)
        torch.testing.assert_close(p.log_prob(x), reference(p).log_prob(x), rtol=1e-10, atol=1e-10)
        assert p.log_prob(x).shape == (*shape, 5)


def test_moments_are_those_of_torch_and_of_many_draws():
    for p in (draw(3, 2, (4,)), low_rank(3, 2, 1, (4,))):
        torch.testing.assert_close(p.mean, reference(p).mean)
        torch.testing.assert_close(p.cov.diagonal(dim1=-2, dim2=-1), reference(p).variance)
        x = p.sample(40_000, rng())
        error = (x.mean(0) - p.mean).abs() / (p.cov.diagonal(dim1=-2, dim2=-1) / 40_000).sqrt()
        assert float(error.max()) < 4.5
        centred = x - p.mean
        each = centred[..., :, None] * centred[..., None, :]
        assert float(((each.mean(0) - p.cov).abs() / (each.std(0) / 200)).max()) < 4.5


def test_draws_come_with_the_generator():
    p = draw(3, 2, (4,))
    assert torch.equal(p.sample(5, rng(1)), p.sample(5, rng(1)))
    assert not torch.equal(p.sample(5, rng(1)), p.sample(5, rng(2)))


@pytest.mark.parametrize("z", [0.3, -4.0])
def test_linear_gaussian_update_is_bayes_rule_by_quadrature(z):
    prior = draw(3, 1)
    H, R = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[0.4]], dtype=torch.float64)
    posterior = prior.linear_gaussian_update(H, R, torch.tensor([z], dtype=torch.float64))
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    joint = (prior.log_prob(x) + td.Normal(0.7 * x[:, 0], math.sqrt(0.4)).log_prob(torch.tensor(z))).exp()
    evidence = integrate.simpson(joint, x=x[:, 0])
    assert float((posterior.log_prob(x).exp() - joint / evidence).abs().max()) < 1e-8
    assert float(prior.log_evidence(H, R, torch.tensor([z], dtype=torch.float64)).exp() - evidence) < 1e-8


def test_one_component_is_the_kalman_update():
    p = draw(1, 3, (5,))
    H, noise = torch.randn(2, 3, generator=rng(), dtype=torch.float64), torch.diag(torch.tensor([0.5, 2.0]).double())
    z = torch.randn(5, 2, generator=rng(), dtype=torch.float64)
    m, P = p.mean, p.cov
    S = H @ P @ H.mT + noise
    gain = P @ H.mT @ torch.linalg.inv(S)
    q = p.linear_gaussian_update(H, noise, z)
    torch.testing.assert_close(q.mean, m + (gain @ (z - m @ H.mT)[..., None])[..., 0])
    torch.testing.assert_close(q.cov, P - gain @ S @ gain.mT)
    evidence = td.MultivariateNormal(m @ H.mT, S).log_prob(z)
    torch.testing.assert_close(p.log_evidence(H, noise, z), evidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evidence_does_not_underflow_far_from_the_prior(dtype):
    prior = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=dtype), torch.tensor([[-1.0], [1.0]], dtype=dtype), 0.1 * torch.ones(2, 1, 1)
    ).to(dtype)
    R = torch.tensor([[0.01]], dtype=dtype)
    for z in (100.0, -100.0):
        q = prior.linear_gaussian_update(torch.eye(1, dtype=dtype), R, torch.tensor([z], dtype=dtype))
        assert torch.isfinite(q.log_weights).all()
        # The evidence ratio of the two components is exp(2 z / (0.01 + 0.01)).
        assert float(q.log_weights[1] - q.log_weights[0]) == pytest.approx(2 * z / 0.02, rel=1e-3)
        nearer = 1.0 if z > 0 else -1.0
        assert float(q.mean) == pytest.approx((nearer + z) / 2, rel=1e-4)


def test_an_unbatched_prior_meets_a_batch_of_observations():
    prior, z = draw(3, 2), torch.randn(6, 1, generator=rng(), dtype=torch.float64)
    H, R = torch.tensor([[1.0, 0.5]]).double(), torch.eye(1).double()
    together = prior.linear_gaussian_update(H, R, z)
    alone = prior.linear_gaussian_update(H, R, z[4])
    for a, b in zip(together[4]._parts(), alone._parts()):
        torch.testing.assert_close(a, b)


def test_affine_maps_move_the_moments_exactly():
    p = draw(4, 3, (5,))
    A = torch.randn(2, 3, generator=rng(), dtype=torch.float64)
    b, Q = torch.tensor([1.0, -2.0]).double(), torch.tensor([[0.3, 0.1], [0.1, 0.2]]).double()
    q = p.affine(A, b, Q)
    torch.testing.assert_close(q.mean, p.mean @ A.mT + b, rtol=0, atol=1e-6)
    torch.testing.assert_close(q.cov, A @ p.cov @ A.mT + Q, rtol=0, atol=1e-6)
    torch.testing.assert_close(q.weights, p.weights)


def test_a_joint_density_is_marginal_times_conditional():
    for p in (draw(3, 4, (5,)), low_rank(3, 4, 2, (5,))):
        x = torch.randn(5, 4, generator=rng(), dtype=torch.float64)
        seen, rest = [2, 0], [1, 3]
        parts = p.marginal(seen).log_prob(x[:, seen]) + p.condition(seen, x[:, seen]).log_prob(x[:, rest])
        torch.testing.assert_close(parts, p.log_prob(x))


def test_conditioning_is_an_observation_without_noise():
    p, value = draw(3, 2), torch.tensor([0.7]).double()
    exact = p.condition([0], value)
    H = torch.tensor([[1.0, 0.0]]).double()
    near = p.linear_gaussian_update(H, 1e-10 * torch.eye(1).double(), value).marginal([1])
    torch.testing.assert_close(exact.mean, near.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exact.weights, near.weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_product_is_the_product_of_the_densities(dim):
    p, q = draw(3, dim, (4,)), draw(2, dim, (4,), seed=101)
    x = torch.randn(6, 4, dim, generator=rng(), dtype=torch.float64)
    r = p.product(q)
    assert r.n_components == 6
    torch.testing.assert_close(r.log_prob(x) + p.log_overlap(q), p.log_prob(x) + q.log_prob(x))
    torch.testing.assert_close(p.log_overlap(q), q.log_overlap(p))


def test_monte_carlo_divergence_agrees_with_the_closed_form_of_gaussians():
    p, q = draw(1, 2), draw(1, 2, seed=101)
    exact = td.kl_divergence(*(td.MultivariateNormal(m.means[0], scale_tril=m.scale_tril[0]) for m in (p, q)))
    x = p.sample(20_000, rng())
    error = (p.log_prob(x) - q.log_prob(x)).std() / math.sqrt(20_000)
    assert abs(float(p.kl_mc(q, 20_000, rng()) - exact)) < 4 * float(error)
    assert float(p.kl_mc(p, 10, rng())) == 0.0


def test_moment_matching_keeps_the_moments():
    p = draw(4, 3, (5,))
    q = p.moment_match()
    assert q.n_components == 1
    torch.testing.assert_close(q.mean, p.mean)
    torch.testing.assert_close(q.cov, p.cov)


@pytest.mark.parametrize("K", [5, 6, 12, 13])
def test_padding_leaves_the_density_alone_and_no_two_components_equal(K):
    p = draw(5, 2, (4,))
    q = p.pad_components(K)
    assert q.n_components == K
    x = torch.randn(6, 4, 2, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x))
    tokens = torch.cat([q.weights[..., None], q.means], -1)
    gaps = torch.cdist(tokens, tokens) + torch.eye(K).double()
    assert float(gaps.min()) > 1e-6


@pytest.mark.parametrize("K", [1, 2, 4, 5])
def test_reduction_keeps_the_moments_of_the_mixture(K):
    p = draw(5, 2, (4,))
    q = p.reduce_components(K)
    assert q.n_components == K
    torch.testing.assert_close(q.mean, p.mean)
    torch.testing.assert_close(q.cov, p.cov)


def test_reduction_undoes_padding():
    p = draw(3, 2, (4,))
    x = torch.randn(6, 4, 2, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(p.pad_components(7).reduce_components(3).log_prob(x), p.log_prob(x))


def test_low_rank_and_full_are_the_same_law():
    p = low_rank(3, 4, 2, (5,))
    x = torch.randn(6, 5, 4, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), p.full().log_prob(x))
    torch.testing.assert_close(p.condition([1], x[0, :, 1:2]).cov, p.full().condition([1], x[0, :, 1:2]).cov)


def test_gradients_are_finite_for_vanishing_weights():
    for tiny in (1e-12, 0.0):
        w = torch.tensor([1 - tiny, tiny], requires_grad=True)
        m = torch.zeros(2, 1, requires_grad=True)
        p = GaussianMixture(w, m, torch.ones(2, 1, 1))
        p.log_prob(torch.tensor([[0.5], [30.0]])).sum().backward()
        assert torch.isfinite(w.grad).all()
        assert torch.isfinite(m.grad).all()


def test_batches_are_cut_joined_and_repeated():
    p = draw(3, 2, (5,))
    x = torch.randn(5, 2, generator=rng(), dtype=torch.float64)
    torch.testing.assert_close(GaussianMixture.cat([p[:2], p[2:]]).log_prob(x), p.log_prob(x))
    torch.testing.assert_close(draw(3, 2).expand(5).log_prob(x), draw(3, 2).log_prob(x))


def make(weights, means=((0.0,), (1.0,)), scale=((1.0,), (1.0,))):
    return GaussianMixture(torch.tensor(weights), torch.tensor(means), torch.tensor(scale)[..., None])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make([0.5, 0.4]), "add up to 1 within 0.0001"),
        (lambda: make([1.5, -0.5]), "non-negative and add up to 1"),
        (lambda: make([float("nan"), 1.0]), "weights must be finite"),
        (lambda: make([1.0]), r"weights must be \(\*B, K\)"),
        (lambda: make([0.5, 0.5], scale=((1.0,), (-1.0,))), "positive diagonal"),
        (lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2, 2)), "lower triangular"),
        (lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2)), "scale_tril must have shape"),
        (
            lambda: GaussianMixture.from_covariance(
                torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.1, 1.0]]])
            ),
            "covariances must be symmetric",
        ),
        (
            lambda: GaussianMixture.from_covariance(
                torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
            ),
            r"covariances must be positive definite.*\[0\]",
        ),
        (lambda: draw(2, 2).log_prob(torch.zeros(3)), "must end in the dimension 2"),
        (lambda: draw(2, 2, (5,)).log_prob(torch.zeros(3, 2)), "broadcast|does not go with"),
        (lambda: draw(2, 2).marginal([0, 2]), "different dimensions of 0..1"),
        (lambda: draw(2, 2).condition([0, 1], torch.zeros(2)), "leaves nothing"),
        (lambda: draw(2, 1).affine(torch.ones(2, 1).double()), "A Sigma A.T . Q must be positive definite"),
        (lambda: draw(2, 1).affine(torch.ones(1, 2).double()), "A must have 1 columns"),
        (
            lambda: draw(2, 1).linear_gaussian_update(torch.ones(1, 2), torch.eye(1), torch.zeros(1)),
            r"H must be \(p, 1\)",
        ),
        (
            lambda: draw(2, 1).linear_gaussian_update(
                torch.ones(1, 1).double(), torch.eye(1).double(), torch.tensor([float("nan")])
            ),
            "z must be finite",
        ),
        (lambda: draw(3, 1).pad_components(2), r"use reduce_components\(2\)"),
        (lambda: draw(3, 1).reduce_components(4), "pad_components adds some"),
        (lambda: draw(3, 1).product(draw(3, 2)), "one batch and dimension"),
        (lambda: draw(3, 1).sample(0), "n must be in"),
        (
            lambda: LowRankGaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2, 1), -torch.ones(1, 2)),
            "diag must be positive",
        ),
        (
            lambda: LowRankGaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 3, 1), torch.ones(1, 2)),
            "factor must be",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        call()
