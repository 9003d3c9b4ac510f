"""A temperature from the rows that a model was trained on, where there may be no mistake to learn from."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.metrics._inputs import as_float
from holdfast.metrics.calibration import fit_temperature

__all__ = ["training_temperature"]


def training_temperature(logits: Any, y: Any) -> float:
    r"""Fit a temperature as if one more row of every class were mislabelled.

    The extra row of a class holds the class's mean logits, and for its label the strongest other class. Without it, a
    model that makes no mistake on its training rows would be given the smallest temperature allowed, that is, certainty
    everywhere; with it, the error rate is taken as at least one in the number of rows per class plus one, the rule of
    succession. Where held-out rows exist, :func:`fit_temperature` on those is better.

    Args:
        logits: ``(n, C)`` with at least two columns.
        y: ``(n,)`` column indices.

    Raises:
        ValueError: for one column, lengths that differ or values that are not finite.

    Examples:
        >>> z = torch.eye(2).repeat(50, 1)  # always right, by a gap of 1
        >>> t = training_temperature(z, torch.arange(100) % 2)
        >>> p = (z / t).softmax(1).amax()  # 50 right, 1 wrong
        >>> round(float(p), 3), round(50 / 51, 3)
        (0.98, 0.98)
    """
    z = as_float("logits", logits, ndim=2)
    labels = torch.as_tensor(y).to(z.device)
    if z.shape[1] < 2:
        raise ValueError(f"logits must have at least 2 columns, got {z.shape[1]}")
    if labels.shape != (len(z),):
        raise ValueError(f"y must have shape ({len(z)},), got {tuple(labels.shape)}")
    present, code = labels.unique(return_inverse=True)
    total = z.new_zeros(len(present), z.shape[1]).index_add_(0, code, z)
    mean = total / torch.bincount(code).unsqueeze(1)
    wrong = mean.scatter(1, present.unsqueeze(1), -torch.inf).argmax(1)
    return fit_temperature(torch.cat([z, mean]), torch.cat([labels, wrong]))
