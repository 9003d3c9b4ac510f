"""Distances between samples of two distributions as numbers: kernels, transport and energies."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.core.checks import check_choice
from holdfast.core.random import generator
from holdfast.metrics._inputs import as_float
from holdfast.metrics.distances.gaussian import bures
from holdfast.metrics.distances.kernel import MEDIAN_FACTORS, energy_discrepancy, kernel_discrepancy
from holdfast.metrics.distances.point_sets import median_distance
from holdfast.metrics.distances.sliced import sliced_transport

__all__ = ["energy_distance", "gaussian_w2", "gaussian_w2_moments", "mmd2", "sliced_wasserstein", "wasserstein1_1d"]


def mmd2(
    x: Any,
    y: Any,
    bandwidths: Any = None,
    *,
    estimator: Literal["unbiased", "biased"] = "unbiased",
) -> float:
    r"""Squared maximum mean discrepancy under a Gaussian kernel, or the mean of several.

    .. math:: E[k(x, x')] + E[k(y, y')] - 2 E[k(x, y)],\qquad
              k(a, b) = \frac1{|S|} \sum_{s \in S} e^{-\lVert a - b \rVert^2 / 2 s^2}

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        bandwidths: :math:`s`, one or several; by default the median distance in the pooled sample times
            1/4, 1/2, 1, 2, 4.
        estimator: ``"unbiased"`` leaves out pairs of a sample with itself and may be negative; ``"biased"`` is the
            squared distance of the empirical embeddings, never negative.

    Raises:
        ValueError: for different widths, or fewer than two samples on a side.

    Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, eq. 3 and 5.

    Examples:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g)
        >>> mmd2(x, y) < 0.02 < mmd2(x, y + 1)
        True
    """
    check_choice("estimator", estimator, ["unbiased", "biased"])
    a, b = _samples(x, y)
    if bandwidths is None:
        median = float(median_distance(a, b))
        if median == 0:
            raise ValueError("more than half of all pairs are equal: the median distance is 0, give bandwidths")
        bandwidths = [median * factor for factor in MEDIAN_FACTORS]
    scales = as_float("bandwidths", bandwidths).reshape(-1).to(a.device)
    return float(kernel_discrepancy(a, b, scales, estimator=estimator))


def energy_distance(x: Any, y: Any, *, estimator: Literal["unbiased", "biased"] = "biased") -> float:
    r"""Energy distance :math:`2 E\lVert x - y \rVert - E\lVert x - x' \rVert - E\lVert y - y' \rVert`.

    ``"biased"`` compares the empirical distributions and is never negative; ``"unbiased"`` leaves out pairs of a
    sample with itself.

    Source: Székely and Rizzo, "Energy Statistics: A Class of Statistics Based on Distances", J. Statistical Planning
    and Inference 2013, eq. 2.

    Examples:
        >>> energy_distance([[0.0], [0.0]], [[3.0], [3.0]])
        6.0
    """
    check_choice("estimator", estimator, ["unbiased", "biased"])
    a, b = _samples(x, y)
    return float(energy_discrepancy(a, b, estimator=estimator))


def sliced_wasserstein(x: Any, y: Any, *, p: int = 2, n_projections: int = 256, seed: int = 0) -> float:
    r"""Sliced Wasserstein-``p`` distance: transport along random lines.

    .. math:: \Bigl(\frac1L \sum_l W_p^p(\theta_l^\top x, \theta_l^\top y)\Bigr)^{1/p},\qquad
              \theta_l \text{ uniform on the sphere}

    Each one-dimensional distance is exact, for sets of different size too.

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        p: power, at least 1.
        n_projections: number of lines :math:`L`; for ``d = 1`` one line is exact and is all that is used.
        seed: of the lines.

    Source: Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", J. Mathematical Imaging and Vision
    2015, section 3.

    Examples:
        >>> sliced_wasserstein([[0.0], [1.0]], [[2.0], [3.0]])
        2.0
    """
    a, b = _samples(x, y)
    powered = sliced_transport(a, b, p=p, n_projections=n_projections, generator=generator(seed))
    return float(powered) ** (1 / p)


def wasserstein1_1d(u: Any, v: Any) -> float:
    r"""Exact Wasserstein-1 distance of two samples of real numbers, :math:`\int \lvert F^{-1} - G^{-1} \rvert`.

    Args:
        u: ``(n,)``.
        v: ``(m,)``.

    Examples:
        >>> wasserstein1_1d([0.0, 1.0], [2.0, 2.0])
        1.5
    """
    return sliced_wasserstein(as_float("u", u, ndim=1)[:, None], as_float("v", v, ndim=1)[:, None], p=1)


def gaussian_w2(x: Any, y: Any) -> float:
    r"""Wasserstein-2 distance of the Gaussians fitted to two samples (squared: the Fréchet distance of features).

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    NeurIPS 2017, eq. 6 (squared).

    Examples:
        >>> import torch
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> round(gaussian_w2(x, x + torch.tensor([3.0, 4.0, 0.0])), 6)
        5.0
    """
    a, b = _samples(x, y)
    return gaussian_w2_moments(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))


def gaussian_w2_moments(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    r"""Wasserstein-2 distance of two Gaussians.

    .. math:: \sqrt{\lVert m_1 - m_2 \rVert^2 + \mathrm{tr}\bigl(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2}\bigr)}

    Args:
        mean1: ``(d,)``.
        cov1: ``(d, d)``, symmetric positive semi-definite (singular is fine).
        mean2: ``(d,)``.
        cov2: ``(d, d)``.

    Source: Dowson and Landau, "The Fréchet Distance between Multivariate Normal Distributions", J. Multivariate
    Analysis 1982.

    Examples:
        >>> gaussian_w2_moments([0.0], [[4.0]], [0.0], [[1.0]])
        1.0
    """
    m1, m2 = as_float("mean1", mean1, ndim=1), as_float("mean2", mean2, ndim=1)
    d = len(m1)
    s1, s2 = (as_float(n, s).reshape(-1) for n, s in (("cov1", cov1), ("cov2", cov2)))
    if len(m2) != d or len(s1) != d * d or len(s2) != d * d:
        raise ValueError(f"means must have length {d} and covariances shape ({d}, {d})")
    spread = bures(s1.view(d, d), s2.view(d, d).to(s1.device), ("cov1", "cov2"))
    return math.sqrt(float((m1 - m2.to(m1.device)).square().sum()) + float(spread))


def _samples(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    a, b = as_float("x", x, ndim=2), as_float("y", y, ndim=2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x and y must have equally many columns, got {a.shape[1]} and {b.shape[1]}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"each sample needs at least two rows, got {len(a)} and {len(b)}")
    return a, b.to(a.device)
