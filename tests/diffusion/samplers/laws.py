"""Gaussian laws with known maps from noise, for the tests of samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.diffusion.oracles.gaussian import GaussianOracle
from holdfast.diffusion.paths import Path

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)


def oracle(path: Path) -> GaussianOracle:
    """Return the exact model of N(MEAN, COVARIANCE)."""
    return GaussianOracle(MEAN, COVARIANCE, path)


def flow(path: Path, x: Tensor, end: float | None = None, start: float | None = None) -> Tensor:
    """Return where the exact ODE takes ``x`` from ``start`` (by default noise) to ``end`` (the data themselves).

    In the covariance's eigenbasis the marginals are normal with deviation sqrt(a^2 l + s^2), and quantiles are kept.
    """
    values, basis = torch.linalg.eigh(COVARIANCE)

    def marginal(t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.coefficients(torch.tensor([t], dtype=torch.float64))[:2]
        return alpha * MEAN, (alpha**2 * values + sigma**2).sqrt()

    center, spread = marginal(path.t_max if start is None else start)
    to, width = (MEAN, values.sqrt()) if end is None else marginal(end)
    return to + ((x - center) @ basis / spread * width) @ basis.mT


def moments_of_affine(sample) -> tuple[Tensor, Tensor]:
    """Return mean and covariance that an affine map gives standard normal noise, exactly, from three points."""
    ends = sample(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    linear = (ends[1:] - ends[0]).mT
    return ends[0], linear @ linear.mT


def moment_error(mean: Tensor, covariance: Tensor) -> float:
    """Return the largest error of an entry of mean or covariance."""
    return max(float((mean - MEAN).abs().max()), float((covariance - COVARIANCE).abs().max()))
