r"""Losses of the noisy-label literature, as functions of scores and labels, to compare against.

Throughout :math:`p = \mathrm{softmax}(f)`, :math:`y` the label, K classes. Every function returns the batch's loss
under ``reduction`` and refuses non-finite scores, fewer than two classes and labels outside ``[0, K)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.shift.label_robust import Reduction, check_scores, check_target, ldr_kl, reduce

__all__ = [
    "NOISY_LABEL_LOSSES",
    "asymmetric_generalized_cross_entropy",
    "asymmetric_unhinged",
    "crammer_singer",
    "generalized_cross_entropy",
    "jensen_shannon",
    "mean_absolute_error",
    "mean_squared_error",
    "nce_agce",
    "nce_aul",
    "nce_rce",
    "normalized_cross_entropy",
    "reverse_cross_entropy",
    "robust_log_loss",
    "symmetric_cross_entropy",
    "truncated_generalized_cross_entropy",
    "weston_watkins",
]

Scores: TypeAlias = Float[Tensor, "batch k"]
Labels: TypeAlias = Int[Tensor, " batch"]


def _log_p(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all classes and of the label."""
    f = check_scores(scores)
    check_target(f, target, soft=False)
    log_p = F.log_softmax(f, 1)
    return log_p, log_p.gather(1, target.unsqueeze(1)).squeeze(1)


def mean_absolute_error(scores: Scores, target: Labels, reduction: Reduction = "mean") -> Tensor:
    r""":math:`\lVert p - e_y \rVert_1 = 2 - 2 p_y`: symmetric, so tolerant to uniform noise, and slow to fit.

    Source: Ghosh, Kumar and Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017.

    Examples:
        >>> import torch
        >>> mean_absolute_error(torch.zeros(1, 4), torch.tensor([0]))
        tensor(1.5000)
    """
    return reduce(2 - 2 * _log_p(scores, target)[1].exp(), reduction)


def mean_squared_error(scores: Scores, target: Labels, reduction: Reduction = "mean") -> Tensor:
    r""":math:`\lVert p - e_y \rVert_2^2`, the Brier score.

    Source: Ghosh, Kumar and Sastry, AAAI 2017.

    Examples:
        >>> import torch
        >>> mean_squared_error(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)
    """
    log_p, log_py = _log_p(scores, target)
    return reduce(log_p.exp().square().sum(1) - 2 * log_py.exp() + 1, reduction)


def generalized_cross_entropy(scores: Scores, target: Labels, q: float = 0.7, reduction: Reduction = "mean") -> Tensor:
    r""":math:`(1 - p_y^q) / q`: cross-entropy as q tends to 0, half the mean absolute error at q = 1.

    Raises:
        ValueError: for q outside (0, 1].

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
    NeurIPS 2018, equation 6.

    Examples:
        >>> import torch
        >>> generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), q=1.0)
        tensor(0.7500)
    """
    check_number("q", q, low=0, high=1, open_low=True)
    return reduce(-torch.expm1(q * _log_p(scores, target)[1]) / q, reduction)


def truncated_generalized_cross_entropy(
    scores: Scores, target: Labels, q: float = 0.7, threshold: float = 0.5, reduction: Reduction = "mean"
) -> Tensor:
    r""":math:`(1 - \max(p_y, t)^q) / q`: examples whose label has probability below t pull no longer.

    Raises:
        ValueError: for q outside (0, 1] or a threshold outside [0, 1).

    Source: Zhang and Sabuncu, NeurIPS 2018, equation 9.

    Examples:
        >>> import torch
        >>> f = torch.zeros(1, 4, requires_grad=True)
        >>> truncated_generalized_cross_entropy(f, torch.tensor([0])).backward()
        >>> float(f.grad.abs().sum())
        0.0
    """
    check_number("q", q, low=0, high=1, open_low=True)
    check_number("threshold", threshold, low=0, high=1, open_high=True)
    log_py = _log_p(scores, target)[1]
    floor = math.log(threshold) if threshold > 0 else -math.inf
    return reduce(-torch.expm1(q * log_py.clamp(min=floor)) / q, reduction)


def reverse_cross_entropy(
    scores: Scores, target: Labels, log_zero: float = -4.0, reduction: Reduction = "mean"
) -> Tensor:
    r""":math:`-A (1 - p_y)` with the constant :math:`A < 0` standing for log 0.

    Raises:
        ValueError: for a ``log_zero`` that is not negative.

    Source: Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019, equation 6.

    Examples:
        >>> import torch
        >>> reverse_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))
        tensor(3.)
    """
    check_number("log_zero", log_zero, high=0, open_high=True)
    return reduce(-log_zero * (1 - _log_p(scores, target)[1].exp()), reduction)


def symmetric_cross_entropy(
    scores: Scores, target: Labels, ce: float = 0.1, rce: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""``ce`` times cross-entropy plus ``rce`` times reverse cross-entropy.

    Raises:
        ValueError: for a negative weight.

    Source: Wang et al., ICCV 2019, equation 8.

    Examples:
        >>> import torch
        >>> symmetric_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), ce=0.0)
        tensor(3.)
    """
    check_number("ce", ce, low=0)
    check_number("rce", rce, low=0)
    log_py = _log_p(scores, target)[1]
    return reduce(-ce * log_py + rce * 4.0 * (1 - log_py.exp()), reduction)


def weston_watkins(scores: Scores, target: Labels, reduction: Reduction = "mean") -> Tensor:
    r"""Sum of hinges :math:`\sum_{k \ne y} \max(0, 1 + f_k - f_y)`.

    Source: Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999.

    Examples:
        >>> import torch
        >>> weston_watkins(torch.zeros(1, 4), torch.tensor([0]))
        tensor(3.)
    """
    f = check_scores(scores)
    check_target(f, target, soft=False)
    y = target.unsqueeze(1)
    # The label's own hinge is exactly 1.
    return reduce((1 + f - f.gather(1, y)).clamp(min=0).sum(1) - 1, reduction)


def crammer_singer(scores: Scores, target: Labels, margin: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""Largest hinge :math:`\max(0, \max_{k \ne y} c + f_k - f_y)`: the label-robust loss at temperature 0.

    Source: Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines",
    JMLR 2001.

    Examples:
        >>> import torch
        >>> crammer_singer(torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
        tensor(3.)
    """
    return ldr_kl(scores, target, temperature=0.0, margin=margin, reduction=reduction)


def jensen_shannon(scores: Scores, target: Labels, weight: float = 0.1, reduction: Reduction = "mean") -> Tensor:
    r"""Generalised Jensen-Shannon divergence between the label and p, between cross-entropy and absolute error.

    .. math:: \frac{\pi\,\mathrm{KL}(e_y \| m) + (1 - \pi)\,\mathrm{KL}(p \| m)}{-(1-\pi)\log(1-\pi)},
        \qquad m = \pi e_y + (1 - \pi) p

    Raises:
        ValueError: for a weight outside (0, 1).

    Source: Englesson and Azizpour, "Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels",
    NeurIPS 2021, equation 3 with the scaling of section 3.

    Examples:
        >>> import torch
        >>> float(jensen_shannon(torch.tensor([[60.0, 0.0]]), torch.tensor([0])).abs()) < 1e-6
        True
    """
    pi = check_number("weight", weight, low=0, high=1, open_low=True, open_high=True)
    log_py = _log_p(scores, target)[1]
    p_y, rest = log_py.exp(), math.log1p(-pi)
    log_m = torch.log(pi + (1 - pi) * p_y)
    # Off the label m = (1 - pi) p, so log(p / m) is the constant -log(1 - pi).
    kl_p = p_y * (log_py - log_m) - (1 - p_y) * rest
    return reduce((-pi * log_m + (1 - pi) * kl_p) / (-(1 - pi) * rest), reduction)


def robust_log_loss(scores: Scores, target: Labels, alpha: float = 0.45, reduction: Reduction = "mean") -> Tensor:
    r"""A symmetric, bounded variant of the logarithmic loss.

    .. math:: \log\frac{\alpha + 1}{\alpha} - \log(\alpha + p_y) + \frac1{K-1} \sum_{k \ne y} \log(\alpha + p_k)

    Raises:
        ValueError: for alpha <= 0.

    Source: Patel and Sastry, "Memorization in Deep Neural Networks: Does the Loss Function Matter?", PAKDD 2021.

    Examples:
        >>> import torch
        >>> float(robust_log_loss(torch.tensor([[60.0, 0.0]]), torch.tensor([0])).abs()) < 1e-6
        True
    """
    check_number("alpha", alpha, low=0, open_low=True)
    log_p, log_py = _log_p(scores, target)
    all_classes = torch.log(alpha + log_p.exp()).sum(1)
    label = torch.log(alpha + log_py.exp())
    return reduce(math.log1p(1 / alpha) - label + (all_classes - label) / (log_p.shape[1] - 1), reduction)


def normalized_cross_entropy(scores: Scores, target: Labels, reduction: Reduction = "mean") -> Tensor:
    r""":math:`\log p_y / \sum_k \log p_k`: cross-entropy over its sum for all labels, hence symmetric.

    Source: Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020, equation 8.

    Examples:
        >>> import torch
        >>> normalized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))
        tensor(0.2500)
    """
    log_p, log_py = _log_p(scores, target)
    return reduce(log_py / log_p.sum(1), reduction)


def asymmetric_unhinged(
    scores: Scores, target: Labels, a: float = 6.0, q: float = 1.5, reduction: Reduction = "mean"
) -> Tensor:
    r""":math:`[(a - p_y)^q - (a - 1)^q] / q`.

    Raises:
        ValueError: for a <= 1 or q <= 0.

    Source: Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021, the AUL loss.

    Examples:
        >>> import torch
        >>> asymmetric_unhinged(torch.zeros(1, 4), torch.tensor([0]), a=2.0, q=1.0)
        tensor(0.7500)
    """
    check_number("a", a, low=1, open_low=True)
    check_number("q", q, low=0, open_low=True)
    return reduce(((a - _log_p(scores, target)[1].exp()) ** q - (a - 1) ** q) / q, reduction)


def asymmetric_generalized_cross_entropy(
    scores: Scores, target: Labels, a: float = 3.0, q: float = 1.5, reduction: Reduction = "mean"
) -> Tensor:
    r""":math:`[(a + 1)^q - (a + p_y)^q] / q`.

    Raises:
        ValueError: for a <= 0 or q <= 0.

    Source: Zhou et al., ICML 2021, the AGCE loss.

    Examples:
        >>> import torch
        >>> asymmetric_generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), a=2.0, q=1.0)
        tensor(0.7500)
    """
    check_number("a", a, low=0, open_low=True)
    check_number("q", q, low=0, open_low=True)
    return reduce(((a + 1) ** q - (a + _log_p(scores, target)[1].exp()) ** q) / q, reduction)


def nce_rce(
    scores: Scores, target: Labels, active: float = 1.0, passive: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """``active`` times normalised cross-entropy plus ``passive`` times reverse cross-entropy.

    Source: Ma et al., ICML 2020, active-passive losses.

    Examples:
        >>> import torch
        >>> nce_rce(torch.zeros(1, 4), torch.tensor([0]))
        tensor(3.2500)
    """
    a = normalized_cross_entropy(scores, target, reduction)
    return active * a + passive * reverse_cross_entropy(scores, target, reduction=reduction)


def nce_aul(
    scores: Scores, target: Labels, active: float = 1.0, passive: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """``active`` times normalised cross-entropy plus ``passive`` times the asymmetric unhinged loss (a 6, q 1.5).

    Source: Zhou et al., ICML 2021.

    Examples:
        >>> import torch
        >>> nce_aul(torch.tensor([[60.0, 0.0]]), torch.tensor([0]))
        tensor(0.)
    """
    a = normalized_cross_entropy(scores, target, reduction)
    return active * a + passive * asymmetric_unhinged(scores, target, reduction=reduction)


def nce_agce(
    scores: Scores, target: Labels, active: float = 1.0, passive: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """``active`` times normalised cross-entropy plus ``passive`` times the asymmetric generalised one (a 3, q 1.5).

    Source: Zhou et al., ICML 2021.

    Examples:
        >>> import torch
        >>> nce_agce(torch.tensor([[60.0, 0.0]]), torch.tensor([0]))
        tensor(0.)
    """
    a = normalized_cross_entropy(scores, target, reduction)
    return active * a + passive * asymmetric_generalized_cross_entropy(scores, target, reduction=reduction)


NOISY_LABEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "mae": mean_absolute_error,
    "mse": mean_squared_error,
    "gce": generalized_cross_entropy,
    "truncated_gce": truncated_generalized_cross_entropy,
    "sce": symmetric_cross_entropy,
    "weston_watkins": weston_watkins,
    "crammer_singer": crammer_singer,
    "js": jensen_shannon,
    "rll": robust_log_loss,
    "nce+rce": nce_rce,
    "nce+aul": nce_aul,
    "nce+agce": nce_agce,
}
"""Every loss of this module that is trained with alone, by the name the literature uses."""
