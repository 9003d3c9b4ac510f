from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from holdfast.core.random import generator
from holdfast.nn.gaussian import DiagonalGaussian, gaussian_kl

RNG = generator(100)
MU_Q, LV_Q, MU_P, LV_P = (torch.randn(7, 4, generator=RNG, dtype=torch.float64) for _ in range(4))


def test_divergence_of_equal_laws_is_zero():
    assert bool((gaussian_kl(MU_Q, LV_Q, MU_Q, LV_Q).abs() < 1e-12).all())


def test_divergence_is_that_of_torch_distributions():
    expected = kl_divergence(Normal(MU_Q, (LV_Q / 2).exp()), Normal(MU_P, (LV_P / 2).exp()))
    torch.testing.assert_close(gaussian_kl(MU_Q, LV_Q, MU_P, LV_P, "none"), expected, atol=1e-6, rtol=0)


def test_without_a_second_law_it_is_the_standard_normal():
    zero = torch.zeros_like(MU_Q)
    torch.testing.assert_close(gaussian_kl(MU_Q, LV_Q), gaussian_kl(MU_Q, LV_Q, zero, zero))


def test_divergence_adds_over_coordinates():
    parts = gaussian_kl(MU_Q[:, :1], LV_Q[:, :1], MU_P[:, :1], LV_P[:, :1]) + gaussian_kl(
        MU_Q[:, 1:], LV_Q[:, 1:], MU_P[:, 1:], LV_P[:, 1:]
    )
    torch.testing.assert_close(gaussian_kl(MU_Q, LV_Q, MU_P, LV_P), parts)
    torch.testing.assert_close(4 * gaussian_kl(MU_Q, LV_Q, MU_P, LV_P, "mean"), parts)


def test_draws_have_the_moments_of_the_law():
    q = DiagonalGaussian(MU_Q, LV_Q)
    z = q.sample(generator(101), 20_000)
    assert bool(((z.mean(0) - MU_Q).abs() < 4.5 * q.std / 20_000**0.5).all())
    assert bool(((z.var(0) / LV_Q.exp() - 1).abs() < 4.5 * (2 / 20_000) ** 0.5).all())


def test_half_a_second_law_and_other_lengths_are_refused():
    with pytest.raises(ValueError, match="belong together"):
        gaussian_kl(MU_Q, LV_Q, MU_P)
    with pytest.raises(ValueError, match="lv_p must have 4 coordinates"):
        gaussian_kl(MU_Q, LV_Q, MU_P, LV_P[:, :1])
    with pytest.raises(ValueError, match="reduce"):
        gaussian_kl(MU_Q, LV_Q, reduce="batch")
