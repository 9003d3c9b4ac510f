"""Whether a generator makes new samples or returns those it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.metrics._inputs import as_float, unit_rows

__all__ = ["generalisation_score"]

_ROWS = 2048


def generalisation_score(
    samples: Any, train: Any, *, feature: Callable[[Tensor], Tensor] | None = None, threshold: float = 0.95
) -> float:
    r"""Return the share of samples whose cosine similarity with every training sample is below ``threshold``.

    .. math:: \frac1m \sum_i 1\Big[\max_j \cos\big(f(x_i), f(y_j)\big) < \tau\Big]

    0 is a generator that repeats its data, 1 one that never does. A scaled copy counts as a copy. What is near depends
    on the features and on the dimension: compare scores of one space only, and look at that of held-out data, which
    is what a perfect generator would have.

    Args:
        samples: (m, ...) generated.
        train: (n, ...) what the generator learned from.
        feature: from a batch to features (batch, d), for instance of a copy detector; by default the values.
        threshold: cosine similarity from which a sample is a copy.

    Raises:
        ValueError: for a threshold outside (-1, 1], features of different widths, or values that are not finite.

    Source: Zhang et al., "The emergence of reproducibility and consistency in diffusion models", ICML 2024.

    Examples:
        >>> generalisation_score([[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.1]])
        0.5
    """
    check_number("threshold", threshold, low=-1, high=1, open_low=True)
    a, b = (_features(name, x, feature) for name, x in (("samples", samples), ("train", train)))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"samples and train must have equally many features, got {a.shape[1]} and {b.shape[1]}")
    near = torch.cat([(rows @ b.to(a.device).T).amax(1) for rows in a.split(_ROWS)])
    return float((near < threshold).double().mean())


def _features(name: str, x: Any, feature: Callable[[Tensor], Tensor] | None) -> Tensor:
    t = as_float(name, x, dtype=None)
    if t.ndim < 2:
        raise ValueError(f"{name} must have shape (n, ...), got {tuple(t.shape)}")
    out = t.flatten(1) if feature is None else as_float(f"the features of {name}", feature(t), ndim=2, dtype=None)
    return unit_rows(name, out.double())
