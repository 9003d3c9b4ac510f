"""Euler-Maruyama reaches the same law whatever the diffusion coefficient."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath
from holdfast.diffusion.samplers import TimeGrid, euler, euler_maruyama
from tests.diffusion.samplers.laws import moment_error, oracle

RATES = {
    "2t": "2t",
    "sigma": "sigma",
    "none": lambda t: 0.0,
    "constant": lambda t: 0.5,
    "bump": lambda t: 3 * math.sin(math.pi * t) ** 2,
}


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=["linear", "cosine"])
@pytest.mark.parametrize("w", RATES.values(), ids=RATES.keys())
def test_any_diffusion_coefficient_gives_the_gaussian(w, path):
    x = torch.randn(5000, 2, generator=generator(100), dtype=torch.float64)
    out = euler_maruyama(oracle(path), x, steps=200, generator=generator(101), w=w)
    assert moment_error(out.x.mean(0), out.x.T.cov()) <= 5e-2
    assert (out.calls, out.draws) == (200, 0)


def test_the_reverse_sde_of_the_vp_path_with_its_own_rate():
    path = VPPath()
    x = torch.randn(5000, 2, generator=generator(102), dtype=torch.float64)
    rate = lambda t: path.beta_min + t * (path.beta_max - path.beta_min)  # noqa: E731
    out = euler_maruyama(oracle(path), x, steps=300, generator=generator(103), w=rate, t_last=0.001)
    assert moment_error(out.x.mean(0), out.x.T.cov()) <= 5e-2


def test_a_grid_of_ones_own_ends_with_the_noiseless_step():
    path = LinearPath()
    x = torch.randn(10, 2, generator=generator(111), dtype=torch.float64)
    times = torch.cat([torch.linspace(1, 0.04, 20, dtype=torch.float64), torch.zeros(1)])
    a = euler_maruyama(oracle(path), x, steps=TimeGrid(path, times), generator=generator(112))
    b = euler_maruyama(oracle(path), x, steps=20, generator=generator(112))
    assert torch.equal(a.x, b.x)


def test_without_diffusion_it_is_eulers_method():
    path = LinearPath()
    x = torch.randn(10, 2, generator=generator(104), dtype=torch.float64)
    grid = TimeGrid(path, torch.cat([torch.linspace(1, 0.04, 20, dtype=torch.float64), torch.zeros(1)]))
    out = euler_maruyama(oracle(path), x, steps=20, generator=generator(105), w=lambda t: 0.0)
    torch.testing.assert_close(out.x, euler(oracle(path), x, steps=grid).x, atol=1e-12, rtol=0)


def test_the_state_is_float64_and_the_model_sees_float32():
    seen, states = set(), set()

    class Model:
        path = LinearPath()

        def predict(self, x, t, y=None, *, target="velocity"):
            seen.update((x.dtype, t.dtype))
            return 0.1 * x

    x = torch.randn(4, 2, generator=generator(106))
    out = euler_maruyama(
        Model(), x, steps=5, generator=generator(107), callback=lambda i, t, state: states.add(state.dtype)
    )
    assert (seen, states, out.x.dtype) == ({torch.float32}, {torch.float64}, torch.float32)


def test_the_last_step_has_no_noise():
    path, times, states = LinearPath(), [], []
    x = torch.randn(200, 2, generator=generator(108), dtype=torch.float64)

    def keep(i, t, state):
        times.append(t)
        states.append(state)

    out = euler_maruyama(oracle(path), x, steps=5, generator=generator(109), callback=keep)
    assert times[-2:] == [0.04, 0.0]
    v, s = (oracle(path).predict(states[-2], 0.04, target=kind) for kind in ("velocity", "score"))
    torch.testing.assert_close(out.x, states[-2] - 0.04 * (v - 0.04 * s))


def test_bad_arguments():
    x = torch.randn(4, 2, generator=generator(110))
    with pytest.raises(ValueError, match="discrete schedule is ddpm"):
        euler_maruyama(oracle(DDPMSchedule(10)), x, steps=5, generator=generator(0))
    with pytest.raises(ValueError, match="w must not be negative"):
        euler_maruyama(oracle(LinearPath()), x, steps=5, generator=generator(0), w=lambda t: -t)
    with pytest.raises(ValueError, match="w must be one of '2t', 'sigma'"):
        euler_maruyama(oracle(LinearPath()), x, steps=5, generator=generator(0), w="beta")  # pyright: ignore
    for t_last in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="t_last must be in"):
            euler_maruyama(oracle(LinearPath()), x, steps=5, generator=generator(0), t_last=t_last)
    with pytest.raises(ValueError, match="steps must be in"):
        euler_maruyama(oracle(LinearPath()), x, steps=1, generator=generator(0))
