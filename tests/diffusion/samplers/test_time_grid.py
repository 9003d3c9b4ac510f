"""Times of samplers: what they start and end with, and what is refused."""

from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.edm import VEPath
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath
from holdfast.diffusion.samplers import TimeGrid, prior, time_grid


@pytest.mark.parametrize("path", [LinearPath(), CosinePath(), VPPath(), VEPath()])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_a_continuous_grid_runs_from_noise_to_data_and_needs_no_jump(path, spacing):
    grid = time_grid(path, 10, spacing=spacing)
    assert (grid.t[0], grid.t[-1], grid.steps, grid.clean) == (path.t_max, path.t_min, 10, False)
    assert grid.sigma[-1] == 0
    assert not any(grid.jumps(i) for i in range(10))


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 99, 100])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "leading", "trailing"])
def test_a_discrete_grid_has_whole_falling_times_and_jumps_to_clean_data(steps, spacing):
    grid = time_grid(DDPMSchedule(100), steps, spacing=spacing)
    assert grid.steps == len(grid.times) == steps
    assert bool((grid.times == grid.times.round()).all())
    assert bool((grid.times.diff() < 0).all())
    assert (grid.alpha[-1], grid.sigma[-1]) == (1.0, 0.0)
    assert [grid.jumps(i) for i in range(steps)] == [False] * (steps - 1) + [True]
    if spacing in ("uniform", "trailing", "quadratic"):
        assert grid.t[0] == 99
    if spacing == "leading" or (spacing != "trailing" and steps > 1):
        assert grid.times[-1] == 0


def test_all_levels_are_the_same_under_every_spacing():
    for spacing in ("uniform", "quadratic", "leading", "trailing"):
        assert time_grid(DDPMSchedule(20), 20, spacing=spacing).times.tolist() == list(range(19, -1, -1))


def test_prior_has_the_scale_of_the_last_level():
    x = prior(VEPath(10.0), (20_000, 2), generator(100))
    assert float(x.std()) == pytest.approx(10.0, rel=0.03)
    assert float(prior(LinearPath(), (20_000, 2), generator(100)).std()) == pytest.approx(1.0, rel=0.03)


def test_bad_grids_are_refused():
    path = DDPMSchedule(10)
    with pytest.raises(ValueError, match="at most 10 steps, got 11"):
        time_grid(path, 11)
    with pytest.raises(ValueError, match="at most 9 steps, got 10"):
        time_grid(path, 10, end=0)
    with pytest.raises(ValueError, match="steps must be in"):
        time_grid(path, 0)
    with pytest.raises(TypeError, match="steps must be an integer"):
        time_grid(path, 2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="spacing must be one of"):
        time_grid(path, 5, spacing="karras")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="discrete"):
        time_grid(LinearPath(), 5, spacing="leading")
    with pytest.raises(ValueError, match="start must be later than end"):
        time_grid(LinearPath(), 5, start=0.2, end=0.4)
    with pytest.raises(ValueError, match="start must be in"):
        time_grid(LinearPath(), 5, start=1.2)
    with pytest.raises(ValueError, match="must fall"):
        TimeGrid(path, torch.tensor([0.0, 5.0]))
    with pytest.raises(ValueError, match="t must lie in"):
        TimeGrid(path, torch.tensor([12.0, 5.0]))
    with pytest.raises(ValueError, match="at least one step"):
        TimeGrid(path, torch.tensor([5.0]))
