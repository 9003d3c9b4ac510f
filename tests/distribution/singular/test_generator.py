from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.singular import (
    Charts,
    CircleLatent,
    GaussianEncoder,
    LatentGaussianGenerator,
    NormalLatent,
    UniformLatent,
)
from holdfast.distribution.variational import effective_sample_size, normalised_weights
from holdfast.nn.coders import MLPDecoder, MLPEncoder

D = 4


def linear(latent_dim=1, d=D, sigma=0.5, seed=100):
    with isolated_rng(seed):
        return LatentGaussianGenerator(nn.Linear(latent_dim, d), NormalLatent(latent_dim), sigma, 1e-6).double()


def exact_law(model):
    A, b = model.f.weight.detach(), model.f.bias.detach()
    return MultivariateNormal(b, A @ A.T + model.sigma**2 * torch.eye(len(b), dtype=A.dtype))


def curve(latent=None, sigma=0.3, seed=100):
    with isolated_rng(seed):
        law = latent or UniformLatent(1)
        f = MLPDecoder(law.dim, (D,), width=16, layers=1)
        return LatentGaussianGenerator(f, law, sigma).double()


def posterior(model, factor=1.0):
    """The encoder that is exact for a linear generator of one latent dimension, its deviation times a factor."""
    A, b, s2 = model.f.weight.detach()[:, 0], model.f.bias.detach(), model.sigma**2
    precision = 1 + A @ A / s2

    class Net(nn.Module):
        def forward(self, x, e):
            mu = (x - b) @ A / s2 / precision
            return torch.stack([mu, torch.full_like(mu, math.log(factor**2 / precision))], dim=1)

    return GaussianEncoder(Net())


def test_a_linear_generator_has_a_normal_law_in_every_way_of_computing_it():
    model = linear()
    x = model.sample(200, generator(100), with_noise=True)
    want = exact_law(model).log_prob(x)
    torch.testing.assert_close(model.log_prob(x, "exact"), want, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.log_prob(x, "quadrature", 512), want, atol=1e-3, rtol=0)
    torch.testing.assert_close(model.elbo(x, posterior(model), 3, generator(100)), want, atol=1e-9, rtol=0)
    drawn = model.log_prob(x, "is", 5000, encoder=posterior(model, 0.5), generator=generator(100))
    torch.testing.assert_close(drawn, want, atol=0.05, rtol=0)
    alone = model.log_prob(x, "is", 5000, generator=generator(100))
    torch.testing.assert_close(alone, want, atol=0.3, rtol=0)


def test_two_latent_dimensions_are_summed_over_a_plane():
    model = linear(2)
    x = model.sample(50, generator(100), with_noise=True)
    torch.testing.assert_close(model.log_prob(x, "quadrature", 64**2), exact_law(model).log_prob(x), atol=1e-3, rtol=0)


def test_units_of_the_data_enter_as_a_change_of_variables():
    model = linear()
    x = model.sample(20, generator(100), with_noise=True)
    want = model.log_prob(x, "exact")
    shift, c = torch.arange(D, dtype=torch.float64), 7.0
    model.standardise(shift, c)
    torch.testing.assert_close(model.log_prob(shift + c * x, "exact"), want - D * math.log(c))
    torch.testing.assert_close(
        model.elbo(shift + c * x, _at(posterior, model, c), 2, generator(1)), want - D * math.log(c)
    )
    assert model.sigma == pytest.approx(c * 0.5)


def _at(make, model, c):
    """An encoder of standardised points: the model's own deviation without its units."""
    model.scale.fill_(1.0)
    encoder = make(model)
    model.scale.fill_(c)
    return encoder


def test_the_importance_bound_rises_with_its_draws_and_stays_below_the_likelihood():
    model = linear()
    x = model.sample(4000, generator(100), with_noise=True)
    exact = exact_law(model).log_prob(x)
    wide = posterior(model, 2.0)
    bounds = [model.elbo(x, wide, K, generator(K)) for K in (1, 3, 12, 50)]
    for low, high in itertools.pairwise(bounds):
        gain = high - low
        assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
    for bound in bounds:
        slack = bound - exact
        assert slack.mean() <= 4 * slack.std() / len(slack) ** 0.5


def test_one_draw_is_the_evidence_lower_bound():
    model = linear()
    x = model.sample(4000, generator(100), with_noise=True)
    encoder = posterior(model, 2.0)
    q = encoder(x)
    z = q.sample(generator(101))
    sampled = model.log_likelihood(x, z) + model.latent.log_prob(z) - q.log_prob(z)
    gap = sampled - model.elbo(x, encoder, 1, generator(102))
    assert abs(gap.mean()) < 4 * gap.std() / len(gap) ** 0.5


def test_the_gradient_of_many_draws_is_that_of_the_bound():
    model = linear()
    x = model.sample(20_000, generator(100), with_noise=True)
    parameter = torch.zeros((), dtype=torch.float64, requires_grad=True)
    inner = posterior(model, 1.5)

    class Net(nn.Module):
        def forward(self, x, e):
            q = inner(x)
            return torch.stack([q.mu[:, 0], q.log_var[:, 0] + parameter], dim=1)

    encoder = GaussianEncoder(Net())
    grads = []
    for doubly in (False, True):
        bound, _ = model.bound(x, encoder, 12, generator(100), doubly=doubly)
        grads.append(float(torch.autograd.grad(bound.mean(), parameter)[0]))
    step = 1e-3
    with torch.no_grad():
        ends = []
        for e in (step, -step):
            parameter.fill_(e)
            ends.append(float(model.bound(x, encoder, 12, generator(100))[0].mean()))
    slope = (ends[0] - ends[1]) / (2 * step)
    assert grads[0] == pytest.approx(slope, rel=1e-3)
    assert grads[1] == pytest.approx(slope, rel=0.2)


def test_without_noise_the_likelihood_of_points_on_the_image_grows_without_bound():
    with isolated_rng(100):
        circle = LatentGaussianGenerator(nn.Linear(2, D), CircleLatent(), 0.1, 1e-6).double()
    line = linear()
    for model, d in ((circle, 1), (line, 1)):
        with torch.no_grad():
            x = model.f(model.latent.sample(40, model.raw, generator(100)))
        values = []
        for sigma in (1e-1, 1e-2, 1e-3):
            model.raw.data.fill_(model._to_raw(math.log(sigma)))
            value = model.log_prob(x, "exact" if model is line else "quadrature", 20_000)
            values.append(float(value.mean()))
        for low, high in itertools.pairwise(values):
            assert (high - low) / math.log(10) == pytest.approx(D - d, rel=0.05)


def test_samples_carry_no_noise_unless_asked():
    model = linear(2)
    clean, noisy = (model.sample(50, generator(100), with_noise=noise) for noise in (False, True))
    assert int(torch.linalg.matrix_rank(clean - clean.mean(0), rtol=1e-10)) == 2
    assert int(torch.linalg.matrix_rank(noisy - noisy.mean(0), rtol=1e-10)) == D


@pytest.mark.parametrize("latent", [UniformLatent(1), NormalLatent(1), CircleLatent(), UniformLatent(2)])
def test_a_moved_grid_estimates_the_density_without_bias(latent):
    model = curve(latent)
    x = model.sample(3, generator(100), with_noise=True)
    rng = generator(101)
    drawn = torch.stack(
        [model.quadrature(x, 16, torch.rand(latent.intrinsic, generator=rng, dtype=x.dtype)) for _ in range(2000)]
    )
    density = drawn.detach().exp()
    middle = torch.full((latent.intrinsic,), 0.5, dtype=x.dtype)
    want = model.quadrature(x, 100_000, middle).detach().exp()
    error = density.std(0) / len(density) ** 0.5
    # The reference's own error: its distance to a grid of half the nodes.
    own = (want - model.quadrature(x, 50_000, middle).detach().exp()).abs()
    assert bool(((density.mean(0) - want).abs() < 4 * error + own + 1e-9).all())


@pytest.mark.parametrize("latent", [UniformLatent(1), NormalLatent(1), CircleLatent()])
def test_a_finer_grid_changes_nothing_where_no_warning_is_given(latent):
    model = curve(latent)
    nodes = 4
    while model.resolution(nodes) < 1:
        nodes *= 2
    x = model.sample(2000, generator(100), with_noise=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coarse, fine = (model.log_prob(x, K=k) for k in (nodes, 2 * nodes))
    assert abs(float((fine - coarse).mean())) <= 1e-3


def test_a_grid_too_coarse_for_the_noise_warns_and_says_how_many_nodes_are_needed():
    model = curve(CircleLatent(), sigma=0.002)
    x = model.sample(30, generator(100))
    with pytest.warns(UserWarning, match="nodes lie too far apart") as caught:
        model.log_prob(x, K=16)
    needed = int(str(caught[0].message).rsplit(" ", 1)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_prob(x, K=int(1.1 * needed))


def test_weights_are_finite_at_little_noise_and_sum_to_one():
    with isolated_rng(100):
        model = LatentGaussianGenerator(MLPDecoder(2, (D,), width=16), NormalLatent(2), 1.001e-3)
        encoder = GaussianEncoder(MLPEncoder((D,), 0, 4, width=16))
    x = 3 * torch.randn(50, D, generator=generator(100))
    log_w = model.log_weights(x, encoder, 20, generator(100))
    assert bool(log_w.isfinite().all())
    torch.testing.assert_close(normalised_weights(log_w).sum(0), torch.ones(50))
    ess = effective_sample_size(log_w)
    assert bool(((ess >= 1 - 1e-4) & (ess <= 20)).all())


def test_the_deviation_keeps_its_gradient_near_its_bounds_and_never_leaves_them():
    model = LatentGaussianGenerator(nn.Linear(1, D), NormalLatent(1), 0.5, 1e-2, 2.0)
    assert model.sigma == pytest.approx(0.5, rel=1e-5)
    for raw in (-20.0, math.log(1e-2), 0.0, math.log(2.0), 20.0):
        model.raw.data.fill_(raw)
        assert 1e-2 * (1 - 1e-4) <= model.sigma <= 2.0 * (1 + 1e-4)
    for at in (1e-2, 2.0):
        model.raw.data.fill_(math.log(at))
        (slope,) = torch.autograd.grad(model.log_sigma.sum(), model.raw)
        assert float(slope) == pytest.approx(0.5, abs=0.01)


def test_a_deviation_of_each_coordinate_is_a_diagonal_law():
    model = LatentGaussianGenerator(nn.Linear(1, D), NormalLatent(1), per_dim=D).double()
    model.raw.data = torch.linspace(-1, 0.5, D, dtype=torch.float64)
    x = model.sample(20, generator(100), with_noise=True)
    torch.testing.assert_close(model.log_prob(x, "quadrature", 512), model.log_prob(x, "exact"), atol=1e-3, rtol=0)


def test_charts_add_their_densities():
    latent = Charts(NormalLatent(1), 2)
    latent.logits.data = torch.tensor([0.0, 1.0])
    with isolated_rng(100):
        both = LatentGaussianGenerator(nn.Linear(3, D), latent, 0.5).double()
    x = both.sample(100, generator(100), with_noise=True)
    pieces = []
    for k in range(2):
        one = linear()
        one.f.weight.data = both.f.weight.data[:, :1]
        one.f.bias.data = both.f.bias.data + both.f.weight.data[:, 1 + k]
        pieces.append(one)
    log_p = torch.stack([p.log_prob(x, "exact") + w for p, w in zip(pieces, latent.log_weights)])
    torch.testing.assert_close(both.log_prob(x, K=512), log_p.logsumexp(0), atol=1e-3, rtol=0)

    class Net(nn.Module):
        def forward(self, x, e):
            found = torch.stack([torch.cat(posterior(p)(x), dim=1) for p in pieces], dim=1)
            return (found * e[:, :, None]).sum(1)

    encoder = GaussianEncoder(Net())
    for K in (1, 5):
        bound = both.elbo(x, encoder, K, generator(100))
        if K > 1:
            torch.testing.assert_close(bound, log_p.logsumexp(0), atol=1e-5, rtol=0)
        else:
            assert abs(float((log_p.logsumexp(0) - bound).detach().mean())) < 0.5
    assert both.log_weights(x, encoder, 5, generator(100)).shape == (5, 100)


def test_charts_are_drawn_by_their_weights():
    latent = Charts(UniformLatent(1), 3)
    latent.logits.data = torch.tensor([0.2, 0.5, 0.3]).log()
    n = 20_000
    share = latent.sample(n, torch.zeros(1), generator(100))[:, 1:].mean(0)
    want = torch.tensor([0.2, 0.5, 0.3])
    assert bool(((share - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all())


def test_what_cannot_work_is_refused():
    f = nn.Linear(3, D)
    with pytest.raises(ValueError, match=r"sigma_min must be below sigma_max, got 1 and 0\.5"):
        LatentGaussianGenerator(f, NormalLatent(3), 0.7, 1.0, 0.5)
    with pytest.raises(ValueError, match=r"sigma_init must be in \(0.001, 10\), got 20"):
        LatentGaussianGenerator(f, NormalLatent(3), 20.0)
    model = LatentGaussianGenerator(f, NormalLatent(3))
    x = torch.zeros(2, D)
    with pytest.raises(ValueError, match="latents of at most 2 dimensions, got 3"):
        model.log_prob(x, "quadrature")
    with pytest.raises(ValueError, match="needs encoder"):
        model.log_prob(x, "iwae")
    with pytest.raises(ValueError, match="method must be one of"):
        model.log_prob(x, "guess")
    with pytest.raises(ValueError, match=r"needs f to be an nn\.Linear"):
        curve().log_prob(x.double(), "exact")
    with pytest.raises(ValueError, match="needs a normal latent, got UniformLatent"):
        curve().elbo(x.double(), posterior(linear()))
    with pytest.raises(ValueError, match="must give 3 means and log-variances, got 1"):
        model.elbo(x, GaussianEncoder(MLPEncoder((D,), 0, 2)))
    with pytest.raises(ValueError, match="per_dim=2 does not fit points of 4 coordinates"):
        LatentGaussianGenerator(nn.Linear(1, D), NormalLatent(1), per_dim=2).log_prob(x)
    with pytest.raises(ValueError, match="charts of charts"):
        Charts(Charts(NormalLatent(1), 2), 2)
