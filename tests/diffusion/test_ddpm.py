"""Noise levels in whole steps."""

import pytest
import torch

from holdfast.diffusion import DDPMSchedule

F64 = torch.float64


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_cumulative_signal_is_the_product_of_the_steps_and_falls(kind):
    s = DDPMSchedule(200, kind)
    torch.testing.assert_close(s.alpha_bar, s.alphas.cumprod(0), atol=1e-12, rtol=1e-10)
    assert bool((s.alpha_bar.diff() < 0).all())
    assert bool(((s.alpha_bar > 0) & (s.alpha_bar < 1)).all())
    assert float(s.alpha_bar_previous[0]) == 1
    torch.testing.assert_close(s.alpha_bar_previous * s.alphas, s.alpha_bar)


def test_at_whole_times_coefficients_are_the_table_and_between_them_they_are_smooth():
    s, t = DDPMSchedule(100), torch.arange(100, dtype=F64)
    c = s.coefficients(t)
    torch.testing.assert_close(c.alpha.square(), s.alpha_bar)
    torch.testing.assert_close(c.sigma.square(), 1 - s.alpha_bar)
    inner = torch.tensor([10.5, 40.25], dtype=F64).requires_grad_()
    (grad,) = torch.autograd.grad(s.coefficients(inner).alpha.sum(), inner)
    torch.testing.assert_close(s.coefficients(inner).dalpha, grad)


def test_one_step_back_has_the_published_posterior():
    s = DDPMSchedule(1000)
    t = torch.arange(1, 1000, dtype=F64)
    p = s.posterior(t, t - 1)
    beta, alpha, abar, before = (v[1:] for v in (s.betas, s.alphas, s.alpha_bar, s.alpha_bar_previous))
    torch.testing.assert_close(p.data, before.sqrt() * beta / (1 - abar), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(p.state, alpha.sqrt() * (1 - before) / (1 - abar), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(p.std.square(), beta * (1 - before) / (1 - abar), atol=1e-9, rtol=1e-6)


def test_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for ours, theirs in (("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")):
        peer = diffusers.DDPMScheduler(1000, beta_schedule=theirs).alphas_cumprod.double()
        torch.testing.assert_close(DDPMSchedule(1000, ours).alpha_bar, peer, atol=1e-5, rtol=1e-4)


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="steps"):
        DDPMSchedule(1)
    with pytest.raises(ValueError, match="'liner'"):
        DDPMSchedule(10, "liner")
    with pytest.raises(ValueError, match="beta_end"):
        DDPMSchedule(10, beta_start=0.1, beta_end=0.01)
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"\[0, 9\], got 10"):
        DDPMSchedule(10).noise(x, x, torch.tensor([10.0]))
