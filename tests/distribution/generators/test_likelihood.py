from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from holdfast.core.random import generator
from holdfast.distribution.generators.likelihood import (
    BernoulliLikelihood,
    DiscretisedLikelihood,
    GaussianLikelihood,
    make_likelihood,
)

OUT = 3 * torch.randn(5, 4, generator=generator(100), dtype=torch.float64)


def test_densities_are_those_of_torch_distributions():
    x = torch.rand(5, 4, generator=generator(101), dtype=torch.float64)
    torch.testing.assert_close(GaussianLikelihood(0.3).log_prob(x, OUT), Normal(OUT.sigmoid(), 0.3).log_prob(x))
    torch.testing.assert_close(
        BernoulliLikelihood().log_prob(x.round(), OUT), Bernoulli(logits=OUT).log_prob(x.round())
    )


@pytest.mark.parametrize("scale", [0.01, 0.2])
def test_masses_of_all_grey_levels_sum_to_one(scale):
    grey = torch.linspace(0, 1, 16, dtype=torch.float64)
    mass = DiscretisedLikelihood(scale, 16).log_prob(grey[:, None, None].expand(16, 5, 4), OUT.expand(16, 5, 4)).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones_like(OUT))


def test_masses_stay_finite_in_logs_far_from_the_centre():
    law = DiscretisedLikelihood(0.001)
    value = law.log_prob(torch.tensor([0.5]), torch.tensor([-20.0]))
    assert bool(value.isfinite())
    assert float(value) < -400


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "discretised"])
def test_draws_have_the_mean_of_the_law(name):
    law = make_likelihood(name)
    out = torch.randn(6, generator=generator(100)).clamp(-1, 1)
    x = law.sample(out.expand(20_000, 6), generator(101))
    assert bool(((x.mean(0) - law.mean(out)).abs() < 4.5 * x.std(0) / 20_000**0.5 + 2e-3).all())


def test_pixels_outside_the_unit_interval_and_odd_scales_are_refused():
    for law in (BernoulliLikelihood(), DiscretisedLikelihood()):
        with pytest.raises(ValueError, match=r"\[0, 1\], got 0 to 255"):
            law.check(torch.tensor([0.0, 255.0]))
    with pytest.raises(ValueError, match="sd must be in"):
        GaussianLikelihood(0.0)
    with pytest.raises(ValueError, match="likelihood"):
        make_likelihood("poisson")
