"""Labels and environment names of any type as arrays, and the rows of a stratified draw."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from holdfast.data.errors import DataError, suggest

__all__ = ["Task", "as_labels", "encode_environment", "plain_array", "stratified_rows"]

Task = Literal["classification", "regression"]


def as_labels(y: Any, task: Task | None = None) -> np.ndarray:
    """Return ``y`` as a one-dimensional array of classes (int, bool, str) or float targets.

    Raises:
        DataError: for a missing label or labels of mixed types, with the row; for a task they do not fit.

    Examples:
        >>> as_labels([1.0, 2.0], task="classification").dtype, as_labels(["b", "a"]).tolist()
        (dtype('int64'), ['b', 'a'])
    """
    if task not in (None, "classification", "regression"):
        raise DataError(f"task must be 'classification' or 'regression', got {task!r}")
    y = plain_array(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"y must have shape (n,), got {y.shape}")
    missing = pd.isna(y)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise DataError(f"y, row {row}: the label is missing ({int(missing.sum())} are); fill it or drop the row")
    if y.dtype.kind == "f":
        bad = ~np.isfinite(y)
        if bad.any():
            raise DataError(f"y, row {int(np.flatnonzero(bad)[0])}: the target is infinite")
    if y.dtype.kind == "O":
        types = pd.Series([type(v).__name__ for v in y])
        other = types.ne(types.iloc[0])
        if other.any():
            row = int(np.flatnonzero(other)[0])
            raise DataError(
                f"y mixes types: row 0 is {y[0]!r} ({types.iloc[0]}), row {row} is {y[row]!r} ({types.iloc[row]})"
            )
        y = np.asarray(y.tolist()) if y.size else y
    if task == "regression":
        if y.dtype.kind not in "iufb":
            raise DataError(f"regression targets must be numbers, got {y[0]!r} in row 0")
        return y if y.dtype.kind == "f" else y.astype(np.float64)
    if task == "classification" and y.dtype.kind == "f":
        broken = y != np.rint(y)
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            raise DataError(f"y, row {row}: {y[row]:g} is no class; classes must be whole numbers or texts")
        return y.astype(np.int64)
    return y


def plain_array(v: Any) -> np.ndarray:
    """Return ``v`` as a plain array: tensors, categoricals and nullable pandas types lose their wrapping.

    Examples:
        >>> plain_array(pd.Series(["b", "a"], dtype="category")).tolist()
        ['b', 'a']
    """
    if isinstance(v, Tensor):
        return v.detach().cpu().numpy()
    if isinstance(v, np.ndarray) and v.dtype.kind != "O":
        return v
    if isinstance(v, (pd.Series, pd.Index, pd.Categorical, pd.api.extensions.ExtensionArray)):
        s = pd.Series(v).reset_index(drop=True)
        if isinstance(s.dtype, pd.CategoricalDtype):
            s = s.astype(s.cat.categories.dtype)
        if pd.api.types.is_string_dtype(s.dtype):
            s = s.astype(object)
        elif pd.api.types.is_extension_array_dtype(s.dtype) and not s.isna().any():
            s = s.astype(getattr(s.dtype, "numpy_dtype", object))
        v = s.to_numpy()
    v = np.asarray(v, dtype=object) if isinstance(v, (list, tuple)) and _mixed(v) else np.asarray(v)
    if v.dtype.kind == "O" and v.ndim == 1 and v.size and all(isinstance(a, str) for a in v):
        return v.astype(str)
    return v


def _mixed(v: list | tuple) -> bool:
    """A list with texts and something else, which NumPy would silently turn to text."""
    return any(isinstance(a, str) for a in v) and not all(isinstance(a, str) for a in v)


def encode_environment(environment: Any, names: tuple[str, ...] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return int64 codes and the names they index: sorted (numbers as numbers), or as ``names`` gives them.

    Raises:
        DataError: for a missing environment (with the row) or one that is not among ``names``.

    Examples:
        >>> encode_environment([10, 9, 10])
        (array([1, 0, 1]), ('9', '10'))
    """
    values = plain_array(environment)
    if values.ndim != 1:
        raise DataError(f"environment must have shape (n,), got {values.shape}")
    missing = pd.isna(values)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise DataError(f"environment, row {row}: it is missing ({int(missing.sum())} are); name it or drop the row")
    if names is not None and values.dtype.kind in "iu":
        return values.astype(np.int64, copy=False), tuple(map(str, names))
    if values.dtype.kind == "f" and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind == "O":
        values = values.astype(str)
    found, codes = np.unique(values, return_inverse=True)
    found_names = tuple(str(v) for v in found.tolist())
    if names is None:
        return codes.astype(np.int64, copy=False), found_names
    place = {str(n): i for i, n in enumerate(names)}
    for name in found_names:
        if name not in place:
            raise DataError(f"environment {name!r} is not among the given names{suggest(name, place)}")
    return np.array([place[n] for n in found_names], np.int64)[codes], tuple(map(str, names))


def stratified_rows(stratum: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``size`` rows drawn at random, each stratum giving its share by largest remainders (ties by chance).

    Examples:
        >>> rows = stratified_rows(np.array([0, 0, 0, 0, 1, 1]), 3, np.random.default_rng(0))
        >>> int((rows < 4).sum()), int((rows >= 4).sum())
        (2, 1)
    """
    _, stratum, m = np.unique(stratum, return_inverse=True, return_counts=True)
    share = m * (size / len(stratum))
    quota = np.floor(share).astype(np.int64)
    remainder = share - quota
    # A stratum of one sample stays in the rest as long as others can give.
    priority = np.where(m > 1, remainder, remainder - 1.0)
    order = np.lexsort((rng.random(len(m)), -priority))
    able = order[quota[order] < m[order]]
    quota[able[: size - int(quota.sum())]] += 1
    shuffled = rng.permutation(len(stratum))
    by_stratum = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    rank = np.arange(len(stratum)) - np.repeat(np.cumsum(m) - m, m)
    return by_stratum[rank < np.repeat(quota, m)]
