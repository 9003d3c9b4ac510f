"""Euler and Heun on exact velocities: the law they reach, and how fast."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.oracles.gaussian import GaussianMixtureOracle
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath
from holdfast.diffusion.samplers import TimeGrid, euler, heun, time_grid
from tests.diffusion.samplers.laws import flow, moment_error, moments_of_affine, oracle

PATHS = [LinearPath(), CosinePath(), VPPath()]
ids = [type(p).__name__ for p in PATHS]


@pytest.mark.parametrize("path", PATHS[:2], ids=ids[:2])
@pytest.mark.parametrize("sampler", [euler, heun])
def test_two_hundred_steps_map_noise_to_the_gaussian(sampler, path):
    mean, covariance = moments_of_affine(lambda x: sampler(oracle(path), x, steps=200).x)
    assert moment_error(mean, covariance) <= 2e-2


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_error_falls_with_the_order_of_the_method(sampler, order, path):
    x = torch.randn(50, 2, generator=generator(100), dtype=torch.float64)
    # Away from the data: there the velocity of the VP path has no bounded derivative in time.
    end, errors = 0.02, []
    exact = flow(path, x, end)
    for steps in (80, 160, 320):
        found = sampler(oracle(path), x, steps=time_grid(path, steps, end=end)).x
        errors.append(float((found - exact).norm()))
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.2)


@pytest.mark.parametrize("path", PATHS[:2], ids=ids[:2])
@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_the_last_step_to_the_data_keeps_the_order(sampler, order, path):
    x = torch.randn(50, 2, generator=generator(101), dtype=torch.float64)
    errors = [float((sampler(oracle(path), x, steps=n).x - flow(path, x)).norm()) for n in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.2)


def test_calls_are_one_or_two_a_step_and_none_is_spent_at_the_data():
    x = torch.randn(3, 2, generator=generator(102))
    assert euler(oracle(LinearPath()), x, steps=7).calls == 7
    assert heun(oracle(LinearPath()), x, steps=7).calls == 13


def test_a_discrete_schedule_ends_with_the_predicted_data():
    path = DDPMSchedule(1000)
    x = torch.randn(50, 2, generator=generator(103), dtype=torch.float64)
    for sampler, calls in ((euler, 500), (heun, 999)):
        out = sampler(oracle(path), x, steps=500)
        assert float((out.x - flow(path, x)).abs().max()) < 2e-2
        assert out.calls == calls


def test_a_mixture_gets_its_shares():
    mixture = GaussianMixtureOracle(
        torch.tensor([[-2.0], [2.0]]), 0.04, LinearPath(), weights=torch.tensor([0.25, 0.75])
    )
    n = 4000
    x = torch.randn(n, 1, generator=generator(104))
    found = euler(mixture, x, steps=200).x
    share = float((found > 0).float().mean())
    assert share == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / n) ** 0.5 + 0.01)
    assert float(found[found > 0].std()) == pytest.approx(0.2, abs=0.02)


def test_a_stretch_of_the_path_starts_and_ends_where_it_is_told():
    path = LinearPath()
    seen = []
    x = torch.randn(3, 2, generator=generator(105), dtype=torch.float64)
    grid = time_grid(path, 4, start=0.8, end=0.2)
    euler(oracle(path), x, steps=grid, callback=lambda i, t, x: seen.append((i, round(t, 6))))
    assert seen == [(1, 0.65), (2, 0.5), (3, 0.35), (4, 0.2)]
    whole = euler(oracle(path), x, steps=time_grid(path, 8)).x
    half = TimeGrid(path, torch.tensor([1.0, 0.875, 0.75, 0.625, 0.5]))
    rest = TimeGrid(path, torch.tensor([0.5, 0.375, 0.25, 0.125, 0.0]))
    parts = euler(oracle(path), euler(oracle(path), x, steps=half).x, steps=rest).x
    torch.testing.assert_close(parts, whole)
