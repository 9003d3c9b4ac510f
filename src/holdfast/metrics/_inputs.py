"""What every metric accepts: tensors, arrays and lists in; float64 tensors and integer codes inside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.core.checks import check_finite, check_labels

__all__ = ["as_class_index", "as_codes", "as_float", "as_pair", "as_probabilities", "centred", "unit_rows"]


def as_float(name: str, x: Any, *, ndim: int | None = None, dtype: torch.dtype | None = torch.float64) -> Tensor:
    """Return ``x`` as a detached, finite, non-empty floating tensor; ``dtype=None`` keeps a floating dtype."""
    t = x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if t.is_complex():
        raise TypeError(f"{name} must be real, got dtype {t.dtype}")
    if dtype is None:
        dtype = t.dtype if t.dtype in (torch.float32, torch.float64) else torch.float32
    if t.device.type == "mps" and dtype == torch.float64:
        t = t.cpu()
    t = t.to(dtype)
    if ndim is not None and t.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {tuple(t.shape)}")
    if t.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(t.shape)}")
    check_finite(name, t)
    return t


def as_pair(name1: str, x: Any, name2: str, y: Any) -> tuple[Tensor, Tensor]:
    """Return two float64 matrices with equally many rows."""
    a, b = as_float(name1, x, ndim=2), as_float(name2, y, ndim=2)
    if len(a) != len(b):
        raise ValueError(f"{name1} and {name2} must have equally many rows, got {len(a)} and {len(b)}")
    return a, b.to(a.device)


def as_codes(**named: Any) -> tuple[list[Tensor], np.ndarray]:
    """Code label vectors (integers, booleans or strings) jointly; return the codes and the sorted values.

    All vectors must be one-dimensional, non-empty and equally long.
    """
    arrays: list[np.ndarray] = []
    for name, v in named.items():
        a = v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v)
        if a.ndim != 1:
            raise ValueError(f"{name} must have shape (n,), got {a.shape}")
        if a.size == 0:
            raise ValueError(f"{name} must not be empty")
        if a.dtype.kind == "f":
            if not np.isfinite(a).all() or (a != np.round(a)).any():
                raise ValueError(f"{name} must hold class labels, got non-integer numbers")
            a = a.astype(np.int64)
        arrays.append(a)
    if len({len(a) for a in arrays}) > 1:
        raise ValueError("lengths differ: " + ", ".join(f"{k} has {len(a)}" for k, a in zip(named, arrays)))
    values, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    parts = np.split(codes.astype(np.int64), np.cumsum([len(a) for a in arrays])[:-1])
    return [torch.from_numpy(np.ascontiguousarray(p)) for p in parts], values


def unit_rows(name: str, x: Tensor) -> Tensor:
    """Return the rows divided by their norms; a zero row has no direction and is refused."""
    norms = x.norm(dim=-1, keepdim=True)
    zero = (norms == 0).nonzero()
    if len(zero):
        raise ValueError(f"{name} has no direction in row {int(zero[0, 0])}: its norm is zero, cosine is undefined")
    return x / norms


def centred(name: str, z: Tensor) -> Tensor:
    """Return ``z`` with column means removed; a representation without variation is refused."""
    c = z - z.mean(0)
    # Rounding of the mean alone leaves entries of this size in a constant column.
    if float(c.norm()) <= 1e-14 * math.sqrt(z.numel()) * float(z.abs().max()):
        raise ValueError(f"{name} is constant over its {len(z)} rows: there is nothing to compare")
    return c


def as_class_index(y: Any, n_classes: int, classes: Any = None) -> Tensor:
    """Return labels as column indices: as they are, or by their place in ``classes``."""
    if classes is None:
        t = y.detach() if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))
        check_labels("y", t, n_classes)
        return t.long()
    names = np.asarray(classes)
    if len(names) != n_classes or len(np.unique(names)) != len(names):
        raise ValueError(f"classes must name the {n_classes} columns once each, got {len(names)} entries")
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if values.ndim != 1:
        raise ValueError(f"y must have shape (n,), got {values.shape}")
    order = np.argsort(names)
    place = np.searchsorted(names, values, sorter=order).clip(max=n_classes - 1)
    index = order[place]
    unknown = names[index] != values
    if unknown.any():
        raise ValueError(f"y holds {values[unknown][0]!r}, which is not among the classes {names.tolist()}")
    return torch.from_numpy(index.astype(np.int64))


def as_probabilities(y: Any, proba: Any, classes: Any = None) -> tuple[Tensor, Tensor]:
    """Return labels as column indices and probabilities as ``(n, C)`` float64 whose rows sum to 1."""
    p = as_float("proba", proba, ndim=2)
    index = as_class_index(y, p.shape[1], classes).to(p.device)
    if len(index) != len(p):
        raise ValueError(f"y has {len(index)} labels but proba has {len(p)} rows")
    bad = (p < 0).any(1) | ((p.sum(1) - 1).abs() > 1e-3)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise ValueError(
            f"proba must hold distributions, but row {i} sums to {float(p[i].sum()):g} (min {p[i].min():g})"
        )
    return index, p
