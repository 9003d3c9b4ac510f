"""Weights kept as logarithms: totals, means and the effective sample size."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["effective_sample_size", "log_mean_exp", "log_total"]


def log_total(logw: Iterable[float]) -> float:
    r"""Return :math:`\log \sum_i e^{w_i}` of Python numbers; ``-inf`` when all are.

    Examples:
        >>> round(log_total([0.0, 0.0]), 4), log_total([-math.inf]), log_total([])
        (0.6931, -inf, -inf)
    """
    values = list(logw)
    top = max(values, default=-math.inf)
    if top == -math.inf:
        return -math.inf
    return top + math.log(math.fsum([math.exp(w - top) for w in values]))


def log_mean_exp(logw: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return :math:`\log \frac1n \sum_i e^{w_i}` over the last dimension; ``-inf`` when all are.

    Raises:
        ValueError: when the last dimension is empty.

    Examples:
        >>> round(float(log_mean_exp(torch.tensor([0.0, -math.inf]))), 4)
        -0.6931
    """
    if logw.shape[-1] == 0:
        raise ValueError("the mean of no weights is undefined; give at least one")
    return torch.logsumexp(logw, -1) - math.log(logw.shape[-1])


def effective_sample_size(logw: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return Kish's effective sample size over the last dimension, 0 where every weight is 0.

    .. math:: \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2} \in [1, n]

    Examples:
        >>> float(effective_sample_size(torch.zeros(5)))
        5.0
        >>> float(effective_sample_size(torch.full((5,), -math.inf)))
        0.0
    """
    top = logw.amax(-1, keepdim=True)
    w = torch.where(top == -math.inf, torch.zeros_like(logw), (logw - top).exp())
    return w.sum(-1).square() / (w * w).sum(-1).clamp_min(torch.finfo(w.dtype).tiny)
