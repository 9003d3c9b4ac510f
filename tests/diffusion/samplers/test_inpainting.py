"""In-painting: the known part is exact, the open part agrees with it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.oracles.gaussian import GaussianOracle
from holdfast.diffusion.paths import LinearPath
from holdfast.diffusion.samplers import ddpm, inpaint
from holdfast.diffusion.samplers.inpainting import resampling_order

COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)


def fill(path, n=3000, **options):
    model = GaussianOracle(torch.zeros(2, dtype=torch.float64), COVARIANCE, path)
    x = torch.randn(n, 2, generator=generator(100), dtype=torch.float64)
    known = torch.tensor([2.0, float("nan")], dtype=torch.float64).expand(n, 2)
    return inpaint(model, x, known, torch.tensor([True, False]), generator=generator(101), **options)


@pytest.mark.parametrize("path", [LinearPath(), DDPMSchedule(1000)], ids=["linear", "ddpm"])
def test_known_values_are_exact_and_resampling_brings_the_conditional_law(path):
    """Given 2, the other coordinate is N(1.8, 0.19); replacement alone falls short, resampling closes the gap."""
    plain = fill(path, steps=40)
    again = fill(path, steps=40, resamplings=10)
    assert bool((plain.x[:, 0] == 2).all())
    assert bool((again.x[:, 0] == 2).all())
    short, shorter = 1.8 - float(plain.x[:, 1].mean()), 1.8 - float(again.x[:, 1].mean())
    assert short > 0.4
    assert abs(shorter) < short / 3
    assert (plain.calls, again.calls) == (40, 40 + 9 * 39)


def test_with_nothing_known_it_is_ancestral_sampling():
    path = LinearPath()
    model = GaussianOracle(torch.zeros(2, dtype=torch.float64), COVARIANCE, path)
    x = torch.randn(4000, 2, generator=generator(102), dtype=torch.float64)
    out = inpaint(model, x, torch.zeros_like(x), torch.tensor(False), steps=60, generator=generator(103))
    reference = ddpm(model, x, steps=60, generator=generator(104))
    assert float((out.x.T.cov() - reference.x.T.cov()).abs().max()) < 0.08


def test_with_all_known_it_returns_the_known():
    path = LinearPath()
    model = GaussianOracle(torch.zeros(2), 1.0, path)
    known = torch.randn(5, 2, generator=generator(105))
    out = inpaint(model, torch.zeros(5, 2), known, torch.tensor(True), steps=4, generator=generator(106), jump=2)
    assert torch.equal(out.x, known)


@pytest.mark.parametrize(("steps", "jump", "resamplings"), [(10, 1, 1), (10, 1, 3), (10, 3, 2), (12, 4, 5), (5, 5, 4)])
def test_the_walk_is_connected_and_counts(steps, jump, resamplings):
    moves = list(resampling_order(steps, jump, resamplings))
    assert moves[0][0] == 0
    assert moves[-1][1] == steps
    assert all(a[1] == b[0] for a, b in pairwise(moves))
    assert {j - i for i, j in moves} <= {1, -jump}
    turns = len([i for i in range(jump, steps) if (steps - i) % jump == 0])
    down = [m for m in moves if m[1] > m[0]]
    assert len(down) == steps + (resamplings - 1) * jump * turns
    assert len(moves) - len(down) == (resamplings - 1) * turns


def test_bad_arguments():
    model = GaussianOracle(torch.zeros(2), 1.0, LinearPath())
    x, on = torch.randn(4, 2, generator=generator(107)), torch.tensor([True, False])
    options = {"steps": 5, "generator": generator(108)}
    with pytest.raises(ValueError, match="known must have the shape"):
        inpaint(model, x, torch.zeros(3, 2), on, **options)
    with pytest.raises(TypeError, match="mask must be boolean"):
        inpaint(model, x, torch.zeros(4, 2), on.float(), **options)
    with pytest.raises(ValueError, match="mask must broadcast"):
        inpaint(model, x, torch.zeros(4, 2), torch.ones(3, 2, dtype=torch.bool), **options)
    with pytest.raises(ValueError, match="known must be finite"):
        inpaint(model, x, torch.full((4, 2), torch.nan), on, **options)
    with pytest.raises(ValueError, match="jump must be in"):
        inpaint(model, x, torch.zeros(4, 2), on, jump=6, **options)
    with pytest.raises(ValueError, match="resamplings must be in"):
        inpaint(model, x, torch.zeros(4, 2), on, resamplings=0, **options)
