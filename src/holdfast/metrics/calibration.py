"""Whether probabilities mean what they say, and the one-parameter correction when they do not."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.metrics._inputs import as_class_index, as_float, as_probabilities

__all__ = [
    "ReliabilityCurve",
    "classwise_ece",
    "expected_calibration_error",
    "fit_temperature",
    "reliability_curve",
]

Binning = Literal["width", "mass"]


class ReliabilityCurve(NamedTuple):
    """Bins of predictions by confidence; empty bins are left out."""

    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    count: Float[Tensor, " bins"]


def reliability_curve(
    y: Any, proba: Any, n_bins: int = 15, *, binning: Binning = "width", classes: Any = None
) -> ReliabilityCurve:
    """Mean confidence and accuracy of the predicted class, bin by bin.

    Args:
        y: ``(n,)`` column indices, or values from ``classes``.
        proba: ``(n, C)`` probabilities.
        n_bins: number of bins.
        binning: ``"width"``: bins of equal width on ``[0, 1]``, closed on the left; ``"mass"``: bins between the
            quantiles of the confidences, equal confidences together (so there can be fewer).
        classes: the label of each column; column indices by default.

    Raises:
        ValueError: where a row of ``proba`` is not a distribution, or a label has no column.

    Examples:
        >>> curve = reliability_curve([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], n_bins=2)
        >>> round(float(curve.confidence[0]), 4), round(float(curve.accuracy[0]), 4)
        (0.7667, 0.6667)
    """
    index, p = as_probabilities(y, proba, classes)
    confidence, said = p.max(1)
    total, right, count = _bins(confidence[:, None], (said == index)[:, None], n_bins, binning)
    seen = count[:, 0] > 0
    total, right, count = total[seen, 0], right[seen, 0], count[seen, 0]
    return ReliabilityCurve(total / count, right / count, count)


def expected_calibration_error(
    y: Any,
    proba: Any,
    n_bins: int = 15,
    *,
    binning: Binning = "width",
    norm: Literal["l1", "l2", "max"] = "l1",
    classes: Any = None,
) -> float:
    r"""Expected calibration error of the predicted class.

    .. math:: \Bigl(\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|^p\Bigr)^{1/p}

    with ``p = 1`` (``"l1"``), 2 (``"l2"``), or the largest gap (``"max"``).

    Args:
        y: ``(n,)`` column indices, or values from ``classes``.
        proba: ``(n, C)`` probabilities.
        n_bins: number of bins.
        binning: equal ``"width"`` or equal ``"mass"``, see :func:`reliability_curve`.
        norm: how the gaps of the bins are combined.
        classes: the label of each column; column indices by default.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    Examples:
        >>> round(expected_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 6)
        0.4
    """
    check_choice("norm", norm, ["l1", "l2", "max"])
    curve = reliability_curve(y, proba, n_bins, binning=binning, classes=classes)
    gap, weight = (curve.accuracy - curve.confidence).abs(), curve.count / curve.count.sum()
    if norm == "max":
        return float(gap.max())
    return float((weight * gap).sum() if norm == "l1" else (weight * gap.square()).sum().sqrt())


def classwise_ece(y: Any, proba: Any, n_bins: int = 15, *, binning: Binning = "width", classes: Any = None) -> float:
    r"""Calibration error of each class's probability, averaged over the classes.

    .. math:: \frac1C \sum_c \sum_b \frac{n_{bc}}{n} |\mathrm{freq}_{bc} - \mathrm{conf}_{bc}|

    Source: Kull et al., "Beyond Temperature Scaling: Obtaining Well-Calibrated Multi-Class Probabilities with
    Dirichlet Calibration", NeurIPS 2019, section 2.

    Examples:
        >>> round(classwise_ece([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 6)
        0.4
    """
    index, p = as_probabilities(y, proba, classes)
    is_class = torch.nn.functional.one_hot(index, p.shape[1]).bool()
    total, right, _ = _bins(p, is_class, n_bins, binning)
    return float((total - right).abs().sum() / p.numel())


def fit_temperature(logits: Any, y: Any, *, classes: Any = None, bounds: tuple[float, float] = (0.01, 100.0)) -> float:
    r"""Temperature :math:`T` that minimises the negative log-likelihood of :math:`\mathrm{softmax}(z / T)`.

    The likelihood is log-concave in :math:`1/T`, so the root of its derivative is the one optimum. Where it lies
    outside ``bounds`` (no mistake at all, or logits that say nothing) the nearer bound is returned. Fit on data that
    the model was not trained on.

    Args:
        logits: ``(n, C)``.
        y: ``(n,)`` column indices, or values from ``classes``.
        classes: the label of each column; column indices by default.
        bounds: smallest and largest temperature.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Examples:
        >>> import math
        >>> z = [[math.log(9), 0.0]] * 4  # says 90 %, is right in 75 %
        >>> round(fit_temperature(z, [0, 0, 0, 1]), 6)  # log 9 / log 3
        2.0
    """
    z = as_float("logits", logits, ndim=2)
    index = as_class_index(y, z.shape[1], classes).to(z.device)
    if len(index) != len(z):
        raise ValueError(f"y has {len(index)} labels but logits has {len(z)} rows")
    low, high = bounds
    check_number("bounds[0]", low, low=0, open_low=True)
    check_number("bounds[1]", high, low=low, open_low=True)
    z = z - z.amax(1, keepdim=True)
    own = z.gather(1, index[:, None])[:, 0]

    def slope(log_t: float) -> float:  # of the loss in 1 / T, scaled to order one
        t = math.exp(log_t)
        return float(((z / t).softmax(1) * z).sum(1).mean() - own.mean())

    lower, upper = (math.log(b) for b in bounds)
    if slope(lower) <= 0:  # the loss still falls as T shrinks
        return float(low)
    if slope(upper) >= 0:
        return float(high)
    root: Any = brentq(slope, lower, upper, xtol=1e-12)
    return math.exp(root)


def _bins(p: Tensor, event: Tensor, n_bins: int, binning: Binning) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of probabilities, events and counts, ``(bins, columns)``, for each column of ``(n, columns)``."""
    check_number("n_bins", n_bins, low=1, integer=True)
    check_choice("binning", binning, ["width", "mass"])
    n, columns = p.shape
    grid = torch.linspace(0, 1, n_bins + 1, dtype=p.dtype, device=p.device)
    if binning == "width":
        place = torch.bucketize(p, grid[1:-1], right=True)
    else:
        ordered = p.sort(0).values
        rank = (grid[1:-1] * n).round().long().clamp(1, n - 1) if n > 1 else grid.new_zeros(0).long()
        # Values at or above a quantile go right of it, so equal values always share a bin.
        place = torch.searchsorted(ordered[rank].T.contiguous(), p.T.contiguous(), right=True).T
    flat = (place + n_bins * torch.arange(columns, device=p.device)).reshape(-1)

    def total(v: Tensor) -> Tensor:
        return torch.bincount(flat, v.reshape(-1).double(), minlength=n_bins * columns).view(columns, n_bins).T

    return total(p), total(event), total(torch.ones_like(p))
