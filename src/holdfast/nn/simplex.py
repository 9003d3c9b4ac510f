"""Classifiers whose class prototypes are fixed at the vertices of a regular simplex."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.contract import EmbeddingContract, tensor_digest

__all__ = ["FixedSimplexClassifier", "simplex_vertices"]

_OWNER_BYTES = 32


def simplex_vertices(
    n_classes: int,
    dim: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "classes dim"]:
    r"""Unit vertices of the regular simplex with ``n_classes`` corners, centred at the origin.

    .. math:: \langle w_i, w_j \rangle = -\tfrac{1}{K-1} \;(i \neq j), \qquad \textstyle\sum_i w_i = 0

    The unit vectors :math:`e_1 \dots e_{K-1}` and :math:`\frac{1-\sqrt{K}}{K-1}\mathbf 1` are equidistant; centring
    and normalising them gives the table. Every entry has a closed form, which is evaluated in double precision
    and cast, so the table is the same on every machine and exact also for thousands of classes.

    Args:
        n_classes: K, at least 2.
        dim: number of columns, K - 1 by default; more columns are filled with zeros (an isometry).

    Raises:
        ValueError: for fewer than two classes, or ``dim`` below K - 1.

    Source: Biondi, Pernici, Ricci, Del Bimbo, "Stationary Representations: Optimally Approximating
    Compatibility and Implications for Improved Model Replacements", CVPR 2024, Section 3 (d-Simplex classifier).

    Examples:
        >>> w = simplex_vertices(3)
        >>> [round(v, 4) + 0.0 for v in (w @ w.T)[0].tolist()]
        [1.0, -0.5, -0.5]
        >>> simplex_vertices(2).tolist()
        [[1.0], [-1.0]]
    """
    check_number("n_classes", n_classes, low=2, integer=True)
    n = n_classes - 1
    dim = n if dim is None else int(check_number("dim", dim, integer=True))
    if dim < n:
        raise ValueError(f"a simplex with {n_classes} vertices needs dim >= {n}, got {dim}")
    last = (1.0 - math.sqrt(n_classes)) / n
    mean = (1.0 + last) / n_classes
    norm = math.sqrt((1.0 - mean) ** 2 + (n - 1) * mean**2)
    table = torch.zeros(n_classes, dim, dtype=torch.float64)
    table[:n, :n] = -mean / norm
    table[:n, :n].fill_diagonal_((1.0 - mean) / norm)
    table[n, :n] = math.copysign(1.0 / math.sqrt(n), last - mean)
    return table.to(device=device, dtype=dtype)


def _table(n_classes: int, dim: int | None) -> Float[Tensor, "classes dim"]:
    if dim is None or dim >= n_classes - 1:
        return simplex_vertices(n_classes, dim)
    check_number("dim", dim, low=1, integer=True)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(n_classes - 1, dim, generator=generator, dtype=torch.float64)
    table = simplex_vertices(n_classes, dtype=torch.float64) @ projection
    return (table / table.norm(dim=1, keepdim=True)).float()


class FixedSimplexClassifier(nn.Module):
    r"""Linear classifier whose weights are simplex vertices that never train.

    .. math:: o = W \phi, \qquad \phi = P x \in \mathbb R^{K-1}

    Every model that uses the same table sends class :math:`c` to the same direction :math:`w_c`, today and after
    any update, so that features of different models can be compared. ``K`` is an upper bound on all classes that
    anyone will ever use. Column ``y`` of the logits is table row ``K - 1 - y`` with ``offset="end"`` (classes
    of one's own tasks) and row ``y`` with ``offset="start"`` (classes of an external pre-training), so that
    the two never collide while together they need at most K rows; :meth:`claim` keeps the books.

    Args:
        in_dim: entries of the input.
        n_preallocated: K, at least 2.
        offset: end of the table from which classes are taken.
        project: learn a bias-free linear map from ``in_dim`` to the feature space. Without it ``in_dim`` must be
            the feature dimension.
        dim: entries of the feature space; K - 1 by default, larger values pad the table by zeros. Smaller ones make
            features cheaper to keep and search: the table is compressed by a fixed random projection and
            renormalised, which gives up exact equiangularity.

    Raises:
        ValueError: for K < 2, or an input of the wrong dimension without projection.

    Source: Pernici, Bruni, Baecchi, Del Bimbo, "Regular Polytope Networks", TNNLS 2021; Biondi et al., CVPR 2024.

    Examples:
        >>> import torch
        >>> head = FixedSimplexClassifier(8, n_preallocated=5)
        >>> head(torch.zeros(2, 8)).shape, head.features(torch.zeros(2, 8)).shape
        (torch.Size([2, 5]), torch.Size([2, 4]))
        >>> head.claim([0, 1], owner="shop").tolist()
        [4, 3]
    """

    vertices: Tensor
    owners: Tensor

    def __init__(
        self,
        in_dim: int,
        n_preallocated: int,
        *,
        offset: Literal["end", "start"] = "end",
        project: bool = True,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.in_dim = int(check_number("in_dim", in_dim, low=1, integer=True))
        self.offset = check_choice("offset", offset, ["end", "start"])
        self.register_buffer("vertices", _table(n_preallocated, dim))
        self.n_preallocated, self.dim = self.vertices.shape
        if not project and self.in_dim != self.dim:
            raise ValueError(
                f"without projection the input must have the table's {self.dim} entries "
                f"(n_preallocated={n_preallocated}), got in_dim={in_dim}"
            )
        self.projection = nn.Linear(self.in_dim, self.dim, bias=False) if project else nn.Identity()
        # One row per class with its owner's name as bytes, so that any state_dict format carries the books.
        self.register_buffer("owners", torch.zeros(n_preallocated, _OWNER_BYTES, dtype=torch.uint8))

    def rows(self, labels: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Table rows of local labels: ``K - 1 - y`` or ``y`` (an involution either way)."""
        return self.n_preallocated - 1 - labels if self.offset == "end" else labels

    @property
    def prototypes(self) -> Float[Tensor, "classes dim"]:
        """The table in the order of the logits."""
        return self.vertices.flip(0) if self.offset == "end" else self.vertices

    def features(self, x: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch dim"]:
        """The stationary representation: the input in the coordinates of the table."""
        if x.shape[-1] != self.in_dim:
            raise ValueError(f"the head expects inputs with {self.in_dim} entries, got {x.shape[-1]}")
        return self.projection(x)

    def forward(self, x: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of all K classes, in the order of local labels."""
        return self.features(x) @ self.prototypes.mT

    def claim(self, labels: int | Sequence[int] | Tensor, owner: str) -> Int[Tensor, " n"]:
        """Reserve the rows of local labels (``int``: that many, from 0) for ``owner``; return the rows.

        Claiming rows of one's own again is allowed.

        Raises:
            ValueError: when there are more classes than rows, a row belongs to someone else, or the name is empty
                or longer than 32 bytes.
        """
        name = owner.encode()
        if not 0 < len(name) <= _OWNER_BYTES:
            raise ValueError(f"owner must have 1 to {_OWNER_BYTES} bytes in UTF-8, got {owner!r}")
        wanted = range(labels) if isinstance(labels, int) else labels
        wanted = torch.as_tensor(wanted if isinstance(wanted, Tensor) else list(wanted), dtype=torch.int64)
        outside = wanted[(wanted < 0) | (wanted >= self.n_preallocated)]
        if len(outside):
            raise ValueError(
                f"{owner!r} claims class {int(outside.max())}, "
                f"but the table has {self.n_preallocated} rows, for classes 0 to {self.n_preallocated - 1}"
            )
        rows = self.rows(wanted)
        mine = torch.zeros(_OWNER_BYTES, dtype=torch.uint8)
        mine[: len(name)] = torch.tensor(list(name), dtype=torch.uint8)
        mine = mine.to(self.owners.device)
        held = self.owners[rows.to(self.owners.device)]
        taken = (held != 0).any(1) & (held != mine).any(1)
        if bool(taken.any()):
            i = int(taken.nonzero()[0])
            free = int((self.owners == 0).all(1).sum())
            raise ValueError(
                f"{owner!r} claims {len(rows)} rows, but row {int(rows[i])} (class {int(wanted[i])}) belongs to "
                f"{self.owner_of(int(rows[i]))!r}; {free} of {self.n_preallocated} rows are free"
            )
        self.owners[rows.to(self.owners.device)] = mine
        return rows

    def owner_of(self, row: int) -> str:
        """Who claimed a table row; empty when nobody did."""
        return bytes(self.owners[row].tolist()).rstrip(b"\0").decode()

    @property
    def contract(self) -> EmbeddingContract:
        """What another model must share for its features to be comparable: K and the table."""
        return EmbeddingContract("simplex", self.n_preallocated, tensor_digest(self.vertices))

    def extra_repr(self) -> str:
        return f"in_dim={self.in_dim}, n_preallocated={self.n_preallocated}, offset={self.offset!r}"
