from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.attributes import (
    DeterministicRegressor,
    GaussianStochasticNet,
    diversity_ratio,
    leakage,
    train_attributes,
)
from holdfast.distribution.embedding import GDE
from holdfast.distribution.generators.cvae import ConditionalVAE
from holdfast.distribution.generators.likelihood import GaussianLikelihood
from holdfast.distribution.generators.prior import AttributePrior
from holdfast.distribution.variational import KLSchedule
from holdfast.nn.coders import MLPDecoder, MLPEncoder
from holdfast.nn.sets import MeanEncoder

RNG = generator(100)
X, C = torch.rand(12, 1, 4, 4, generator=RNG), torch.randn(12, 3, generator=RNG)


def make(prior="learned", **options):
    with isolated_rng(100):
        model = ConditionalVAE(
            MLPEncoder((1, 4, 4), 3, 4, width=16),
            AttributePrior(3, 2, prior),
            MLPDecoder(5, (1, 4, 4), width=16),
            **{"likelihood": "gaussian", **options},
        )
        if model.prior.net is not None:
            nn.init.normal_(model.prior.net[-1].weight, std=0.3)
        return model.eval()


class _Linear(nn.Module):
    """x = A z, with A of orthogonal columns; the embedded condition is not read."""

    shape = (3,)

    def __init__(self):
        super().__init__()
        self.register_buffer("slope", torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0]], dtype=torch.float64))

    def forward(self, h):
        return h[:, :2] @ self.slope.T


class _Posterior(nn.Module):
    """The exact posterior of x = A z + 0.7 noise, z ~ N(0, I); ``shift`` moves it away."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.slope, self.shift = _Linear().slope, shift

    def forward(self, x, e):
        precision = 1 + self.slope.square().sum(0) / 0.49
        mu = x @ self.slope / 0.49 / precision
        return torch.cat([mu + self.shift, -precision.log().expand_as(mu)], 1)


def linear_gaussian(shift=0.0):
    model = ConditionalVAE(
        _Posterior(shift),
        AttributePrior(1, 2, "standard"),
        _Linear(),
        likelihood=GaussianLikelihood(0.7, "identity"),
    )
    x = torch.randn(5, 3, generator=generator(100), dtype=torch.float64)
    slope = _Linear().slope
    cov = slope @ slope.T + 0.49 * torch.eye(3, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), cov).log_prob(x)
    return model, x, torch.zeros(5, 1, dtype=torch.float64), truth


def test_likelihood_of_the_linear_gaussian_model_is_exact_with_the_exact_posterior():
    model, x, c, truth = linear_gaussian()
    torch.testing.assert_close(model.log_likelihood(x, c, 3, generator=generator(100)), truth, atol=1e-4, rtol=0)


def test_bound_with_the_exact_posterior_is_the_likelihood_in_expectation():
    model, x, c, truth = linear_gaussian()
    bounds = torch.stack([model.elbo(x, c, generator=generator(i)).bound for i in range(100, 1100)])
    assert bool(((bounds.mean(0) - truth).abs() < 4.5 * bounds.std(0) / 1000**0.5).all())


@pytest.mark.parametrize(("method", "draws"), [("is", 40_000), ("mc", 40_000)])
def test_both_estimates_of_the_likelihood_find_it(method, draws):
    model, x, c, truth = linear_gaussian(shift=0.4)
    found = model.log_likelihood(x, c, draws, method, generator=generator(100))
    torch.testing.assert_close(found, truth, atol=0.05, rtol=0)


def test_bound_lies_below_the_importance_sampled_likelihood_which_grows_with_draws():
    model = make()
    bounds = torch.stack([model.elbo(X, C, generator=generator(i)).bound for i in range(100, 300)]).detach()
    means = [bounds.mean(0)]
    for S in (5, 50):
        found = torch.stack([model.log_likelihood(X, C, S, generator=generator(i)) for i in range(100, 200)])
        error = 4.5 * (found.var(0) / 100 + bounds.var(0) / 200).sqrt()
        assert bool((means[-1] <= found.mean(0) + error).all())
        means.append(found.mean(0))


def test_without_weight_it_is_a_plain_conditional_autoencoder():
    model = make(beta=0.0)
    expected = -model.elbo(X, C, generator=generator(101)).log_likelihood.mean()
    torch.testing.assert_close(model.loss(X, C, generator(101)), expected)


def test_loss_of_several_points_for_each_condition_is_that_of_the_pairs():
    model = make()
    x = X.unflatten(0, (4, 3))
    torch.testing.assert_close(
        model.loss(x, C[:4], generator(101)), model.loss(X, C[:4].repeat_interleave(3, 0), generator(101))
    )


def test_a_great_weight_empties_the_latent_and_leaves_the_conditional_mean():
    rng = generator(101)
    c = (torch.rand(600, 1, generator=rng) < 0.5).float()
    x = 2 * c + 0.5 * torch.randn(600, 2, generator=rng)
    with isolated_rng(100):
        model = ConditionalVAE.of_points(2, 1, latent=2, width=32, beta=1000.0)
    model.likelihood = GaussianLikelihood(0.5, "identity")
    train_attributes(model, x, c, steps=400, lr=5e-3, seed=100, device="cpu")
    assert float(model.elbo(x, c, generator=generator(102)).kl.detach().sum(1).mean()) < 1e-2
    for value in (0.0, 1.0):
        drawn = model.sample(torch.tensor([[value]]), 200, generator(103))[0]
        assert float((drawn - x[c[:, 0] == value].mean(0)).abs().max()) < 0.15
        assert float(drawn.std(0).max()) < 0.1


def test_hybrid_objective_is_the_mean_of_its_two_losses_on_common_noise():
    losses = {a: make(alpha=a).loss(X, C, generator(101)) for a in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(losses[0.5], 0.5 * (losses[0.0] + losses[1.0]), atol=1e-6, rtol=1e-6)


def test_without_the_autoencoder_no_gradient_reaches_the_recogniser():
    model = make(alpha=0.0)
    model.loss(X, C, generator(101)).backward()
    assert all(p.grad is None for p in model.recogniser.parameters())
    assert all(p.grad is not None for p in model.generator.parameters())


def test_stochastic_network_has_the_loss_of_the_model_without_its_autoencoder():
    model = make(alpha=0.0)
    net = GaussianStochasticNet(model.prior, model.generator, likelihood="gaussian")
    assert torch.equal(net.loss(X, C, generator(101)), model.loss(X, C, generator(101)))
    with pytest.raises(ValueError, match="no recogniser"):
        net.reconstruct(X, C)


def test_divergence_from_a_standard_prior_does_not_depend_on_the_condition_given_the_posterior():
    model = make("standard")
    model.recogniser = _FixedPosterior()
    a, b = (model.elbo(X, c, generator=generator(101)).kl for c in (C, C.flip(0)))
    assert torch.equal(a, b)


class _FixedPosterior(nn.Module):
    def forward(self, x, e):
        return x.flatten(1)[:, :4]


def test_divergence_from_a_mixture_is_estimated_with_its_error():
    model = make("mixture")
    found = model.divergence(X, C, 2000, generator=generator(101))
    again = model.divergence(X, C, 2000, generator=generator(102))
    assert bool((found.error > 0).all())
    assert bool(((found.value - again.value).abs() < 4.5 * (found.error**2 + again.error**2).sqrt()).all())
    exact = make().divergence(X, C)
    torch.testing.assert_close(exact.value, make().elbo(X, C).kl.sum(1).detach())
    assert not bool(exact.error.any())


@pytest.mark.parametrize("prior", ["learned", "standard", "mixture"])
def test_an_edit_that_changes_nothing_is_the_reconstruction(prior):
    model = make(prior)
    torch.testing.assert_close(model.edit(X, C, C), model.reconstruct(X, C), atol=1e-6, rtol=0)


def test_an_edit_moves_the_latent_as_the_prior_moves():
    model = make()
    z = model.encode(X, C)
    old, new = model.prior(C), model.prior(C.flip(0))
    moved = new.mean + new.std / old.std * (z - old.mean)
    expected = model.likelihood.mean(model.generator(torch.cat([moved, C.flip(0)], 1)))
    torch.testing.assert_close(model.edit(X, C, C.flip(0)), expected.detach(), atol=1e-5, rtol=0)


def test_temperature_zero_decodes_the_prior_mean():
    model = make()
    expected = model.likelihood.mean(model.generator(torch.cat([model.prior(C).mean, C], 1))).detach()
    drawn = model.sample(C, 3, generator(101), temperature=0.0)
    torch.testing.assert_close(drawn, expected[:, None].expand_as(drawn))


def test_samples_do_not_depend_on_how_many_are_decoded_at_once(monkeypatch):
    model = make()
    whole = model.sample(C, 5, generator(101))
    monkeypatch.setattr("holdfast.distribution.generators.cvae._ROWS", 7)
    torch.testing.assert_close(model.sample(C, 5, generator(101)), whole)
    assert not torch.equal(model.sample(C, 5, generator(102)), whole)


def test_noise_of_the_likelihood_is_shown_on_request():
    model = make()
    quiet, noisy = (model.sample(C, 400, generator(101), mean=m) for m in (True, False))
    assert float((noisy - quiet).std()) == pytest.approx(0.1, rel=0.03)


def test_interpolation_starts_and_ends_at_the_two_conditions_with_the_same_noise():
    model = make()
    frames = model.interpolate(C[:2], C[2:4], 5, generator(101))
    ends = model.interpolate(C[:2], C[2:4], 2, generator(101))
    torch.testing.assert_close(frames[:, [0, -1]], ends)
    middle = model.interpolate(C[:2], C[:2], 3, generator(101))
    torch.testing.assert_close(middle[:, 0], frames[:, 0])


def test_steps_of_the_schedule_are_counted_in_training_alone_and_survive_saving():
    model = make(beta=KLSchedule("linear", 2.0, warmup=4))
    assert model.weight == 0.0
    model.train()
    for _ in range(2):
        model.loss(X, C, generator(101))
    model.eval().loss(X, C, generator(101))
    assert model.weight == 1.0
    other = make(beta=KLSchedule("linear", 2.0, warmup=4))
    other.load_state_dict(model.state_dict())
    assert other.weight == 1.0


def test_a_learned_prior_finds_the_means_of_gaussian_cells():
    rng = generator(101)
    c = torch.eye(4)[torch.randint(4, (4000,), generator=rng)]
    means = torch.tensor([[0.0, 0.0], [2.0, 0.5], [-1.0, 1.0], [0.5, -2.0]])
    x = c @ means + 0.6 * torch.randn(4000, 2, generator=rng)
    with isolated_rng(100):
        model = ConditionalVAE(
            MLPEncoder((2,), 4, 4, width=32),
            AttributePrior(4, 2),
            _ReadsLatent(),
            likelihood=GaussianLikelihood(0.3, "identity"),
        )
    train_attributes(model, x, c, steps=500, lr=1e-2, batch_size=256, seed=100, device="cpu")
    cells = torch.stack([x[c[:, k] == 1].mean(0) for k in range(4)])
    found = model.generator(torch.cat([model.prior(torch.eye(4)).mean, torch.eye(4)], 1))
    torch.testing.assert_close(found.detach(), cells, atol=0.05, rtol=0)


class _ReadsLatent(nn.Module):
    """A linear decoder that the condition does not reach."""

    shape = (2,)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, h):
        return self.linear(h[:, :2])


@pytest.fixture(scope="module")
def told():
    """A standard prior with weight 5, a learned one with weight 1, and a regressor, trained alike.

    The condition moves two of four features, nuisance the others.
    """

    def draw(n, seed):
        rng = generator(seed)
        c = (torch.rand(n, 2, generator=rng) < 0.5).float()
        return torch.cat([c, torch.rand(n, 2, generator=rng)], 1) + 0.1 * torch.randn(n, 4, generator=rng), c

    x, c = draw(3000, 101)

    def cvae(prior, beta):
        return ConditionalVAE(
            MLPEncoder((4,), 2, 4, width=64),
            AttributePrior(2, 2, prior),
            MLPDecoder(4, (4,), width=64),
            likelihood=GaussianLikelihood(0.1, "identity"),
            beta=KLSchedule("linear", beta, warmup=100),
        )

    with isolated_rng(100):
        heavy, one = cvae("standard", 5.0), cvae("learned", 1.0)
        regressor = DeterministicRegressor(
            MLPDecoder(2, (4,), width=64), likelihood=GaussianLikelihood(0.1, "identity")
        )
    for model in (heavy, one, regressor):
        train_attributes(model, x, c, steps=400, lr=3e-3, seed=100, device="cpu")
    return heavy, one, regressor, draw


def test_mean_of_samples_is_what_a_deterministic_network_returns(told):
    model, _, regressor, _ = told
    asked = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    mean = model.sample(asked, 2000, generator(102)).mean(1)
    assert float((mean - regressor.predict(asked)).square().mean().sqrt()) < 0.05


def test_codes_under_a_standard_prior_tell_nothing_of_the_condition(told):
    model, _, _, draw = told
    x, c = draw(20_000, 105)
    found = leakage(model.encode(x, c, generator=generator(103)), c, seed=100)
    assert bool((abs(found.accuracy - found.chance) < 0.03).all())


def test_samples_vary_within_a_condition_and_those_of_a_deterministic_network_do_not(told):
    _, model, regressor, draw = told
    x, c = draw(4000, 105)
    drawn = model.sample(c, 1, generator(104))[:, 0]
    assert diversity_ratio(drawn, x, c) >= 0.25
    assert bool((drawn[:, 2:].std(0) > 0.5 * x[:, 2:].std(0)).all())
    assert diversity_ratio(regressor.sample(c, 1)[:, 0], x, c) <= 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.loss(X[:, :, :3], C), r"points must have shape \(batch, 1, 4, 4\)"),
        (lambda m: m.loss(X, C[:, :2]), r"codes must have shape \(batch, 3\)"),
        (lambda m: m.loss(X, C[:5]), "one condition for every point"),
        (lambda m: m.sample(C, 0), "n must be in"),
        (lambda m: m.sample(C, 1, temperature=-0.5), "temperature must be in"),
        (lambda m: m.log_likelihood(X, C, 0), "S must be in"),
        (lambda m: m.log_likelihood(X, C, method="ais"), "method"),
        (lambda m: m.sample(C, 1, mask=torch.zeros(12, 3, dtype=torch.bool)), "no missing entries"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="beta must be in"):
        make(beta=-1.0)
    with pytest.raises(ValueError, match="alpha must be in"):
        make(alpha=1.5)
    with pytest.raises(ValueError, match="needs a recogniser"):
        ConditionalVAE(None, AttributePrior(3, 2), MLPDecoder(5, (4,)))
    with pytest.raises(ValueError, match=r"Bernoulli likelihood takes entries in \[0, 1\]"):
        make(likelihood="bernoulli").loss(2 * X, C)
    with pytest.warns(UserWarning, match="a weight beta acts as 16 beta"):
        make(reduction="mean")


def test_it_serves_as_the_generator_of_a_distribution_embedding():
    rng = generator(101)
    model = GDE(MeanEncoder(2), ConditionalVAE.of_points(2, 2, latent=2, width=16))
    sets = torch.randn(4, 20, 2, generator=rng)
    loss = model.loss(sets, generator=rng)
    loss.backward()
    assert loss.ndim == 0
    assert model.resample(model.embed(sets), 7, rng).shape == (4, 7, 2)
