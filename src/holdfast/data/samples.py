"""Samples of any modality as one thing: what kind they are, how many, and how to take some without copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from holdfast.data.errors import DataError

__all__ = ["KINDS", "Kind", "as_index", "as_samples", "concat_samples", "freeze", "kind_of", "take"]

Kind = Literal["vector", "image", "table", "text", "sets", "graphs", "trajectories"]
KINDS: tuple[str, ...] = ("vector", "image", "table", "text", "sets", "graphs", "trajectories")


def freeze(a: np.ndarray) -> np.ndarray:
    """Return a read-only view; the caller's own array stays writable and nothing is copied.

    Examples:
        >>> a = np.zeros(2); b = freeze(a)
        >>> b.flags.writeable, a.flags.writeable, np.shares_memory(a, b)
        (False, True, True)
    """
    if type(a) is np.ndarray and not a.flags.writeable:
        return a
    view = np.asarray(a).view()
    view.flags.writeable = False
    return view


def kind_of(x: Any) -> Kind:
    """Return the modality of samples that :func:`as_samples` made.

    Examples:
        >>> kind_of(np.zeros((4, 3))), kind_of(["a text"]), kind_of(np.zeros((4, 9, 2)))
        ('vector', 'text', 'trajectories')
    """
    if isinstance(x, pd.DataFrame):
        return "table"
    if isinstance(x, np.ndarray):
        by_rank: dict[int, Kind] = {2: "vector", 3: "trajectories", 4: "image"}
        if x.ndim in by_rank and x.dtype.kind in "biuf":
            return by_rank[x.ndim]
        raise DataError(
            f"x of shape {x.shape} and dtype {x.dtype} is of no known kind: expected numbers of shape (n, d), "
            "(n, T, d) or (n, C, H, W)"
        )
    if isinstance(x, list) and x:
        first = x[0]
        if isinstance(first, str):
            return "text"
        if _is_graph(first):
            return "graphs"
        if isinstance(first, np.ndarray) and first.ndim == 2:
            return "sets"
    raise DataError(
        f"x of type {type(x).__name__} is of no known kind: expected an array, a pandas DataFrame, a list of str, "
        "a list of graphs (with edge_index), or a list of (n_i, d) arrays"
    )


def as_samples(x: Any, kind: str | None = None) -> np.ndarray | pd.DataFrame | list:
    """Return ``x`` in the one form its modality has here, sharing memory wherever that is possible.

    Arrays and tensors become read-only arrays: (n, d) vectors, (n, T, d) trajectories, (n, C, H, W) images.
    Grey images may be (n, H, W) when they are ``uint8`` (or ``kind="image"``), and channels may come last
    (1, 3 or 4 of them): both are turned by a view. ``kind="sets"`` reads (n, m, d) as n sets of m points.

    Raises:
        DataError: when the samples differ in type or width, or have no known kind.

    Examples:
        >>> as_samples(np.zeros((5, 8, 8), np.uint8)).shape
        (5, 1, 8, 8)
        >>> len(as_samples(np.zeros((5, 3, 2)), kind="sets"))
        5
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    out = _as_samples(x, kind)
    found = kind_of(out)
    if kind is not None and found != kind:
        raise DataError(f"x was said to be {kind!r} but is {found!r} ({_shape_of(x)})")
    return out


def _as_samples(x: Any, kind: str | None) -> np.ndarray | pd.DataFrame | list:
    if isinstance(x, pd.DataFrame):
        duplicated = x.columns[x.columns.duplicated()]
        if len(duplicated):
            raise DataError(f"column {duplicated[0]!r} appears more than once; rename one of the two")
        x = x.copy(deep=False)
        x.index = pd.RangeIndex(len(x))
        x.columns = [str(c) for c in x.columns]
        return x
    if isinstance(x, pd.Series):
        x = x.tolist() if pd.api.types.is_string_dtype(x.dtype) or x.dtype == object else x.to_numpy()
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if isinstance(x, np.ndarray) and (x.dtype.kind in "UO"):
        x = x.tolist()
    if isinstance(x, np.ndarray):
        return _as_array_samples(x, kind)
    if hasattr(x, "tocsr"):
        raise DataError("x is a sparse matrix; give x.toarray(), or a reduced dense form of it")
    if isinstance(x, Sequence) and not isinstance(x, str):
        return _as_list_samples(list(x), kind)
    raise DataError(f"x must be an array, tensor, pandas DataFrame or list, got {type(x).__name__}")


def _as_array_samples(x: np.ndarray, kind: str | None) -> np.ndarray | list:
    if x.ndim == 1:
        raise DataError(f"x has shape {x.shape}: one number a sample is x.reshape(-1, 1)")
    if x.ndim == 3 and (kind == "image" or (kind is None and x.dtype == np.uint8)):
        x = x[:, None]
    elif x.ndim == 3 and kind == "sets":
        return [freeze(s) for s in x]
    elif x.ndim == 4 and x.shape[1] not in (1, 3, 4) and x.shape[-1] in (1, 3, 4):
        x = np.moveaxis(x, -1, 1)
    return freeze(x)


def _as_list_samples(x: list, kind: str | None) -> np.ndarray | list:
    if not x:
        raise DataError("x holds no samples")
    if isinstance(x[0], str) or kind == "text":
        for i, text in enumerate(x):
            if not isinstance(text, str):
                raise DataError(f"x, row {i}: expected a text (str), got {text!r} ({type(text).__name__})")
        return x
    if _is_graph(x[0]):
        for i, graph in enumerate(x):
            if not _is_graph(graph):
                raise DataError(f"x, row {i}: expected a graph with edge_index, got {type(graph).__name__}")
        return x
    try:
        arrays = [np.asarray(s.detach().cpu() if isinstance(s, Tensor) else s) for s in x]
    except ValueError as e:
        raise DataError(f"x is a list whose entries are not arrays: {e}") from e
    ranks = {a.ndim for a in arrays}
    bad = next((i for i, a in enumerate(arrays) if a.dtype.kind not in "biuf"), None)
    if bad is not None:
        raise DataError(f"x, row {bad}: expected numbers, got {x[bad]!r} ({type(x[bad]).__name__})")
    if ranks == {2}:
        widths = np.array([a.shape[1] for a in arrays])
        if (widths != widths[0]).any():
            i = int(np.flatnonzero(widths != widths[0])[0])
            raise DataError(
                f"x, row {i}: a set of shape {arrays[i].shape}, but row 0 has points of {widths[0]} numbers"
            )
        return [freeze(a) for a in arrays]
    if len(ranks) > 1 or len({a.shape for a in arrays}) > 1:
        i = next(i for i, a in enumerate(arrays) if a.shape != arrays[0].shape)
        raise DataError(f"x, row {i}: shape {arrays[i].shape}, but row 0 has shape {arrays[0].shape}")
    return _as_array_samples(np.stack(arrays), kind)


def take(x: Any, index: slice | np.ndarray) -> Any:
    """Return the samples at ``index``: a view for a slice, one gather for an integer array.

    Examples:
        >>> x = np.arange(6).reshape(3, 2)
        >>> np.shares_memory(take(x, slice(0, 2)), x)
        True
    """
    if isinstance(x, pd.DataFrame):
        return x.iloc[index]
    if isinstance(x, np.ndarray):
        return x[index]
    return x[index] if isinstance(index, slice) else [x[i] for i in index.tolist()]


def as_index(index: Any, n: int) -> slice | np.ndarray:
    """Return ``index`` as a slice where it is a run of rows (so that taking it copies nothing), else int64.

    Raises:
        IndexError: when a row lies outside ``[-n, n)``.
        DataError: for a mask of another length or an index that is not one-dimensional.

    Examples:
        >>> as_index([2, 3, 4], 9), as_index(np.array([True, False, True]), 3)
        (slice(2, 5, None), array([0, 2]))
    """
    if isinstance(index, slice):
        return index
    rows = np.atleast_1d(np.asarray(index.cpu() if isinstance(index, Tensor) else index))
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise DataError(f"a mask must have length {n}, got shape {rows.shape}")
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise DataError(f"an index must be a slice, row numbers or a mask, got {rows.dtype} of shape {rows.shape}")
    rows = rows.astype(np.int64, copy=False)
    if rows.size and (rows.min() < -n or rows.max() >= n):
        bad = rows[(rows < -n) | (rows >= n)][0]
        raise IndexError(f"row {bad} is out of range for {n} samples")
    rows = np.where(rows < 0, rows + n, rows)
    if rows.size and rows[-1] - rows[0] == rows.size - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def concat_samples(parts: Sequence[Any]) -> Any:
    """Return the samples of several parts, of one kind, one after another.

    Examples:
        >>> concat_samples([["a"], ["b", "c"]])
        ['a', 'b', 'c']
    """
    kinds = {kind_of(p) for p in parts}
    if len(kinds) > 1:
        raise DataError(f"parts of several kinds cannot be joined: {', '.join(sorted(kinds))}")
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(list(parts), ignore_index=True)
    if isinstance(parts[0], np.ndarray):
        shapes = {p.shape[1:] for p in parts}
        if len(shapes) > 1:
            raise DataError(f"parts of several shapes cannot be joined: {sorted(shapes)}")
        return np.concatenate(list(parts))
    return [s for p in parts for s in p]


def _is_graph(x: Any) -> bool:
    return hasattr(x, "edge_index")


def _shape_of(x: Any) -> str:
    return f"shape {tuple(x.shape)}" if hasattr(x, "shape") else type(x).__name__
