"""Ancestral and implicit sampling: posteriors, laws, inversion, and agreement with diffusers' schedulers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.edm import VEPath
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.oracles.gaussian import GaussianOracle
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath
from holdfast.diffusion.samplers import ddim, ddim_invert, ddpm, heun, prior, time_grid
from holdfast.diffusion.samplers.ancestral import reverse_step
from tests.diffusion.samplers.laws import flow, moment_error, oracle

PATHS = [LinearPath(), CosinePath(), VPPath(), DDPMSchedule(1000), VEPath(5.0)]
ids = [type(p).__name__ for p in PATHS]


class Net(nn.Module):
    """A fixed nonlinear map of images and times, with as many output channels as asked."""

    def __init__(self, out: int = 1) -> None:
        super().__init__()
        with isolated_rng(100):
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.head = nn.Conv2d(8, out, 3, padding=1)

    def forward(self, x, t, y=None, *, taps=(), stop_at=None):
        return self.head(torch.tanh(self.conv(x) + 0.01 * t.view(-1, 1, 1, 1)))


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_a_reverse_step_is_the_posterior_and_keeps_marginals(path):
    grid = time_grid(path, 12)
    for i in range(11):
        t, s = (torch.tensor([grid.t[j]], dtype=torch.float64) for j in (i, i + 1))
        q = path.posterior(t, s)
        expected = [float(q.data), float(q.state), float(q.std)]
        assert reverse_step(grid, i) == pytest.approx(tuple(expected), abs=1e-9)
        for eta in (0.0, 0.3, 1.0):
            a, b, c = reverse_step(grid, i, eta)
            assert a + b * grid.alpha[i] == pytest.approx(grid.alpha[i + 1], abs=1e-12)
            assert (b * grid.sigma[i]) ** 2 + c**2 == pytest.approx(grid.sigma[i + 1] ** 2, abs=1e-12)
    a, b, c = reverse_step(grid, 11)
    assert (a, b, c) == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_ddim_follows_the_ode_with_order_one(path):
    x = prior(path, (50, 2), generator(100), dtype=torch.float64)
    errors = [float((ddim(oracle(path), x, steps=n).x - flow(path, x)).norm()) for n in (100, 200, 400)]
    assert errors[-1] < 0.15
    for coarse, fine in pairwise(errors):
        assert 1.6 < coarse / fine < 2.6


@pytest.mark.parametrize("path", [LinearPath(), VPPath(), DDPMSchedule(1000)], ids=["linear", "vp", "ddpm"])
@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_ancestral_sampling_reaches_the_gaussian(path, variance):
    x = torch.randn(5000, 2, generator=generator(101), dtype=torch.float64)
    out = ddpm(oracle(path), x, steps=200, generator=generator(102), variance=variance)
    assert moment_error(out.x.mean(0), out.x.T.cov()) <= 5e-2
    assert out.calls == 200


def test_ddim_with_all_the_noise_is_ddpm():
    x = torch.randn(20, 2, generator=generator(103), dtype=torch.float64)
    path = DDPMSchedule(100)
    a = ddpm(oracle(path), x, steps=30, generator=generator(104))
    b = ddim(oracle(path), x, steps=30, eta=1.0, generator=generator(104))
    torch.testing.assert_close(a.x, b.x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", [LinearPath(), VPPath(), DDPMSchedule(1000)], ids=["linear", "vp", "ddpm"])
def test_inversion_finds_the_noise_with_an_error_of_one_over_steps(path):
    x = oracle(path).sample(30, generator(105))
    errors = []
    for n in (100, 200, 400):
        grid = time_grid(path, n, end=None if path.discrete else 1e-3)
        noise = ddim_invert(oracle(path), x, steps=grid).x
        errors.append(float((ddim(oracle(path), noise, steps=grid).x - x).norm()))
    for coarse, fine in pairwise(errors):
        assert 1.6 < coarse / fine < 2.6
    exact = flow(path, noise)
    assert float((exact - x).abs().max()) < 0.1


def test_clipping_bounds_the_predicted_data():
    model = GaussianOracle(torch.full((2,), 3.0), 0.01, DDPMSchedule(1000))
    x = torch.randn(5, 2, generator=generator(106))
    assert float(ddim(model, x, steps=50, clip=1.0).x.max()) == 1.0
    assert float(ddpm(model, x, steps=50, clip=1.0, generator=generator(107)).x.max()) == 1.0
    assert float(ddim(model, x, steps=50).x.min()) > 2.5


def test_learned_variance_interpolates_between_the_two():
    """With the network's further channels at -1 and +1 it is the smaller and the larger of the fixed variances."""
    path, x = DDPMSchedule(30), torch.randn(3, 1, 4, 4, generator=generator(108))
    one, two = Net(), Net(2)
    two.conv.load_state_dict(one.conv.state_dict())
    nn.init.zeros_(two.head.weight)
    with torch.no_grad():
        two.head.weight[:1] = one.head.weight
        for value, kind in ((-1.0, "posterior"), (1.0, "forward")):
            two.head.bias[0], two.head.bias[1] = one.head.bias[0], value
            fixed = ddpm(Denoiser(one, path, "noise"), x, steps=30, generator=generator(109), variance=kind)
            learned = ddpm(Denoiser(two, path, "noise"), x, steps=30, generator=generator(109), variance="learned")
            torch.testing.assert_close(learned.x, fixed.x, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="needs a network with 2 output channels, got 1"):
        ddpm(Denoiser(one, path, "noise"), x, steps=30, generator=generator(109), variance="learned")
    with pytest.raises(TypeError, match="needs a Denoiser"):
        ddpm(oracle(path), torch.zeros(2, 2), steps=5, generator=generator(109), variance="learned")


@pytest.mark.parametrize(("steps", "spacing"), [(200, "leading"), (25, "leading"), (25, "trailing")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddpm_and_ddim_agree_with_diffusers(steps, spacing, clip):
    diffusers = pytest.importorskip("diffusers")
    net, path = Net(), DDPMSchedule(1000)
    model = Denoiser(net, path, "noise")
    x = torch.randn(2, 1, 4, 4, generator=generator(110))
    shared = {"timestep_spacing": spacing, "clip_sample": clip is not None}

    scheduler = diffusers.DDPMScheduler(variance_type="fixed_small", **shared)
    rng, sample = generator(111), x
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = net(sample, t.float().expand(2))
            sample = scheduler.step(noise, t, sample, generator=rng).prev_sample
    grid = time_grid(path, steps, spacing=spacing)
    ours = ddpm(model, x, steps=grid, generator=generator(111), clip=clip).x
    torch.testing.assert_close(ours, sample, atol=2e-4, rtol=2e-4)

    scheduler = diffusers.DDIMScheduler(**shared)
    sample = x
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = net(sample, t.float().expand(2))
            sample = scheduler.step(noise, t, sample, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ddim(model, x, steps=grid, clip=clip).x, sample, atol=2e-4, rtol=2e-4)


def test_heun_in_many_steps_and_ddim_in_many_steps_agree():
    path = CosinePath()
    x = torch.randn(10, 2, generator=generator(112), dtype=torch.float64)
    torch.testing.assert_close(
        ddim(oracle(path), x, steps=2000).x, heun(oracle(path), x, steps=400).x, atol=2e-3, rtol=0
    )


def test_bad_arguments():
    x = torch.randn(4, 2, generator=generator(113))
    model = oracle(DDPMSchedule(10))
    with pytest.raises(ValueError, match="eta must be in"):
        ddim(model, x, steps=5, eta=1.5)
    with pytest.raises(ValueError, match="pass a generator"):
        ddim(model, x, steps=5, eta=0.5)
    with pytest.raises(ValueError, match="clip must be in"):
        ddim(model, x, steps=5, clip=0.0)
    with pytest.raises(ValueError, match="variance must be one of"):
        ddpm(model, x, steps=5, generator=generator(0), variance="small")  # pyright: ignore
    with pytest.raises(ValueError, match="at most 10 steps"):
        ddpm(model, x, steps=11, generator=generator(0))
    with pytest.raises(TypeError, match="x must be a batch of real noise"):
        ddim(model, torch.zeros(4, 2, dtype=torch.long), steps=5)
    with pytest.raises(TypeError, match="x must be a batch of real noise"):
        ddim(model, torch.zeros(4), steps=5)
    with pytest.raises(ValueError, match="guidance needs the labels"):
        ddim(model, x, steps=5, guidance=Guidance(2.0))
    with pytest.raises(ValueError, match="one label per sample"):
        ddim(model, x, steps=5, y=torch.zeros(3, dtype=torch.long))
