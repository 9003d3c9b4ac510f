import pytest
import torch

from holdfast.distribution import GaussianMixture
from holdfast.metrics import GaussianComponents, exact_transport, gaussian_transport, gmm_plan, gmm_w2
from tests.metrics.distances.points import covariances, weights


def _mixture(k=3, seed=100):
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(2, k, 3, generator=rng, dtype=torch.float64)
    cov = covariances(batch=2 * k, seed=seed).unflatten(0, (2, k))
    return GaussianComponents(weights(k, seed=seed), means, cov)


def test_one_component_has_the_distance_of_gaussians():
    p, q = _mixture(1), _mixture(1, 101)
    expected = gaussian_transport(p.means[:, 0], p.covariances[:, 0], q.means[:, 0], q.covariances[:, 0])
    torch.testing.assert_close(gmm_w2(p, q).square(), expected)


def test_components_without_width_are_points():
    p, q = _mixture(4), _mixture(3, 101)
    p, q = (m._replace(covariances=torch.zeros_like(m.covariances)) for m in (p, q))
    expected = exact_transport(p.means, q.means, x_weights=p.weights, y_weights=q.weights)
    torch.testing.assert_close(gmm_w2(p, q).square(), expected, rtol=1e-7, atol=1e-9)


def test_it_is_a_metric():
    p, q, r = (_mixture(k, s) for k, s in ((3, 100), (2, 101), (4, 102)))
    torch.testing.assert_close(gmm_w2(p, q), gmm_w2(q, p))
    assert gmm_w2(p, p).max() < 1e-3
    assert bool((gmm_w2(p, r) <= gmm_w2(p, q) + gmm_w2(q, r) + 1e-9).all())


def test_a_plan_has_the_weights_as_its_margins_and_the_distance_as_its_cost():
    p, q = _mixture(3), _mixture(2, 101)
    plan = gmm_plan(p, q)
    torch.testing.assert_close(plan.sum(2), p.weights)
    torch.testing.assert_close(plan.sum(1), q.weights)
    cost = gaussian_transport(
        p.means[:, :, None], p.covariances[:, :, None], q.means[:, None], q.covariances[:, None]
    )  # fmt: skip
    torch.testing.assert_close((plan * cost).sum((1, 2)), gmm_w2(p, q).square())


def test_a_gaussian_mixture_goes_in_as_it_is():
    p, q = _mixture(3), _mixture(2, 101)
    mixtures = [GaussianMixture.from_covariance(*m) for m in (p, q)]
    torch.testing.assert_close(gmm_w2(*mixtures), gmm_w2(p, q))


def test_gradients_are_those_of_the_value():
    p, q = _mixture(2), _mixture(2, 101)

    def value(w, m, r):
        return gmm_w2(GaussianComponents(w / w.sum(-1, keepdim=True), m, r @ r.mT), q)

    inputs = [t.clone().requires_grad_() for t in (p.weights, p.means, torch.linalg.cholesky(p.covariances))]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)
    same = p.means.clone().requires_grad_()
    gmm_w2(p, p._replace(means=same)).sum().backward()
    assert bool(same.grad.isfinite().all())


def test_input_that_makes_no_sense_is_refused():
    p = _mixture(2)
    for q, message in (
        (p._replace(weights=p.weights * 2), "weights of q must not be negative and add up to 1"),
        (p._replace(means=p.means[:, :1]), "q must have weights"),
        (GaussianComponents(p.weights[:1], p.means[:1], p.covariances[:1]), "of one batch and dimension"),
        (p._replace(covariances=-p.covariances), "positive semi-definite"),
    ):
        with pytest.raises(ValueError, match=message):
            gmm_w2(p, q)
