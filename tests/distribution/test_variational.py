from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.random import generator
from holdfast.distribution.variational import (
    DiagonalGaussian,
    KLSchedule,
    effective_sample_size,
    elbo,
    free_bits,
    importance_bound,
    iwae,
    normalised_weights,
)

SD = 0.7
SLOPE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0]], dtype=torch.float64)  # orthogonal columns
X = torch.randn(6, 3, generator=generator(100), dtype=torch.float64)


def given(z):
    return torch.distributions.Normal(z @ SLOPE.T, SD).log_prob(X).sum(-1)


def joint(z):
    return given(z) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def exact():
    cov = SLOPE @ SLOPE.T + SD**2 * torch.eye(3, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), cov).log_prob(X)


def posterior():
    precision = 1 + SLOPE.square().sum(0) / SD**2
    return DiagonalGaussian(X @ SLOPE / SD**2 / precision, -precision.log().expand(6, 2))


def wrong():
    return DiagonalGaussian(posterior().mu + 0.3, posterior().log_var + 0.5)


def test_bound_with_the_exact_posterior_is_the_exact_log_likelihood():
    # The integrand is quadratic in the noise: its mean over these four points is its expectation.
    corners = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
    bounds = [elbo(given, posterior(), eps=e.expand(6, 2)).bound for e in corners]
    torch.testing.assert_close(torch.stack(bounds).mean(0), exact(), atol=1e-9, rtol=0)


def test_estimated_divergence_of_a_gaussian_agrees_with_the_closed_form():
    class Opaque:
        def log_prob(self, z):
            return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    many = DiagonalGaussian(*(t.repeat(4000, 1) for t in wrong()))
    kl = elbo(lambda z: torch.zeros(len(z)), many, Opaque(), generator(101)).kl
    assert kl.shape == (24_000, 1)
    drawn = kl.view(4000, 6)
    assert bool(((drawn.mean(0) - wrong().kl().sum(-1)).abs() < 4.5 * drawn.std(0) / 4000**0.5).all())


def test_weights_of_the_exact_posterior_are_all_the_likelihood():
    log_w = iwae(joint, posterior(), 5, generator(100))
    torch.testing.assert_close(log_w, exact().expand(5, 6), atol=1e-9, rtol=0)
    torch.testing.assert_close(effective_sample_size(log_w), torch.full((6,), 5.0, dtype=torch.float64))


def test_one_draw_has_the_expectation_of_the_evidence_lower_bound():
    one = iwae(joint, wrong(), 40_000, generator(100))
    corners = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
    bound = torch.stack([elbo(given, wrong(), eps=e.expand(6, 2)).bound for e in corners]).mean(0)
    assert bool(((one.mean(0) - bound).abs() < 4.5 * one.std(0) / 40_000**0.5).all())


def test_bound_grows_with_draws_and_stays_below_the_likelihood():
    means = []
    for k in (1, 5, 25):
        log_w = iwae(joint, wrong(), k * 2000, generator(101)).unflatten(0, (2000, k))
        each = log_w.logsumexp(1) - math.log(k)
        means.append(each.mean(0))
        assert bool((each.mean(0) <= exact() + 4.5 * each.std(0) / 2000**0.5).all())
    assert bool((means[0] < means[1]).all() and (means[1] < means[2]).all())


def test_normalised_weights_sum_to_one_even_when_they_underflow():
    log_w = 1e4 * torch.randn(7, 3, generator=generator(100))
    torch.testing.assert_close(normalised_weights(log_w).sum(0), torch.ones(3))
    assert bool((effective_sample_size(log_w) >= 1 - 1e-6).all())


def test_doubly_reparameterised_gradient_is_unbiased_and_less_noisy():
    mu, log_var = (t.clone().requires_grad_() for t in wrong())
    found = {}
    for doubly in (False, True):
        grads = []
        for i in range(400):
            log_w = iwae(joint, DiagonalGaussian(mu, log_var), 20, generator(1000 + i), doubly=doubly)
            grads.append(torch.autograd.grad(importance_bound(log_w).sum(), mu)[0])
        found[doubly] = torch.stack(grads)
    plain, double = found[False], found[True]
    error = (plain.var(0) / 400 + double.var(0) / 400).sqrt()
    assert bool(((plain.mean(0) - double.mean(0)).abs() < 4.5 * error).all())
    assert float(double.var(0).mean()) < 0.5 * float(plain.var(0).mean())


def test_free_bits_pull_at_no_latent_that_carries_less():
    kl = torch.tensor([[0.1, 2.0], [0.2, 1.0]], requires_grad=True)
    total = free_bits(kl, 0.5)
    torch.testing.assert_close(total, torch.tensor([0.5, 1.5]))
    total.sum().backward()
    assert kl.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_warm_up_reaches_its_target_at_the_stated_step_and_stays():
    beta = KLSchedule("linear", 4.0, warmup=10)
    assert [beta(0), beta(5), beta(10), beta(1000)] == [0.0, 2.0, 4.0, 4.0]
    assert beta(9) < 4.0
    assert KLSchedule(target=3.0)(0) == 3.0


def test_cyclical_schedule_restarts():
    beta = KLSchedule("cyclical", 2.0, warmup=5, period=10)
    assert beta(10) == 0.0
    assert [beta(t) for t in range(10)] == [beta(t + 30) for t in range(10)]


def test_schedule_survives_being_written_down():
    beta = KLSchedule("cyclical", 2.0, warmup=5, period=10)
    assert KLSchedule(**beta.to_dict()) == beta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": -1.0}, "target must be in"),
        ({"kind": "cyclical"}, "period belongs to"),
        ({"period": 5}, "period belongs to"),
        ({"kind": "cyclical", "warmup": 5, "period": 4}, "period must be in"),
        ({"kind": "step"}, "kind"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KLSchedule(**options)


def test_joint_densities_of_another_shape_and_no_draws_are_refused():
    with pytest.raises(ValueError, match="log_joint must return shape"):
        iwae(lambda z: joint(z)[0], posterior(), 3)
    with pytest.raises(ValueError, match="k must be in"):
        iwae(joint, posterior(), 0)
