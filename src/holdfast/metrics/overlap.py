"""How much one representation knows that another does not, and how many directions it uses."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.core.checks import check_number
from holdfast.metrics._inputs import as_float, as_pair, centred
from holdfast.metrics.similarity import linear_cka

__all__ = ["effective_rank", "feature_overlap", "ridge_r2"]


def ridge_r2(source: Any, target: Any, *, alpha: float = 1e-2) -> float:
    r"""Share of ``target``'s variance that ridge regression from ``source`` explains, leave-one-out.

    .. math:: R^2 = 1 - \frac{\sum_i \lVert y_i - \hat y_{-i}(x_i) \rVert^2}{\sum_i \lVert y_i - \bar y_{-i} \rVert^2}

    :math:`\hat y_{-i}` is fitted without item ``i`` (exactly, through the hat matrix) with an unpenalised
    intercept and penalty :math:`\lambda = \alpha\,\lVert \bar X \rVert_F^2 / d`. Being out of sample it does not
    grow with width alone; it is negative where the mean predicts better.

    Args:
        source: ``(n, d1)``.
        target: ``(n, d2)``.
        alpha: penalty in units of the mean eigenvalue of the source's scatter.

    Examples:
        >>> import torch
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> ridge_r2(x, x @ torch.tensor([[1.0], [2.0], [0.0]]), alpha=1e-9) > 0.999
        True
    """
    x, y = as_pair("source", source, "target", target)
    check_number("alpha", alpha, low=0, open_low=True)
    x, y = centred("source", x), centred("target", y)
    n = len(x)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    shrink = s.square() / (s.square() + alpha * x.square().sum() / x.shape[1])
    leverage = 1 / n + (u.square() * shrink).sum(1)
    residual = (y - u @ (shrink[:, None] * (u.T @ y))) / (1 - leverage)[:, None]
    baseline = y * (n / (n - 1))
    return 1.0 - float(residual.square().sum() / baseline.square().sum())


def feature_overlap(phi1: Any, phi2: Any, *, alpha: float = 1e-2) -> dict[str, float]:
    """How much two feature extractors share: ``"cka"``, and ``"r2_12"`` and ``"r2_21"``, the share of one that the
    other predicts linearly (see :func:`ridge_r2`).

    Low ``r2_12`` with low ``r2_21`` means that the two know different things and that joining them adds.

    Examples:
        >>> import torch
        >>> z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> overlap = feature_overlap(z, z[:, :1])
        >>> overlap["r2_12"] > 0.99, overlap["r2_21"] < 0.6
        (True, True)
    """
    return {
        "cka": linear_cka(phi1, phi2),
        "r2_12": ridge_r2(phi1, phi2, alpha=alpha),
        "r2_21": ridge_r2(phi2, phi1, alpha=alpha),
    }


def effective_rank(z: Any, *, center: bool = False) -> float:
    r"""Exponential of the entropy of the normalised singular values.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr),\qquad p_i = \sigma_i / \textstyle\sum_j \sigma_j

    Source: Roy and Vetterli, "The Effective Rank: A Measure of Effective Dimensionality", EUSIPCO 2007.

    Examples:
        >>> import torch
        >>> round(effective_rank(torch.eye(4)), 6)
        4.0
    """
    x = as_float("z", z, ndim=2)
    if center:
        x = centred("z", x)
    s = torch.linalg.svdvals(x)
    if float(s.sum()) == 0:
        raise ValueError("z is zero everywhere and has no rank")
    p = s / s.sum()
    return float(torch.special.entr(p).sum().exp())
