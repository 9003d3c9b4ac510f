from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.diffusion import UNet
from holdfast.distribution.generators.ddpm import CodeAsChannels, ConditionalDDPM

SPREAD = 0.5


class _ExactNoise(nn.Module):
    """The expected noise of N(z, SPREAD^2), a point of one feature."""

    def __init__(self):
        super().__init__()
        self.path = None

    def forward(self, x, t, z):
        c = self.path.coefficients(t)
        alpha, sigma = c.alpha[:, None], c.sigma[:, None]
        return sigma * (x - alpha * z) / (alpha**2 * SPREAD**2 + sigma**2)


@pytest.fixture
def exact():
    network = _ExactNoise()
    model = ConditionalDDPM(1, 1, steps=1000, network=network)
    network.path = model.schedule
    return model


def test_with_the_exact_noise_ancestral_samples_have_the_law_of_their_code(exact):
    z = torch.tensor([[3.0], [-2.0]])
    x = exact.sample(z, 8000, generator(100)).squeeze(-1)
    torch.testing.assert_close(x.mean(1), z.squeeze(1), rtol=0.03, atol=0)
    assert float((x - z).var()) == pytest.approx(SPREAD**2, rel=0.03)


def test_strided_sampling_with_the_exact_noise_has_the_same_law(exact):
    exact.sampler_steps = 100
    x = exact.sample(torch.tensor([[3.0]]), 20_000, generator(100))
    assert float(x.mean()) == pytest.approx(3, rel=0.03)
    assert float(x.std()) == pytest.approx(SPREAD, rel=0.05)


def test_the_exact_noise_has_the_least_loss(exact):
    x = 3 + SPREAD * torch.randn(1, 4000, 1, generator=generator(100))
    told, misled = (float(exact.loss(x, torch.tensor([[m]]), generator(101))) for m in (3.0, 2.0))
    c = exact.schedule.coefficients(torch.arange(1000.0))
    best = (c.alpha**2 * SPREAD**2 / (c.alpha**2 * SPREAD**2 + c.sigma**2)).mean()
    assert told == pytest.approx(float(best), rel=0.1)
    assert misled > told


def test_signal_falls_from_one_to_zero():
    a = ConditionalDDPM(2, 3).schedule.alpha_bar
    assert bool((a.diff() < 0).all())
    assert 0 < float(a[-1]) < float(a[0]) < 1
    assert float(ConditionalDDPM(2, 3).schedule.betas[-1]) == pytest.approx(0.02)


def test_loss_on_some_points_is_unbiased():
    torch.manual_seed(0)
    few, all_ = (ConditionalDDPM(2, 3, width=16, steps=20, loss_points=k) for k in (4, None))
    few.load_state_dict(all_.state_dict())
    x, z = torch.randn(8, 32, 2), torch.randn(8, 3)
    with torch.no_grad():
        a, b = (torch.stack([m.loss(x, z, generator(s)) for s in range(200)]) for m in (few, all_))
    assert abs(float(a.mean() - b.mean())) < 4 * float((a.var() / 200 + b.var() / 200).sqrt())


def test_images_are_generated_through_a_network_of_images():
    model = ConditionalDDPM(
        1, 4, steps=4, beta_end=0.5, shape=(1, 8, 8), network=CodeAsChannels(UNet(3, 8, 8, (1, 2), 1), 4, 2)
    )
    x = torch.randn(2, 3, 1, 8, 8)
    assert model.loss(x, torch.zeros(2, 4), generator(0)).ndim == 0
    assert model.sample(torch.zeros(2, 4), 3, generator(0)).shape == x.shape


def test_sampling_is_repeatable():
    model = ConditionalDDPM(2, 3, width=16, steps=10)
    a, b = (model.sample(torch.zeros(2, 3), 5, generator(100)) for _ in range(2))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_bad_input_is_refused():
    model = ConditionalDDPM(2, 3)
    with pytest.raises(ValueError, match=r"points must have shape \(4, m, 2\) for 4 codes, got \(4, 5, 3\)"):
        model.loss(torch.zeros(4, 5, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"codes must have shape \(batch, 3\), got \(4, 2\)"):
        model.sample(torch.zeros(4, 2), 5)
    with pytest.raises(ValueError, match="n must be in"):
        model.sample(torch.zeros(4, 3), 0)
    with pytest.raises(ValueError, match="sampler_steps must be in"):
        ConditionalDDPM(2, 3, steps=10, sampler_steps=11)
