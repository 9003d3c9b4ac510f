"""Points at the door: what a likelihood with added noise can be fitted to."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite

__all__ = ["check_points", "column_scales", "read_points"]

_FEWEST = 20
_RATIO = 100.0


def read_points(X: Any) -> Float[Tensor, "n *shape"]:
    """Return points as a tensor of real numbers.

    Raises:
        ValueError: for values that are not finite (columns that are NaN throughout are named), or fewer than two axes.
        TypeError: for columns of integers, categories or texts.
    """
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        coded = [str(c) for c, t in zip(X.columns, X.dtypes) if getattr(t, "kind", "O") != "f"]
        if coded:
            raise TypeError(
                f"noise on codes means nothing, but these columns hold no real numbers: {', '.join(coded)}; leave them "
                "out, or if they are counts convert them to float"
            )
        X = X.to_numpy()
    x = as_tensor(X if isinstance(X, (Tensor, np.ndarray)) else np.asarray(X))
    if x.dtype == torch.bool or not x.is_floating_point():
        raise TypeError(
            f"noise on codes means nothing, but X holds {x.dtype}; leave categories out, and convert counts or grey "
            "levels to float"
        )
    if x.ndim < 2:
        raise ValueError(f"X must have shape (n, ...), got {tuple(x.shape)}")
    x = x.detach()
    empty = x.flatten(1).isnan().all(0) if len(x) else torch.zeros(0, dtype=torch.bool)
    if bool(empty.any()):
        names = ", ".join(map(str, empty.nonzero().flatten()[:5].tolist()))
        raise ValueError(
            f"columns {names} of X are NaN in every row, as a constant column is once it is divided by its deviation; "
            "give the data as they were: they are scaled by one number here"
        )
    check_finite("X", x)
    return x


def column_scales(x: Float[Tensor, "n *shape"]) -> Float[Tensor, " columns"]:
    """Return the standard deviation of every column; 0 where it is constant."""
    flat = x.double().flatten(1)
    # Rounding of the mean alone leaves a constant column a deviation of this size.
    floor = 1e-14 * flat.abs().amax(0)
    std = flat.std(0, correction=0)
    return torch.where(std > floor, std, torch.zeros_like(std))


def check_points(X: Any) -> Float[Tensor, "n *shape"]:
    """Return points that a likelihood can be fitted to.

    Raises:
        ValueError, TypeError: see :func:`read_points`; and for fewer than 20 rows, or fewer than 2 different ones.

    Warns:
        UserWarning: where the scale of columns of a table differs by more than a factor of 100.
    """
    x = read_points(X)
    if len(x) < _FEWEST:
        raise ValueError(f"X must have at least {_FEWEST} rows, got {len(x)}")
    scales = column_scales(x)
    if not bool((scales > 0).any()):
        raise ValueError("X must have at least 2 different rows, but all are equal")
    moving = scales[scales > 0]
    if x.ndim == 2 and float(moving.max() / moving.min()) > _RATIO:  # pixels are in one unit
        warnings.warn(
            f"columns of X differ in scale by a factor of {float(moving.max() / moving.min()):.3g}: noise of one size "
            "drowns the small ones; bring columns that are not in the same unit to the same scale first",
            UserWarning,
            stacklevel=3,
        )
    return x
