from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, truncnorm

from holdfast.diffusion.alternating import RatioLaw


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_points_are_those_of_the_cosine_grid_in_the_bounds():
    law = RatioLaw()
    grid = sorted(math.cos(math.pi * j / 200) for j in range(101))
    expected = [r for r in grid if 0.5 <= r < 1]
    np.testing.assert_allclose(law.ratios.numpy(), expected, atol=1e-12)


def test_weights_are_the_truncated_normal_density_on_the_grid():
    law = RatioLaw()
    frozen = truncnorm((0.5 - 0.55) / 0.25, (1 - 0.55) / 0.25, loc=0.55, scale=0.25)
    density = frozen.pdf(law.ratios.numpy())
    np.testing.assert_allclose(law.weights.numpy(), density / density.sum(), rtol=1e-12)
    uniform = RatioLaw("uniform_cosine").weights
    np.testing.assert_allclose(uniform.numpy(), 1 / len(uniform))


def test_draws_follow_the_weights():
    law = RatioLaw()
    drawn, _ = law.sample(40_000, generator=rng())
    assert bool(((drawn >= 0.5) & (drawn < 1)).all())
    index = torch.searchsorted(law.ratios, drawn)
    counts = torch.bincount(index, minlength=len(law.ratios)).numpy()
    assert chisquare(counts, 40_000 * law.weights.numpy()).pvalue > 1e-3


def test_the_larger_ratio_is_one_to_offset_points_further_and_capped():
    law = RatioLaw(offset=3)
    now, more = law.sample(20_000, generator=rng())
    i, j = torch.searchsorted(law.ratios, now), torch.searchsorted(law.ratios, more)
    last = len(law.ratios) - 1
    assert bool((j <= last).all())
    free = i <= last - 3
    steps = torch.bincount((j - i)[free], minlength=4)
    assert steps[0] == 0
    assert len(steps) == 4
    assert chisquare(steps[1:].numpy()).pvalue > 1e-3
    assert bool((j[~free] > i[~free]).logical_or(i[~free] == last).all())


def test_counts_round_up_and_the_larger_mask_is_larger_wherever_it_can_be():
    law = RatioLaw()
    now, more = law.sample_counts(5000, 16, generator=rng())
    ratios = law.sample(5000, generator=rng())[0]
    assert torch.equal(now, torch.ceil(16 * ratios).long())
    assert bool(((more > now) | (now == 16)).all())
    assert int(more.max()) <= 16


def test_the_same_generator_gives_the_same_draws():
    a, b = (torch.stack(RatioLaw().sample(10, generator=rng(3))) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lo": 0.0}, r"lo must be in \(0, 1\]"),
        ({"lo": -0.1}, r"lo must be in \(0, 1\]"),
        ({"hi": 1.2}, r"hi must be in \(0, 1\]"),
        ({"lo": 0.8, "hi": 0.6}, "lo must be below hi"),
        ({"sd": 0.0}, "sd must be in"),
        ({"grid": 0}, "grid must be in"),
        ({"offset": 0}, "offset must be in"),
        ({"kind": "beta"}, "kind must be one of"),
        ({"lo": 0.5, "hi": 0.50001}, "no point of a cosine grid"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RatioLaw(**options)
