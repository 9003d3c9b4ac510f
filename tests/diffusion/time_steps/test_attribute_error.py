"""When an attribute is lost: the closed form, its time, and what an exact denoiser measures."""

import math

import pytest
import torch

from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.oracles.empirical import EmpiricalDenoiser
from holdfast.diffusion.time_steps.attribute_error import attribute_error, attribute_error_mc, loss_time

SCHEDULE = DDPMSchedule(1000)
ABAR = SCHEDULE.alpha_bar


def test_equal_twins_are_confused_half_of_the_time_and_clean_ones_never():
    assert torch.equal(attribute_error(0.0, ABAR), torch.full_like(ABAR, 0.5))
    assert float(attribute_error(3.0, 1.0)) == 0
    assert float(attribute_error(3.0, 0.0)) == 0.5


def test_error_rises_with_time_and_falls_with_the_size_of_the_edit():
    assert bool((attribute_error(5.0, ABAR).diff() >= 0).all())
    assert bool((attribute_error(torch.linspace(0, 30, 50), 0.1).diff() < 0).all())


def test_error_is_the_normal_tail():
    signal = torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    argument = -signal.sqrt() * 1.7 / (2 * (1 - signal).sqrt())
    torch.testing.assert_close(attribute_error(1.7, signal), torch.special.ndtr(argument), atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [0.5, 2.3, 16.6])
@pytest.mark.parametrize("tau", [0.05, 0.25, 0.45])
def test_loss_time_inverts_the_formula(norm, tau):
    t = loss_time(norm, SCHEDULE, tau)
    assert float(attribute_error(norm, ABAR[t])) >= tau > float(attribute_error(norm, ABAR[t - 1]))
    bound = (2 * math.sqrt(2) * float(torch.special.erfinv(torch.tensor(1 - 2 * tau, dtype=torch.float64))) / norm) ** 2
    snr = ABAR / (1 - ABAR)
    assert t == int((snr > bound).sum())


def test_larger_edits_are_lost_later_and_never_is_the_number_of_steps():
    assert loss_time(1.0, SCHEDULE) < loss_time(4.0, SCHEDULE) < loss_time([4.0, 40.0], SCHEDULE)
    assert loss_time(1e6, SCHEDULE, 0.49) == SCHEDULE.steps
    assert loss_time(3.0, SCHEDULE, 0.0) == 0


def test_exact_denoiser_of_two_points_measures_the_formula():
    x, y = torch.zeros(1, 16), torch.full((1, 16), 1.0)
    oracle = EmpiricalDenoiser(torch.cat([x, y]), SCHEDULE)
    rng = torch.Generator().manual_seed(0)
    n = 20_000
    for t in (100, 400, 600):
        p = float(attribute_error(4.0, ABAR[t]))
        measured = float(attribute_error_mc(oracle, x, y, t, n, generator=rng))
        assert abs(measured - p) <= 4 * math.sqrt(p * (1 - p) / (2 * n)) + 1e-4


def test_bad_sizes_signals_and_times_are_refused():
    with pytest.raises(ValueError, match="cannot be negative; got -1"):
        attribute_error(-1.0, 0.5)
    with pytest.raises(ValueError, match=r"abar must lie in \[0, 1\]"):
        attribute_error(1.0, 1.5)
    with pytest.raises(ValueError, match="tau"):
        loss_time(1.0, SCHEDULE, 0.5)
    with pytest.raises(ValueError, match="holds no norm"):
        loss_time([], SCHEDULE)
    oracle = EmpiricalDenoiser(torch.zeros(1, 2), SCHEDULE)
    with pytest.raises(ValueError, match="one shape"):
        attribute_error_mc(oracle, torch.zeros(1, 2), torch.zeros(2, 2), 3, 10)
    with pytest.raises(ValueError, match="1000"):
        attribute_error_mc(oracle, torch.zeros(1, 2), torch.zeros(1, 2), 1000, 10)
