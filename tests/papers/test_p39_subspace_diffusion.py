from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.random import generator
from holdfast.papers.p39_subspace_diffusion import PAPER, _crossing, _perceptron, _relative_error


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("n=24,K=1,N=2", "n=48,K=1,N=3", "n=24,K=2,N=8"):
        assert 0 <= values[f"{row}/error"] <= 1
        assert {f"{row}/from_clustering", f"{row}/objective", f"{row}/loss"} <= values.keys()
        assert values[f"{row}/objective"] < 1 + 1e-4
    for sigma in (0.05, 0.2, 0.5, 1, 2, 5):
        assert 1 <= values[f"digits/rank@{sigma:g}"] <= 64


def test_an_untrained_perceptron_is_no_low_rank_denoiser_and_reads_the_noise_level():
    model = _perceptron(24, 0.4, 100)
    x = torch.randn(5, 24, generator=generator(100))
    low, high = (model.predict(x, t, target="data") for t in (0.02, 0.5))
    assert not torch.allclose(low, high)
    assert sum(p.numel() for p in model.parameters()) > 100_000


def test_the_relative_error_is_zero_for_the_exact_and_one_for_nothing():
    x = torch.randn(5, 24, generator=generator(100))
    assert _relative_error(x, x) == 0
    assert _relative_error(torch.zeros_like(x), x) == 1


def test_a_crossing_is_interpolated_in_the_logarithm():
    assert _crossing([10, 40, 160], [0.0, 0.0, 1.0]) == pytest.approx(80)
    assert _crossing([10, 40], [0.0, 0.4]) is None
