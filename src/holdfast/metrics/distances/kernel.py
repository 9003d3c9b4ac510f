"""Distances of two laws by means over pairs: of a kernel, and of the distance itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.checks import check_choice
from holdfast.metrics.distances.point_sets import average, median_distance, point_sets, squared_distances

__all__ = ["MEDIAN_FACTORS", "energy_discrepancy", "kernel_discrepancy"]

MEDIAN_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths by default, in units of the median distance."""


def kernel_discrepancy(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    bandwidths: float | Sequence[float] | Float[Tensor, "..."] | None = None,
    *,
    estimator: Literal["biased", "unbiased"] = "biased",
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Squared maximum mean discrepancy under a Gaussian kernel or the mean of several, with gradients.

    .. math:: E[k(x, x')] + E[k(y, y')] - 2 E[k(x, y)],\qquad
              k(u, v) = \frac1{|S|} \sum_{s \in S} e^{-\lVert u - v \rVert^2 / 2 s^2}

    Args:
        x, y: sets, (n, d) and (m, d), or batches of them.
        bandwidths: s: one, several, or (batch, several) for each pair of sets its own; by default the median distance
            in the pooled set times 1/4, 1/2, 1, 2, 4, seen as a constant.
        estimator: ``"biased"`` is the squared distance of the sets themselves, never negative; ``"unbiased"`` leaves
            out pairs of a point with itself.
        x_weights, y_weights: of the points, not negative; they are divided by their sum.
        x_mask, y_mask: True where a point counts; the others may hold anything.

    Raises:
        TypeError: for points of another type than floats, or of two types.
        ValueError: for shapes that do not fit, negative weights, a set without weight, one point where two are
            needed, or bandwidths that are not positive.

    Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, eq. 3 and 5.

    Examples:
        >>> x = torch.zeros(2, 1)
        >>> kernel_discrepancy(x, x + 2, 1.0).round(decimals=4)  # 2 - 2 exp(-2)
        tensor(1.7293)
    """
    check_choice("estimator", estimator, ["unbiased", "biased"])
    least = 2 if estimator == "unbiased" or bandwidths is None else 1
    s = point_sets(x, y, x_weights, y_weights, x_mask, y_mask, least=least)
    rates = 0.5 / _scales(s.x, s.y, bandwidths, s.a, s.b).square()
    pairs = [(squared_distances(u, v), w) for u, v, w in ((s.x, s.x, s.a), (s.y, s.y, s.b))]
    cross = squared_distances(s.x, s.y)
    value = s.x.new_zeros(len(s.x))
    for rate in rates.unbind(-1):
        rate = -rate[..., None, None]
        within = [_within(torch.exp(rate * d), w, estimator) for d, w in pairs]
        value = value + within[0] + within[1] - 2 * average(torch.exp(rate * cross), s.a, s.b)
    return s.out(value / rates.shape[-1])


def _scales(x: Tensor, y: Tensor, bandwidths: object, a: Tensor | None, b: Tensor | None) -> Tensor:
    """Return bandwidths (S,) or (B, S)."""
    if bandwidths is None:
        masks = {"x_mask": None if a is None else a > 0, "y_mask": None if b is None else b > 0}
        median = median_distance(x, y, **masks).clamp_min(torch.finfo(x.dtype).eps)
        return median[:, None] * torch.tensor(MEDIAN_FACTORS, dtype=x.dtype, device=x.device)
    scales = torch.as_tensor(bandwidths, dtype=x.dtype, device=x.device).detach()
    scales = scales.reshape(1) if scales.ndim == 0 else scales
    if scales.ndim > 2 or scales.numel() == 0 or (scales.ndim == 2 and len(scales) != len(x)):
        raise ValueError(f"bandwidths must be (several,) or ({len(x)}, several), got shape {tuple(scales.shape)}")
    if not torch.compiler.is_compiling() and not bool((scales > 0).all()):
        raise ValueError(f"bandwidths must be in (0, inf), got {float(scales.min()):g}")
    return scales


def energy_discrepancy(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    *,
    estimator: Literal["biased", "unbiased"] = "biased",
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Energy distance :math:`2 E\lVert x - y \rVert - E\lVert x - x' \rVert - E\lVert y - y' \rVert`, with gradients.

    Where two points meet, the distance has no gradient and 0 is taken.

    Args:
        x, y: sets, (n, d) and (m, d), or batches of them.
        estimator: ``"biased"`` is the distance of the sets themselves, never negative; ``"unbiased"`` leaves out pairs
            of a point with itself.
        x_weights, y_weights: of the points, not negative; they are divided by their sum.
        x_mask, y_mask: True where a point counts; the others may hold anything.

    Raises:
        TypeError: for points of another type than floats, or of two types.
        ValueError: for shapes that do not fit, negative weights, a set without weight, or one point where two are
            needed.

    Source: Székely and Rizzo, "Energy Statistics: A Class of Statistics Based on Distances", J. Statistical Planning
    and Inference 2013, eq. 2.

    Examples:
        >>> energy_discrepancy(torch.zeros(3, 2, 1), torch.full((3, 2, 1), 3.0))
        tensor([6., 6., 6.])
    """
    check_choice("estimator", estimator, ["unbiased", "biased"])
    s = point_sets(x, y, x_weights, y_weights, x_mask, y_mask, least=2 if estimator == "unbiased" else 1)
    xx, yy, xy = (
        torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist") for u, v in ((s.x, s.x), (s.y, s.y), (s.x, s.y))
    )
    return s.out(2 * average(xy, s.a, s.b) - _within(xx, s.a, estimator) - _within(yy, s.b, estimator))


def _within(k: Tensor, w: Tensor | None, estimator: str) -> Tensor:
    """Return the mean of ``k`` (B, n, n) over pairs of one set, or over pairs of different points."""
    if estimator == "biased":
        return average(k, w, w)
    diagonal, n = k.diagonal(dim1=1, dim2=2), k.shape[1]
    if w is None:
        return (k.sum((1, 2)) - diagonal.sum(1)) / (n * (n - 1))
    return (average(k, w, w) - (w.square() * diagonal).sum(1)) / (1 - w.square().sum(1))
