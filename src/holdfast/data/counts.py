"""Count matrices of single cells as they are usually prepared."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import issparse

from holdfast.core.checks import check_finite, check_number

__all__ = ["log_counts"]


def log_counts(counts: Any, total: Any = None, *, scale: float = 1e4) -> Float[np.ndarray, "cells genes"]:
    r"""Return :math:`\log(1 + s\, c_{ij} / t_i)`, with :math:`t_i` the counts of cell i.

    Args:
        counts: (cells, genes), dense or sparse.
        total: counts of every cell over all genes, where the matrix holds some of them only.
        scale: s.

    Raises:
        ValueError: for negative counts, or a cell without any.

    Examples:
        >>> log_counts([[1, 3], [0, 2]], scale=4).round(3).tolist()
        [[0.693, 1.386], [0.0, 1.609]]
    """
    check_number("scale", scale, low=0, open_low=True)
    x = np.asarray(counts.toarray() if issparse(counts) else counts, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"counts must have shape (cells, genes), got {x.shape}")
    check_finite("counts", x)
    if x.size and x.min() < 0:
        raise ValueError(f"counts must be non-negative, got {x.min():g}")
    t = x.sum(1) if total is None else np.asarray(total, dtype=np.float64)
    if t.shape != (len(x),):
        raise ValueError(f"total must have shape ({len(x)},), one for each cell, got {t.shape}")
    if (t <= 0).any():
        raise ValueError(f"cell {int((t <= 0).argmax())} has no counts; drop it")
    return np.log1p(x * (scale / t)[:, None])
