"""Preconditioning keeps variances at one; the EDM sampler reaches known laws on any path."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.edm import EDMPreconditioner, EDMWeight, LogNormalSigma, VEPath
from holdfast.diffusion.objective import train_diffusion
from holdfast.diffusion.oracles.gaussian import GaussianOracle
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath
from holdfast.diffusion.samplers import edm_heun, karras_sigmas, prior
from holdfast.diffusion.samplers.karras import time_of_sigma
from tests.diffusion.samplers.laws import flow, moment_error, oracle

SIGMAS = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0], dtype=torch.float64)


class Keep(nn.Module):
    """Returns zero, and keeps what it was given."""

    depth, class_dropout, null_class = 3, 0.1, 7

    def forward(self, x, t, y=None, **asked):
        self.seen, self.level, self.asked = x, t, asked
        return torch.zeros_like(x)


def test_network_inputs_have_unit_variance_at_every_level():
    net, n = Keep(), 200_000
    x0 = 0.5 * torch.randn(n, 1, generator=generator(100), dtype=torch.float64)
    eps = torch.randn(n, 1, generator=generator(101), dtype=torch.float64)
    for sigma in SIGMAS:
        t = sigma.expand(n)
        EDMPreconditioner(net)(VEPath().noise(x0, eps, t), t)
        assert float(net.seen.var()) == pytest.approx(1.0, rel=0.02)


def test_targets_have_unit_variance_and_equal_weight():
    """The network's target (x0 - c_skip x) / c_out has variance one, and weight times c_out squared is one."""
    n = 200_000
    x0 = 0.5 * torch.randn(n, 1, generator=generator(102), dtype=torch.float64)
    eps = torch.randn(n, 1, generator=generator(103), dtype=torch.float64)
    skip, out, _, level = EDMPreconditioner(Keep()).scalings(SIGMAS)
    torch.testing.assert_close(level, SIGMAS.log() / 4)
    torch.testing.assert_close(EDMWeight()(SIGMAS) * out.square(), torch.ones_like(SIGMAS))
    for i, sigma in enumerate(SIGMAS):
        target = (x0 - skip[i] * (x0 + sigma * eps)) / out[i]
        assert float(target.var()) == pytest.approx(1.0, rel=0.02)


def test_a_silent_network_gives_the_best_linear_guess_for_centred_gaussian_data():
    """c_skip x is the exact posterior mean for N(0, sigma_d^2): the skip connection is the Gaussian oracle."""
    model = EDMPreconditioner(Keep(), sigma_data=0.7)
    exact = GaussianOracle(torch.zeros(2, dtype=torch.float64), 0.49, VEPath())
    x = torch.randn(5, 2, generator=generator(104), dtype=torch.float64)
    torch.testing.assert_close(model(x, SIGMAS).pred, exact.predict(x, SIGMAS, target="data"))


def test_without_noise_the_prediction_is_the_input():
    x = torch.randn(3, 2, generator=generator(105))
    torch.testing.assert_close(EDMPreconditioner(Keep())(x, torch.zeros(3)).pred, x)


def test_taps_pass_through_and_an_early_exit_has_no_prediction():
    net = DiT(1, 4, patch=2, width=8, depth=2, heads=1)
    model = EDMPreconditioner(net)
    x, t = torch.randn(2, 1, 4, 4, generator=generator(106)), torch.tensor([0.5, 2.0])
    full = model(x, t, taps=(1,))
    early = model(x, t, taps=(1,), stop_at=1)
    assert early.pred is None
    assert torch.equal(early.taps[1], full.taps[1])
    wrapped = EDMPreconditioner(Keep())
    assert (wrapped.depth, wrapped.class_dropout, wrapped.null_class) == (3, 0.1, 7)


def test_training_levels_are_log_normal_and_cut():
    sigma = LogNormalSigma(largest=1.0)(50_000, generator(107))
    assert float(sigma.max()) == 1.0
    assert float((sigma < torch.tensor(-1.2).exp()).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_it_trains_and_samples():
    """Two points: a trained network sends every sample near one of them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

        def forward(self, x, t):
            return self.body(torch.cat([x, t[:, None]], 1))

    torch.manual_seed(100)
    data = torch.tensor([-0.5, 0.5]).repeat(128)[:, None]
    path = VEPath(20.0)
    model = Denoiser(EDMPreconditioner(Net()), path, "data")
    train_diffusion(
        model,
        data,
        steps=400,
        batch_size=128,
        lr=5e-3,
        ema=0.99,
        time_sampling=LogNormalSigma(largest=20.0),
        weighting=EDMWeight(),
        device="cpu",
        seed=100,
    )
    found = edm_heun(model, prior(path, (400, 1), generator(108)), steps=12).x
    assert float((found.abs() - 0.5).abs().mean()) < 0.1
    assert 0.35 < float((found > 0).float().mean()) < 0.65


PATHS = [VEPath(), LinearPath(), CosinePath(), VPPath(), DDPMSchedule(1000)]
ids = [type(p).__name__ for p in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_times_of_noise_levels_invert_the_path(path):
    sigma = karras_sigmas(20, 0.011, 50.0)
    c = path.coefficients(time_of_sigma(path, sigma))
    torch.testing.assert_close(c.sigma / c.alpha, sigma, rtol=1e-9, atol=0)


def test_levels_run_from_highest_to_lowest():
    sigma = karras_sigmas(18, 0.002, 80.0)
    assert (float(sigma[0]), float(sigma[-1])) == (pytest.approx(80.0), pytest.approx(0.002))
    assert bool((sigma.diff() < 0).all())
    assert karras_sigmas(3, 1.0, 9.0, rho=2.0).tolist() == pytest.approx([9.0, 4.0, 1.0])


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_second_order_towards_the_exact_flow(path):
    x = prior(path, (50, 2), generator(109), dtype=torch.float64)
    # Where the sampler starts on the path: its largest finite ratio of noise to signal.
    c = path.coefficients(torch.tensor([path.t_max], dtype=torch.float64))
    top = min(80.0, float(c.sigma / c.alpha))
    start = float(time_of_sigma(path, torch.tensor([top], dtype=torch.float64)))
    exact = flow(path, x, start=start)
    errors = [float((edm_heun(oracle(path), x, steps=n, sigma_max=top).x - exact).norm()) for n in (20, 40, 80)]
    assert errors[-1] < 0.05
    for coarse, fine in pairwise(errors):
        assert 3.2 < coarse / fine < 5.0


def test_churn_keeps_the_law():
    path = VEPath()
    x = prior(path, (5000, 2), generator(110), dtype=torch.float64)
    out = edm_heun(oracle(path), x, steps=60, churn=30.0, generator=generator(111))
    assert moment_error(out.x.mean(0), out.x.T.cov()) <= 5e-2
    assert out.calls == 119
    calm = edm_heun(oracle(path), x, steps=60, churn=30.0, churn_range=(0.01, 0.01), generator=generator(111))
    assert torch.equal(calm.x, edm_heun(oracle(path), x, steps=60).x)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_agrees_with_the_heun_scheduler_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    path = DDPMSchedule(1000)
    scheduler = diffusers.HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    scheduler.set_timesteps(30)
    x = torch.randn(5, 2, generator=generator(113), dtype=torch.float64)
    model = oracle(path)
    state, top = x * scheduler.init_noise_sigma, float(scheduler.sigmas[0])
    bottom = float(scheduler.sigmas[-2])
    for t, level in zip(scheduler.timesteps, scheduler.sigmas):
        seen = scheduler.scale_model_input(state, t)
        asked = time_of_sigma(path, level[None].double().clamp(bottom, top)).expand(5)
        state = scheduler.step(model.predict(seen, asked, target="noise"), t, state).prev_sample
    c = path.coefficients(time_of_sigma(path, torch.tensor([top], dtype=torch.float64)))
    ours = edm_heun(model, x * scheduler.init_noise_sigma * c.alpha, steps=30, sigma_min=bottom, sigma_max=top)
    torch.testing.assert_close(ours.x, state.double(), atol=2e-4, rtol=2e-4)
    assert ours.calls == len(scheduler.timesteps)


def test_bad_arguments():
    x = torch.randn(4, 2, generator=generator(114))
    with pytest.raises(ValueError, match="pass a generator"):
        edm_heun(oracle(VEPath()), x, steps=5, churn=1.0)
    with pytest.raises(ValueError, match="churn must be in"):
        edm_heun(oracle(VEPath()), x, steps=5, churn=-1.0)
    with pytest.raises(ValueError, match="noise over signal"):
        edm_heun(oracle(DDPMSchedule(100)), x, steps=5, sigma_max=500.0)
    with pytest.raises(ValueError, match="sigma_max must be in"):
        karras_sigmas(5, 1.0, 0.5)
    with pytest.raises(ValueError, match="sigma_data must be in"):
        EDMPreconditioner(Keep(), sigma_data=0.0)
    with pytest.raises(ValueError, match="std must be in"):
        LogNormalSigma(std=0.0)
    with pytest.raises(ValueError, match="sigma_max must be in"):
        VEPath(-1.0)
    with pytest.raises(ValueError, match="t must lie in"):
        oracle(VEPath(10.0)).predict(x, 11.0)
