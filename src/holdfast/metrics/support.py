"""The set that points lie on: its dimension, and how far other points are from it."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.core.checks import check_number
from holdfast.core.random import generator
from holdfast.metrics._inputs import as_float
from holdfast.metrics.retrieval import nearest_neighbours

__all__ = ["distance_to_support", "intrinsic_dimension"]


def intrinsic_dimension(x: Any, k1: int = 10, k2: int = 20, *, max_points: int = 2000, seed: int = 0) -> float:
    r"""Maximum-likelihood dimension of the set that points lie on, from the distances to their neighbours.

    .. math:: \hat m_k(x)^{-1} = \frac{1}{k - 1} \sum_{j < k} \log \frac{T_k(x)}{T_j(x)}

    with :math:`T_j(x)` the distance to the j-th neighbour. Inverses are averaged over points, then the estimates over
    k. It sees the dimension at the scale of the neighbours: noise smaller than their distance is not counted, and in
    many dimensions few points give too small a number. Copies of a point are taken out.

    Args:
        x: (n, d).
        k1, k2: smallest and largest number of neighbours.
        max_points: points at which it is estimated; their neighbours are among all.
        seed: of the choice of these.

    Raises:
        ValueError: for ``k1`` below 2, ``k2`` below ``k1``, or not more than ``k2`` different points.

    Source: Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", NeurIPS 2004, with the average
    of MacKay and Ghahramani, 2005.

    Examples:
        >>> import torch
        >>> a = 6.28 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
        >>> round(intrinsic_dimension(torch.stack([a.cos(), a.sin(), torch.zeros(1000)], dim=1)), 1)
        1.0
    """
    check_number("k1", k1, low=2, integer=True)
    check_number("k2", k2, low=k1, integer=True)
    check_number("max_points", max_points, low=1, integer=True)
    points = as_float("x", x, ndim=2).unique(dim=0)
    if len(points) <= k2:
        raise ValueError(f"{k2} neighbours need more than {k2} different points, got {len(points)}")
    rows = torch.arange(len(points), device=points.device)
    if len(points) > max_points:
        rows = torch.randperm(len(points), generator=generator(seed))[:max_points].to(points.device)
    near = nearest_neighbours(points[rows], points, k2 + 1, "l2").indices
    # Differences again, as the search cancels digits; the point itself comes first, at distance 0.
    log_t = (points[near] - points[rows, None]).norm(dim=2).sort(1).values[:, 1:].log()
    estimates = []
    for k in range(k1, k2 + 1):
        inverse = (log_t[:, k - 1 : k] - log_t[:, : k - 1]).sum(1) / (k - 1)
        estimates.append(1 / float(inverse.mean()))
    return sum(estimates) / len(estimates)


def distance_to_support(samples: Any, support: Any) -> float:
    """Return the mean distance of samples to the nearest of the points that stand for a set.

    It says nothing of where on the set the mass is, and not all of it is covered: no measure of a fit alone.

    Args:
        samples: (n, d).
        support: (m, d), dense on the set.

    Raises:
        ValueError: for different widths.

    Examples:
        >>> distance_to_support([[0.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]])
        0.5
    """
    a, b = as_float("samples", samples, ndim=2), as_float("support", support, ndim=2)
    return float(nearest_neighbours(a, b, 1, "l2").distances.double().mean())
