"""Checks at the door: one place for what is refused and for how the refusal reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from holdfast.core.arrays import as_tensor

__all__ = [
    "check_choice",
    "check_finite",
    "check_labels",
    "check_matrix",
    "check_number",
    "check_same_length",
]


def check_number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    integer: bool = False,
) -> float:
    """Return ``value`` if it is a real number inside the interval, else raise with the interval spelled out.

    Examples:
        >>> check_number("mu", 10.0, low=0, open_low=True)
        10.0
        >>> check_number("mu", -1, low=0)
        Traceback (most recent call last):
        ...
        ValueError: mu must be in [0, inf), got -1
    """
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds):
        what = "an integer" if integer else "a number"
        raise TypeError(f"{name} must be {what}, got {value!r} ({type(value).__name__})")
    bad_low = low is not None and (value < low or (open_low and value == low))
    bad_high = high is not None and (value > high or (open_high and value == high))
    if bad_low or bad_high or value != value:
        left = "(-inf" if low is None else f"{'(' if open_low else '['}{low:g}"
        right = "inf)" if high is None else f"{high:g}{')' if open_high else ']'}"
        raise ValueError(f"{name} must be in {left}, {right}, got {value}")
    return cast("float", value)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``, else raise and list them.

    Examples:
        >>> check_choice("reduction", "mean", ["mean", "sum"])
        'mean'
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


def check_finite(name: str, x: Tensor | np.ndarray) -> None:
    """Raise ``ValueError`` with the first bad row when ``x`` holds NaN or infinity.

    Examples:
        >>> check_finite("scores", torch.tensor([0.0, float("nan")]))
        Traceback (most recent call last):
        ...
        ValueError: scores must be finite, but row 1 holds nan (1 of 2 entries are not finite)
    """
    t = as_tensor(x)
    if not (t.is_floating_point() or t.is_complex()):
        return
    # Summation propagates NaN and infinity, so the usual finite case costs one pass and no mask.
    if bool(torch.isfinite(t.sum())):
        return
    bad = ~torch.isfinite(t)
    count = int(bad.sum())
    if count == 0:
        return
    where = bad.nonzero()[0]
    row = f"row {int(where[0])}" if where.numel() else "it"
    raise ValueError(
        f"{name} must be finite, but {row} holds {float(t[tuple(where)])} "
        f"({count} of {t.numel()} entries are not finite)"
    )


def check_matrix(name: str, x: Tensor, *, columns: int | None = None) -> None:
    """Raise unless ``x`` is a two-dimensional tensor, with ``columns`` columns where given.

    Examples:
        >>> check_matrix("z", torch.zeros(3, 2), columns=2)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (n, d), got {tuple(x.shape)}")
    if columns is not None and x.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got {x.shape[1]}")


def check_same_length(**named: Any) -> int:
    """Return the common length of the named arguments, or raise and list every length.

    Examples:
        >>> check_same_length(x=[1, 2], y=[0, 1])
        2
    """
    lengths = {k: len(v) for k, v in named.items() if v is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError("lengths differ: " + ", ".join(f"{k} has {n}" for k, n in lengths.items()))
    return next(iter(lengths.values()))


def check_labels(name: str, y: Tensor, n_classes: int) -> None:
    """Raise unless ``y`` is a one-dimensional integer tensor with entries in ``[0, n_classes)``.

    Examples:
        >>> check_labels("target", torch.tensor([0, 2]), 2)
        Traceback (most recent call last):
        ...
        ValueError: target must lie in [0, 2), but entry 1 is 2
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(y).__name__}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"{name} must hold integer class indices, got dtype {y.dtype}")
    if y.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {tuple(y.shape)}")
    bad = (y < 0) | (y >= n_classes)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise ValueError(f"{name} must lie in [0, {n_classes}), but entry {i} is {int(y[i])}")
