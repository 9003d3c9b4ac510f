"""Backbones for vectors and tables: the perceptron, the standardised input itself, and the table's front."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.standardize import Standardize

__all__ = ["MLP", "FlatInput", "Identity", "TableInput", "embedding_width"]


def embedding_width(cardinality: int) -> int:
    """Return the width of a categorical embedding: ``min(32, round(1.6 * cardinality ** 0.56))``.

    Examples:
        >>> embedding_width(4), embedding_width(10_000)
        (3, 32)
    """
    return max(1, min(32, round(1.6 * cardinality**0.56)))


class FlatInput(nn.Module):
    """Standardise a vector, or an image by channel, and flatten it.

    Args:
        shape: (d,) of a vector or (C, H, W) of an image.
        mean, std: per feature of a vector, per channel of an image.

    Examples:
        >>> FlatInput((3, 2, 2))(torch.zeros(5, 3, 2, 2)).shape
        torch.Size([5, 12])
    """

    def __init__(self, shape: Sequence[int], mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        super().__init__()
        self.out_dim = math.prod(shape)
        self.standardize = Standardize(shape[0], mean, std, dim=1)

    def forward(self, x: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch out"]:
        """Return one flat row per sample."""
        return self.standardize(x).flatten(1)


class TableInput(nn.Module):
    """Turn the encoded columns of a table into one dense row.

    Numeric columns come first: NaN is replaced by the column's training median, the value is standardised, and
    one indicator per column of ``missing`` says whether it was missing. Categorical columns follow as codes (0 unseen,
    1 missing, 2.. known) and are embedded; a code that the table never had counts as unseen, NaN as missing.

    Args:
        n_numeric: number of numeric columns.
        cardinalities: codes of every categorical column, the two reserved ones included.
        mean, std, median: per numeric column; empty means 0, 1 and ``mean``.
        missing: numeric columns that get an indicator; ``None`` means all of them.

    Raises:
        ValueError: for a cardinality below 2, or statistics of the wrong length.

    Examples:
        >>> front = TableInput(1, (5,), mean=(2.0,), std=(1.0,), median=(3.0,))
        >>> front(torch.tensor([[float("nan"), 4.0]]))[0, :2]
        tensor([1., 1.], grad_fn=<...>)
    """

    median: Tensor
    limits: Tensor
    offsets: Tensor
    missing: Tensor

    def __init__(
        self,
        n_numeric: int,
        cardinalities: Sequence[int] = (),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        median: Sequence[float] = (),
        missing: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_number("n_numeric", n_numeric, low=0, integer=True)
        for c in cardinalities:
            check_number("cardinality", c, low=2, integer=True)
        if n_numeric + len(cardinalities) == 0:
            raise ValueError("a table needs at least one column, got none")
        if median and len(median) != n_numeric:
            raise ValueError(f"median must have {n_numeric} entries, one per numeric column, got {len(median)}")
        self.n_numeric = n_numeric
        self.standardize = Standardize(n_numeric, mean, std)
        self.register_buffer("median", torch.tensor(median) if median else self.standardize.mean.clone())
        flagged = torch.tensor(tuple(range(n_numeric) if missing is None else missing), dtype=torch.long)
        self.register_buffer("missing", flagged, persistent=False)
        limits = torch.tensor(tuple(cardinalities), dtype=torch.long)
        self.register_buffer("limits", limits, persistent=False)
        self.register_buffer("offsets", limits.cumsum(0) - limits, persistent=False)
        # One table for all columns: a single look-up, whatever their number.
        self.width = embedding_width(max(cardinalities)) if cardinalities else 0
        self.embedding = nn.Embedding(max(1, sum(cardinalities)), max(1, self.width)) if cardinalities else None
        self.out_dim = n_numeric + len(flagged) + self.width * len(cardinalities)

    def forward(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch out"]:
        """Return the dense row: values, missing-value indicators, embeddings."""
        parts = []
        if self.n_numeric:
            numeric = x[:, : self.n_numeric]
            missing = torch.isnan(numeric)
            filled = torch.where(missing, self.median.to(numeric.dtype), numeric)
            value = self.standardize(filled)
            parts += [value, missing[:, self.missing].to(value.dtype)]
        if self.embedding is not None:
            raw = x[:, self.n_numeric :]
            code = torch.where(torch.isnan(raw), torch.ones_like(raw), raw).long()
            code = torch.where((code < 0) | (code >= self.limits), torch.zeros_like(code), code)
            parts.append(self.embedding(code + self.offsets).flatten(1))
        return torch.cat(parts, dim=1)


class MLP(nn.Module):
    """Perceptron of ``depth`` hidden layers of ``width`` units with ReLU; its output is the last hidden layer.

    Args:
        front: a layer with ``out_dim`` that turns the raw input into flat rows.
        width, depth: units per hidden layer, number of hidden layers.
        dropout: rate after every hidden layer.

    Examples:
        >>> net = MLP(FlatInput((4,)), width=16, depth=2)
        >>> net.out_dim, net(torch.zeros(3, 4)).shape
        (16, torch.Size([3, 16]))
    """

    def __init__(self, front: FlatInput | TableInput, *, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_number("width", width, low=1, integer=True)
        check_number("depth", depth, low=1, integer=True)
        check_number("dropout", dropout, low=0, high=1, open_high=True)
        self.front = front
        self.out_dim = width
        layers: list[nn.Module] = []
        for i in range(depth):
            linear = nn.Linear(front.out_dim if i == 0 else width, width)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch out"]:
        """Return the last hidden layer."""
        return self.layers(self.front(x))


class Identity(nn.Module):
    """The flat, standardised input itself, so that a linear head on it is a linear model.

    Examples:
        >>> Identity(FlatInput((4,)))(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, front: FlatInput | TableInput) -> None:
        super().__init__()
        self.front = front
        self.out_dim = front.out_dim

    def forward(self, x: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch out"]:
        """Return the flat rows."""
        return self.front(x)
