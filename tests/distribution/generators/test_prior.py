from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from holdfast.core.random import generator
from holdfast.distribution.generators.prior import AttributePrior, MixtureLaw, draw_latent

E = torch.randn(4, 3, generator=generator(100))


def mixture():
    rng = generator(101)
    return MixtureLaw(
        torch.randn(4, 3, generator=rng).log_softmax(-1),
        2 * torch.randn(4, 3, 2, generator=rng),
        torch.randn(4, 3, 2, generator=rng),
    )


def peer(law):
    parts = Independent(Normal(law.mu, (law.log_var / 2).exp()), 1)
    return MixtureSameFamily(Categorical(logits=law.log_weight), parts)


def test_learned_prior_starts_as_the_standard_one():
    learned, standard = AttributePrior(3, 2)(E), AttributePrior(3, 2, "standard")(E)
    assert torch.equal(learned.mu, standard.mu)
    assert torch.equal(learned.log_var, standard.log_var)


def test_standard_prior_knows_nothing_of_the_condition():
    law = AttributePrior(3, 2, "standard")(E)
    assert not bool(law.mu.any())
    assert not bool(law.log_var.any())


def test_log_variances_stay_between_minus_four_and_four():
    prior = AttributePrior(3, 2)
    prior.net[-1].bias.data.fill_(100.0)
    assert float(prior(E).log_var.detach().max()) == 4.0


def test_mixture_has_density_mean_and_deviation_of_torch_distributions():
    law = mixture()
    z = torch.randn(7, 4, 2, generator=generator(102))
    torch.testing.assert_close(law.log_prob(z), peer(law).log_prob(z))
    torch.testing.assert_close(law.mean, peer(law).mean)
    torch.testing.assert_close(law.std, peer(law).variance.sqrt())


def test_drawn_latents_have_the_moments_of_the_mixture():
    law, n = mixture(), 40_000
    z = draw_latent(law, torch.randn(n, 4, 2, generator=generator(103)), torch.rand(n, 4, generator=generator(104)))
    assert bool(((z.mean(0) - law.mean).abs() < 4.5 * law.std / n**0.5).all())
    torch.testing.assert_close(z.std(0), law.std, rtol=0.03, atol=0)


def test_without_temperature_a_mixture_draws_its_component_means():
    law = mixture()
    z = draw_latent(
        law, torch.randn(50, 4, 2, generator=generator(103)), torch.rand(50, 4, generator=generator(104)), 0
    )
    gaps = (z[:, :, None] - law.mu).square().sum(-1).min(-1).values
    assert float(gaps.max()) == 0.0


def test_components_of_a_mixture_start_apart():
    law = AttributePrior(3, 2, "mixture", components=4)(E)
    assert len(law.mu[0].unique(dim=0)) == 4


def test_no_latents_and_other_kinds_are_refused():
    with pytest.raises(ValueError, match="latent must be in"):
        AttributePrior(3, 0)
    with pytest.raises(ValueError, match="kind"):
        AttributePrior(3, 2, "flow")
