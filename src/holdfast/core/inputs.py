"""From what people have (arrays, tables, texts, images, sets, graphs) to what a network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite
from holdfast.core.signature import InputKind, InputSignature

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Encoded", "InputEncoder", "input_kind"]

TEXT_BUCKETS = 2**15
MAX_CATEGORIES = 1000
_CHANNELS = (1, 2, 3, 4)


class Encoded(Protocol):
    """Encoded rows: a length, and model input for any tensor of row indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Any: ...


@dataclass(frozen=True)
class _Bags:
    """Hashed n-grams of every text, laid out as one compressed sparse row matrix."""

    ids: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        begin, length = self.starts[index], self.starts[index + 1] - self.starts[index]
        offsets = torch.cumsum(length, 0) - length
        positions = torch.arange(int(length.sum())) + torch.repeat_interleave(begin - offsets, length)
        return self.ids[positions], offsets


@dataclass(frozen=True)
class _Sets:
    """Sets of different sizes, stored end to end and padded when a batch is drawn."""

    values: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        begin, length = self.starts[index], self.starts[index + 1] - self.starts[index]
        step = torch.arange(int(length.max()))
        mask = step < length[:, None]
        return self.values[(begin[:, None] + step).where(mask, begin[:, None])] * mask[..., None], mask


@dataclass(frozen=True)
class _Stacked:
    """Several tensors that are indexed together."""

    parts: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Tensor) -> tuple[Tensor, ...]:
        return tuple(p[index] for p in self.parts)


@dataclass(frozen=True)
class _Graphs:
    graphs: list[Any]

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, index: Tensor) -> Any:
        from torch_geometric.data import Batch

        return Batch.from_data_list([self.graphs[i] for i in index.tolist()])


def _is_text(x: Any) -> bool:
    if isinstance(x, pd.Series):
        return not pd.api.types.is_numeric_dtype(x)
    if isinstance(x, np.ndarray):
        return x.ndim == 1 and (x.dtype.kind in "UT" or (x.dtype == object and all(isinstance(t, str) for t in x)))
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(isinstance(t, str) for t in x)


def _is_graphs(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and len(x) > 0 and hasattr(x[0], "edge_index")


def _is_sets(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype == object and x.ndim == 1 and len(x) > 0 and getattr(x[0], "ndim", 0) == 2
    return isinstance(x, (list, tuple)) and len(x) > 0 and getattr(x[0], "ndim", 0) == 2


def input_kind(x: Any) -> InputKind:
    """Say which kind of input ``x`` is.

    Tables are pandas frames; texts are sequences of ``str``; sets are sequences of ``(n_i, d)`` arrays; graphs
    are sequences of ``torch_geometric`` data; images are arrays with three or four axes; the rest are vectors.

    Raises:
        TypeError: for objects that are none of these.

    Examples:
        >>> input_kind(["a text", "another"])
        'text'
        >>> input_kind(np.zeros((2, 8, 8)))
        'image'
    """
    if isinstance(x, pd.DataFrame):
        return "table"
    if _is_graphs(x):
        return "graphs"
    if _is_text(x):
        return "text"
    if _is_sets(x):
        return "sets"
    ndim = x.ndim if isinstance(x, (np.ndarray, Tensor)) else np.ndim(x)
    if ndim in (3, 4):
        return "image"
    if ndim == 2:
        return "vector"
    raise TypeError(
        "x must be an array (n, d), images (n, H, W[, C]), a pandas table, a list of texts, a list of (n_i, d) "
        f"sets or a list of graphs; got {type(x).__name__} with {ndim} axes"
    )


def _as_channels_first(x: Any) -> Tensor:
    t = as_tensor(x)
    if t.ndim == 3:
        t = t[:, None]
    elif t.shape[1] not in _CHANNELS and t.shape[3] in _CHANNELS:
        t = t.permute(0, 3, 1, 2)
    elif t.shape[1] not in _CHANNELS:
        raise ValueError(f"images must have 1 to 4 channels, first or last; got shape {tuple(t.shape)}")
    return t.contiguous() if t.dtype == torch.uint8 else t.to(torch.float32).contiguous()


def _moments(t: Tensor, dims: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    t = t.double()
    mean = t.mean(dims)
    std = t.std(dims, unbiased=False)
    # A feature that hardly moves relative to its size is constant up to rounding: dividing would amplify noise.
    std = torch.where(std > 1e-8 * mean.abs().clamp_min(1e-12), std, torch.ones_like(std))
    return tuple(mean.tolist()), tuple(std.tolist())


@dataclass
class InputEncoder:
    """Turns raw input into rows a network reads, the same way at training and at prediction time.

    Built by :meth:`fit`; holds the input's signature and, for tables, the columns and categories seen in training.
    Everything in it is JSON, so a saved model carries its preprocessing.

    Examples:
        >>> frame = pd.DataFrame({"age": [30.0, None, 50.0], "site": ["a", "b", "a"]})
        >>> encoder = InputEncoder.fit(frame)
        >>> encoder.encode(pd.DataFrame({"age": [40.0], "site": ["new"]})).tolist()
        [[40.0, 0.0]]
    """

    signature: InputSignature
    numeric: tuple[str, ...] = ()
    categories: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def fit(cls, x: Any, *, text_model: str = "") -> InputEncoder:
        """Learn the signature of ``x``.

        Args:
            x: training input of any kind that :func:`input_kind` names.
            text_model: name or local path of a transformers model; texts become its tokens instead of n-grams.

        Raises:
            ValueError: when ``x`` is empty, not finite (other than missing values in a table), or ragged where it
                must not be.
        """
        kind = input_kind(x)
        if len(x) == 0:
            raise ValueError("x holds no samples")
        if kind == "table":
            return cls._fit_table(x)
        if kind == "text":
            if text_model:
                tokenizer = _tokenizer(text_model)
                return cls(InputSignature("tokens", (len(tokenizer),), model=text_model))
            return cls(InputSignature("text", (TEXT_BUCKETS,)))
        if kind == "sets":
            values, _ = _flatten_sets(x)
            mean, std = _moments(values, (0,))
            return cls(InputSignature("sets", (values.shape[1],), mean=mean, std=std))
        if kind == "graphs":
            return cls(InputSignature("graphs", (int(x[0].x.shape[1]),)))
        if kind == "image":
            t = _as_channels_first(x)
            check_finite("x", t)
            sample = t[:: max(1, len(t) // 2000)]
            sample = sample.float() / 255 if t.dtype == torch.uint8 else sample
            mean, std = _moments(sample, (0, 2, 3))
            return cls(InputSignature("image", tuple(t.shape[1:]), mean=mean, std=std))
        t = as_tensor(np.asarray(x, dtype=np.float32))
        check_finite("x", t)
        mean, std = _moments(t, (0,))
        return cls(InputSignature("vector", (t.shape[1],), mean=mean, std=std))

    @classmethod
    def _fit_table(cls, x: pd.DataFrame) -> InputEncoder:
        duplicated = x.columns[x.columns.duplicated()].tolist()
        if duplicated:
            raise ValueError(f"column names must be unique, but {duplicated[0]!r} appears more than once")
        numeric, categories = [], {}
        for name in x.columns:
            column = cast("pd.Series", x[name])
            if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
                numeric.append(name)
            else:
                counts = column.dropna().astype(str).value_counts()
                categories[str(name)] = sorted(counts.index[:MAX_CATEGORIES].tolist())
        columns = [_numeric_column(cast("pd.Series", x[c]), str(c)) for c in numeric]
        values = np.stack(columns, 1) if columns else np.zeros((len(x), 0))
        seen = ~np.isnan(values)
        count = np.maximum(seen.sum(0), 1)
        median = [float(np.median(v[s])) if s.any() else 0.0 for v, s in zip(values.T, seen.T)]
        filled = np.where(seen, values, 0.0)
        mean = filled.sum(0) / count
        std = np.sqrt((np.where(seen, values - mean, 0.0) ** 2).sum(0) / count)
        std = np.where(std > 1e-8 * np.maximum(np.abs(mean), 1e-12), std, 1.0)
        signature = InputSignature(
            "table",
            (len(numeric) + len(categories),),
            n_numeric=len(numeric),
            cardinalities=tuple(len(c) + 2 for c in categories.values()),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            median=tuple(median),
            missing=tuple(np.flatnonzero(~seen.all(0)).tolist()),
        )
        return cls(signature, tuple(str(c) for c in numeric), categories)

    def encode(self, x: Any) -> Encoded:
        """Encode ``x`` as the training data was encoded.

        Raises:
            ValueError: when the kind, a column, the width or the image shape differs from training, or a value is
                not finite.
        """
        want = self.signature
        if want.kind == "table":
            return self._encode_table(x)
        kind = input_kind(x)
        if kind != ("text" if want.kind == "tokens" else want.kind):
            raise ValueError(f"the model was fitted on {want.kind} input, got {kind}")
        if kind == "text":
            texts = [str(t) for t in x]
            return _tokenize(texts, want.model) if want.kind == "tokens" else _hash_ngrams(texts, want.shape[0])
        if kind == "sets":
            values, starts = _flatten_sets(x)
            if values.shape[1] != want.shape[0]:
                raise ValueError(f"set elements must have {want.shape[0]} features, got {values.shape[1]}")
            return _Sets(values, starts)
        if kind == "graphs":
            return _Graphs(list(x))
        t = _as_channels_first(x) if kind == "image" else as_tensor(np.asarray(x, dtype=np.float32))
        if tuple(t.shape[1:]) != want.shape:
            raise ValueError(f"the model was fitted on {kind} input of shape {want.shape}, got {tuple(t.shape[1:])}")
        check_finite("x", t)
        return t

    def _encode_table(self, x: Any) -> Tensor:
        if not isinstance(x, pd.DataFrame):
            names = [*self.numeric, *self.categories]
            if np.ndim(x) == 2 and not self.categories and np.shape(x)[1] == len(names):
                x = pd.DataFrame(np.asarray(x), columns=names)
            else:
                raise ValueError(f"the model was fitted on a table with columns {names}, got {type(x).__name__}")
        x = x.rename(columns=str)
        missing = [c for c in (*self.numeric, *self.categories) if c not in x.columns]
        if missing:
            raise ValueError(f"column {missing[0]!r} is missing ({len(missing)} missing in all: {missing})")
        out = np.empty((len(x), self.signature.shape[0]), dtype=np.float32)
        for j, name in enumerate(self.numeric):
            out[:, j] = _numeric_column(x[name], name)
        for j, (name, known) in enumerate(self.categories.items(), start=len(self.numeric)):
            column = x[name]
            codes = pd.Index(known, dtype=object).get_indexer(pd.Index(column.astype(str), dtype=object))
            out[:, j] = np.where(column.isna(), 1, np.where(codes < 0, 0, codes + 2))
        return torch.from_numpy(out)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "signature": self.signature.to_dict(),
            "numeric": list(self.numeric),
            "categories": [[k, v] for k, v in self.categories.items()],
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> InputEncoder:
        """Rebuild from :meth:`to_dict`."""
        return cls(InputSignature.from_dict(d["signature"]), tuple(d["numeric"]), dict(map(tuple, d["categories"])))


def _numeric_column(column: pd.Series, name: str) -> np.ndarray:
    if pd.api.types.is_datetime64_any_dtype(column):
        days = (column - pd.Timestamp("1970-01-01", tz=getattr(column.dt, "tz", None))) / pd.Timedelta(days=1)
        return days.to_numpy(dtype=np.float64, na_value=np.nan)
    try:
        values = cast("pd.Series", pd.to_numeric(column)).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        numbers = cast("pd.Series", pd.to_numeric(column, errors="coerce"))
        bad = numbers.isna() & column.notna()
        row = int(np.argmax(bad.to_numpy()))
        raise ValueError(
            f"column {name!r} was numeric in training, but row {row} holds {column.iloc[row]!r}"
        ) from error
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(f"column {name!r} must be finite or missing, but row {int(np.argmax(infinite))} is infinite")
    return values


def _flatten_sets(x: Sequence[Any]) -> tuple[Tensor, Tensor]:
    arrays = [np.asarray(s, dtype=np.float32) for s in x]
    widths = {a.shape[1] if a.ndim == 2 else -1 for a in arrays}
    if len(widths) > 1 or -1 in widths:
        raise ValueError(f"every set must be an (n_i, d) array with the same d, got widths {sorted(widths)}")
    empty = [i for i, a in enumerate(arrays) if len(a) == 0]
    if empty:
        raise ValueError(f"set {empty[0]} is empty")
    values = torch.from_numpy(np.concatenate(arrays))
    check_finite("x", values)
    starts = np.concatenate([[0], np.cumsum([len(a) for a in arrays])])
    return values, torch.from_numpy(starts.astype(np.int64))


def _hash_ngrams(texts: list[str], n_buckets: int) -> _Bags:
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        n_features=n_buckets,
        ngram_range=(1, 2),
        alternate_sign=False,
        norm=None,  # pyright: ignore[reportArgumentType]
        token_pattern=r"(?u)\b\w+\b",
    )
    rows = cast("csr_matrix", hashing.transform(texts))
    return _Bags(torch.from_numpy(rows.indices.astype(np.int64)), torch.from_numpy(rows.indptr.astype(np.int64)))


def _tokenizer(model: str) -> Any:
    if find_spec("transformers") is None:
        raise ImportError('a transformer backbone needs: pip install "holdfast[text]"')
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def _tokenize(texts: list[str], model: str) -> _Stacked:
    tokens = _tokenizer(model)(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    return _Stacked((tokens["input_ids"], tokens["attention_mask"]))
