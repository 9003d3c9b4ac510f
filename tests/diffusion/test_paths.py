"""Paths from data to noise and what their predictions say of each other."""

import math

import pytest
import torch

from holdfast.diffusion import CosinePath, DDPMSchedule, LinearPath, VPPath
from holdfast.diffusion.paths import PREDICTIONS

F64 = torch.float64
PATHS = [LinearPath(), CosinePath(), VPPath(), VPPath(0.5, 8.0)]
INNER = torch.linspace(0.05, 0.95, 19, dtype=F64)


@pytest.mark.parametrize("path", PATHS[:2])
def test_a_path_runs_from_data_to_noise(path):
    c = path.coefficients(torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(c.alpha, torch.tensor([1.0, 0.0], dtype=F64), atol=1e-6, rtol=0)
    torch.testing.assert_close(c.sigma, torch.tensor([0.0, 1.0], dtype=F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_are_those_of_autograd(path):
    for k, dk in (("alpha", "dalpha"), ("sigma", "dsigma")):
        t = INNER.clone().requires_grad_()
        (grad,) = torch.autograd.grad(getattr(path.coefficients(t), k).sum(), t)
        torch.testing.assert_close(getattr(path.coefficients(INNER), dk), grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("path", [*PATHS[1:], DDPMSchedule(1000)])
def test_variance_is_preserved(path):
    t = path.t_min + (path.t_max - path.t_min) * INNER
    c = path.coefficients(t)
    torch.testing.assert_close(c.alpha.square() + c.sigma.square(), torch.ones_like(t), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", [*PATHS, DDPMSchedule(1000), DDPMSchedule(50, "cosine")])
def test_signal_falls_with_time(path):
    t = path.t_min + (path.t_max - path.t_min) * INNER
    assert bool((path.snr(t).diff() < 0).all())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_every_prediction_turns_into_every_other_and_back(path, source, target):
    rng = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(19, 3, generator=rng, dtype=F64) for _ in range(2))
    x = path.noise(x0, eps, INNER)
    truth = {
        "velocity": path.velocity(x0, eps, INNER),
        "noise": eps,
        "data": x0,
        "score": -eps / path.coefficients(INNER).sigma[:, None],
    }
    there = path.convert(truth[source], x, INNER, source, target)
    torch.testing.assert_close(there, truth[target], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(path.convert(there, x, INNER, target, source), truth[source], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_velocity_is_the_derivative_of_the_noised_sample(path):
    x0, eps, t = torch.tensor([[2.0]], dtype=F64), torch.tensor([[-1.0]], dtype=F64), torch.tensor([0.4], dtype=F64)
    h = 1e-6
    slope = (path.noise(x0, eps, t + h) - path.noise(x0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(x0, eps, t), slope, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_posterior_of_an_earlier_time_composes_to_the_marginal(path):
    t, s = torch.tensor([0.8], dtype=F64), torch.tensor([0.3], dtype=F64)
    p, at, as_ = path.posterior(t, s), path.coefficients(t), path.coefficients(s)
    torch.testing.assert_close(p.data + p.state * at.alpha, as_.alpha)
    torch.testing.assert_close((p.state * at.sigma).square() + p.std.square(), as_.sigma.square())


def test_times_of_parts_of_a_sample_may_differ():
    path, x0 = LinearPath(), torch.ones(2, 1, 2, 2)
    t = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(2, 1, 2, 2)
    out = path.noise(x0, torch.zeros_like(x0), t)
    assert out[..., 0].eq(1).all()
    assert out[..., 1].eq(0).all()


def test_bad_times_and_names_are_refused():
    path, x = LinearPath(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\], got 1.5"):
        path.noise(x, x, torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="nan"):
        path.noise(x, x, torch.tensor([0.5, math.nan]))
    with pytest.raises(ValueError, match=r"target.*'nois'|'nois'"):
        path.convert(x, x, torch.tensor([0.5, 0.5]), "data", "nois")
    with pytest.raises(ValueError, match="beta_max"):
        VPPath(2.0, 1.0)
