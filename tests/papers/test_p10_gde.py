from __future__ import annotations

import math

import pytest
import torch

from holdfast.distribution.embedding import GaussianLaws, make_rotated_gaussians
from holdfast.papers.p10_gde import PAPER, _error


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("naive", "exponential", "rao-blackwell", "gde,l=8"):
        assert 0 < values[f"counts/{row}/mse"] < 1
    for row in ("untrained", "plain-mean", "kernel-mean", "kernel-mean,fast"):
        assert -1 <= values[f"plane/{row}/spearman"] <= 1


def test_the_best_unbiased_estimate_beats_the_frequency(values):
    assert values["counts/rao-blackwell/mse"] < values["counts/naive/mse"]


class _Oracle:
    """Encodes to the moments and samples from a Gaussian of ``stretch`` times the deviations."""

    def __init__(self, stretch):
        self.stretch = stretch

    def embed(self, x):
        return x

    def resample(self, x, n, generator):
        mean = x.mean(1, keepdim=True)
        root = torch.linalg.cholesky(torch.stack([torch.cov(s.T) for s in x]))
        noise = torch.randn(len(x), n, x.shape[2], generator=generator)
        return mean + self.stretch * noise @ root.mT


def test_error_is_the_wasserstein_distance_of_what_is_sampled_to_the_law():
    laws = make_rotated_gaussians(6, seed=100)
    deviations = torch.linalg.eigvalsh(laws.covariance.double()).sqrt()
    expected = float((0.5**2 * deviations.square().sum(1)).sqrt().mean())
    assert _error(_Oracle(1.5), laws, 20_000, 20_000, 100, "cpu") == pytest.approx(expected, rel=0.03)
    plain = GaussianLaws(torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))
    assert _error(_Oracle(1.0), plain, 20_000, 20_000, 100, "cpu") < 0.03
