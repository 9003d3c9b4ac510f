"""What a model needs to know about its input: the kind, the shape and the statistics of the training data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["InputKind", "InputSignature"]

InputKind = Literal["vector", "image", "table", "text", "tokens", "sets", "graphs"]

_TUPLES = ("shape", "cardinalities", "mean", "std", "median", "missing")


@dataclass(frozen=True)
class InputSignature:
    """Kind, shape and training statistics of a model's input.

    Attributes:
        kind: ``"vector"`` (B, d) float; ``"image"`` (B, C, H, W) uint8 or float; ``"table"`` (B, n_numeric +
            n_categorical) float, numeric columns first with NaN for missing, then category codes (0 unseen,
            1 missing, 2.. known); ``"text"`` hashed n-grams as ``(ids (T,), offsets (B,))``; ``"tokens"`` a
            transformer's ``(input_ids (B, L), attention_mask (B, L))``; ``"sets"`` ``(values (B, N, d),
            mask (B, N))``; ``"graphs"`` a ``torch_geometric`` batch.
        shape: (d,), (C, H, W), (n_numeric + n_categorical,), (n_buckets,), (vocabulary,), (d,), (node features,).
        n_numeric: numeric columns of a table.
        cardinalities: number of codes of every categorical column, the two reserved ones included.
        mean, std: per feature, numeric column or image channel (after uint8 is scaled to [0, 1]).
        median: per numeric column of a table, used where a value is missing.
        missing: numeric columns of a table that had missing values in training.
        model: name or path of the transformer that made the tokens.

    Examples:
        >>> InputSignature("vector", (4,)).to_dict()["kind"]
        'vector'
    """

    kind: InputKind
    shape: tuple[int, ...]
    n_numeric: int = 0
    cardinalities: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    median: tuple[float, ...] = ()
    missing: tuple[int, ...] = ()
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> InputSignature:
        """Rebuild from :meth:`to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if k in _TUPLES else v for k, v in d.items()}
        return cls(**fields)
