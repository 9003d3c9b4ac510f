"""Retrieval with nested embeddings: a shortlist by a short prefix, re-ranked by longer ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.core.checks import check_choice, check_finite, check_matrix, check_number
from holdfast.metrics.retrieval import Neighbours
from holdfast.nn.matryoshka import check_dims, nesting_dims, truncate_embed
from holdfast.representation.inner_product_search import InnerProductTable

__all__ = ["AdaptiveRetriever"]

Queries = Float[Tensor, "queries d"] | Float[np.ndarray, "queries d"]

_FORMAT = 1
_RERANK_FLOATS = 2_000_000


class AdaptiveRetriever:
    r"""Nearest neighbours at the cost of a short prefix.

    *Adaptive retrieval* takes the ``k_short`` nearest vectors by the prefix of length :math:`D_s` and re-ranks them
    by that of length :math:`D_r`; *funnel retrieval* re-ranks ever shorter lists by ever longer prefixes. A query
    costs

    .. math:: n D_s + \sum_i k_i D_i

    multiply-adds instead of :math:`n D`. Under ``"cosine"`` every prefix, of the database and of the query, is
    normalised by its own norm, so distances compare across queries: :math:`1 - \cos`, or :math:`\lVert q - x\rVert_2`
    under ``"l2"``.

    Args:
        db: database embeddings (n, d).
        dims: prefix lengths that will be asked for; powers of two from 8 by default. A contiguous table is kept
            for each length once it is used.
        metric: ``"cosine"`` or ``"l2"``.
        backend: what makes the first shortlist: ``"torch"`` (exact, any device), ``"faiss"`` (exact, flat index) or
            ``"faiss-hnsw"`` (approximate graph; both need the extra ``holdfast[retrieval]``).
        hnsw_links, hnsw_search: links per node and breadth of the search of ``"faiss-hnsw"``.

    Raises:
        ValueError: for vectors that are not finite, a prefix of norm zero under ``"cosine"`` (named by its row), a
            wrong nesting list, or queries of another length.
        ImportError: for a faiss backend without faiss.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Section 4.3.

    Examples:
        >>> db = torch.tensor([[1.0, 0.0, 0.0, 0.9], [1.0, 0.1, 0.0, -1.0], [0.0, 1.0, 0.0, 0.0]])
        >>> retriever = AdaptiveRetriever(db, dims=[2, 4])
        >>> q = torch.tensor([[1.0, 0.05, 0.0, -1.0]])
        >>> retriever.search(q, shortlist_dim=2, rerank_dim=4, k_short=2, k=1).indices
        tensor([[1]])
        >>> retriever.flops(2, [4], [2]), retriever.flops(4)
        (14, 12)
    """

    def __init__(
        self,
        db: Float[Tensor, "n d"] | Float[np.ndarray, "n d"],
        dims: Sequence[int] | None = None,
        metric: Literal["cosine", "l2"] = "cosine",
        backend: Literal["torch", "faiss", "faiss-hnsw"] = "torch",
        hnsw_links: int = 32,
        hnsw_search: int = 64,
    ) -> None:
        db = torch.as_tensor(db)
        check_matrix("db", db)
        if not db.numel():
            raise ValueError(f"db must hold at least one vector, got shape {tuple(db.shape)}")
        check_finite("db", db)
        self.metric = check_choice("metric", metric, ["cosine", "l2"])
        self.backend = check_choice("backend", backend, ["torch", "faiss", "faiss-hnsw"])
        self.n, self.d = db.shape
        self.dims = check_dims(nesting_dims(self.d, min(8, self.d)) if dims is None else dims, self.d)
        self.hnsw_links = int(check_number("hnsw_links", hnsw_links, low=2, integer=True))
        self.hnsw_search = int(check_number("hnsw_search", hnsw_search, low=1, integer=True))
        full = truncate_embed(db.float(), self.d, normalize=metric == "cosine")
        self._tables: dict[int, Tensor] = {self.d: full.contiguous()}
        self._indexes: dict[int, Any] = {}
        if backend != "torch":
            _import_faiss()

    # -- search ----------------------------------------------------------------------------------------------------

    def exact(self, q: Queries, k: int, dim: int | None = None) -> Neighbours:
        """Return the ``k`` nearest by the prefix of length ``dim`` (default: the full vector)."""
        dim = self.d if dim is None else dim
        return self.funnel(q, dim, [], [], k=k)

    def search(
        self,
        q: Queries,
        shortlist_dim: int,
        rerank_dim: int,
        k_short: int = 200,
        k: int = 10,
    ) -> Neighbours:
        """Shortlist ``k_short`` by ``shortlist_dim``, re-rank them by ``rerank_dim``, return the first ``k``."""
        return self.funnel(q, shortlist_dim, [rerank_dim], [k_short], k=k)

    def funnel(
        self,
        q: Queries,
        start_dim: int,
        dims: Sequence[int],
        shortlists: Sequence[int],
        k: int | None = None,
    ) -> Neighbours:
        """Rank by ``start_dim``; then, stage by stage, re-order the first ``shortlists[i]`` by ``dims[i]``.

        Args:
            q: queries.
            start_dim: length that ranks the whole database.
            dims: lengths of the re-ranking stages, strictly increasing, none below ``start_dim``.
            shortlists: how many candidates each stage looks at, strictly decreasing; more than the database holds
                are clipped with a warning.
            k: results per query; all of the last stage's by default.

        Raises:
            ValueError: for lists of different lengths or of the wrong order, or ``k`` beyond the last shortlist.
        """
        q = self._check_queries(q)
        stages, k = self._check_stages(start_dim, dims, shortlists, k)
        scores, rows = self._first(q, start_dim, stages[0][1] if stages else k, ordered=not stages)
        for dim, size in stages:
            scores, rows = self._rerank(q, rows[:, :size], dim)
        last = stages[-1][0] if stages else start_dim
        return Neighbours(self._distances(scores[:, :k], self._query(q, last)), rows[:, :k])

    def flops(self, start_dim: int, dims: Sequence[int] = (), shortlists: Sequence[int] = ()) -> int:
        """Return the multiply-adds of one query; with ``start_dim`` alone those of exact search at that length."""
        stages, _ = self._check_stages(start_dim, dims, shortlists, None if len(dims) else 1)
        return self.n * start_dim + sum(dim * size for dim, size in stages)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables built so far (a faiss graph's links are not counted)."""
        indexes = sum(t.nbytes for t in self._indexes.values() if isinstance(t, InnerProductTable))
        return sum(t.nbytes for t in self._tables.values()) + indexes

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the vectors (safetensors) and the settings (JSON) to the folder ``path``."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        save_file({"db": self._tables[self.d].cpu()}, path / "vectors.safetensors")
        settings = {
            "format": _FORMAT,
            "dims": list(self.dims),
            "metric": self.metric,
            "backend": self.backend,
            "hnsw_links": self.hnsw_links,
            "hnsw_search": self.hnsw_search,
        }
        (path / "index.json").write_text(json.dumps(settings, indent=2) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path, backend: Literal["torch", "faiss", "faiss-hnsw"] | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: when ``path`` is no index folder.
            ValueError: for an index of a newer format.
        """
        path = Path(path)
        if not (path / "index.json").is_file():
            raise FileNotFoundError(f"{path} is no retrieval index: it holds no index.json")
        settings = json.loads((path / "index.json").read_text())
        if settings.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} was written in another index format than {_FORMAT}; upgrade, or index again")
        if backend is not None:
            settings["backend"] = backend
        return cls(load_file(path / "vectors.safetensors")["db"], **settings)

    # -- stages ----------------------------------------------------------------------------------------------------

    def _first(self, q: Tensor, dim: int, k: int, ordered: bool) -> tuple[Tensor, Tensor]:
        if dim not in self._indexes:
            self._indexes[dim] = self._make_index(dim)
        index, query = self._indexes[dim], self._query(q, dim)
        if isinstance(index, InnerProductTable):
            return index.top(query, k, ordered)
        found, rows = index.search(query.cpu().numpy(), k)
        scores, rows = torch.from_numpy(found).to(q.device), torch.from_numpy(rows).to(q.device)
        if self.metric == "l2":
            scores = (query.square().sum(1, keepdim=True) - scores) / 2
        return scores, rows

    def _make_index(self, dim: int) -> Any:
        table = self._cut(dim)
        if self.backend == "torch":
            return InnerProductTable(table, -table.square().sum(1) / 2 if self.metric == "l2" else None)
        faiss = _import_faiss()
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        if self.backend == "faiss":
            index = faiss.IndexFlat(dim, metric)
        else:
            index = faiss.IndexHNSWFlat(dim, self.hnsw_links, metric)
            index.hnsw.efSearch = self.hnsw_search
        index.add(table.cpu().contiguous().numpy())
        return index

    def _rerank(self, q: Tensor, rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        table, query = self._table(dim), self._query(q, dim)
        n_rows = rows.shape[1]
        parts = []
        step = max(1, _RERANK_FLOATS // (n_rows * dim))
        for some, candidates in zip(query.split(step), rows.split(step)):
            # An approximate index marks a place it could not fill by -1.
            vectors = table.index_select(0, candidates.clamp(min=0).view(-1)).view(len(some), n_rows, dim)
            score = torch.bmm(vectors, some[:, :, None])[:, :, 0]
            if self.metric == "l2":
                score -= vectors.square().sum(2) / 2
            parts.append(score.masked_fill(candidates < 0, -torch.inf))
        scores, order = torch.cat(parts).sort(dim=1, descending=True, stable=True)
        return scores, rows.gather(1, order)

    def _table(self, dim: int) -> Tensor:
        if dim not in self._tables:
            self._tables[dim] = self._cut(dim).contiguous()
        return self._tables[dim]

    def _cut(self, dim: int) -> Tensor:
        return truncate_embed(self._tables[self.d], dim, normalize=self.metric == "cosine" and dim < self.d)

    def _query(self, q: Tensor, dim: int) -> Tensor:
        return truncate_embed(q, dim, normalize=self.metric == "cosine").contiguous()

    def _distances(self, scores: Tensor, query: Tensor) -> Tensor:
        if self.metric == "cosine":
            return 1 - scores
        return (query.square().sum(1, keepdim=True) - 2 * scores).clamp(min=0).sqrt()

    # -- checks ----------------------------------------------------------------------------------------------------

    def _check_queries(self, q: Queries) -> Tensor:
        q = torch.as_tensor(q)
        check_matrix("q", q, columns=self.d)
        check_finite("q", q)
        return q.to(self._tables[self.d])

    def _check_stages(
        self, start_dim: int, dims: Sequence[int], shortlists: Sequence[int], k: int | None
    ) -> tuple[list[tuple[int, int]], int]:
        if len(dims) != len(shortlists):
            raise ValueError(f"every re-ranking length needs a shortlist: {len(dims)} lengths, {len(shortlists)} lists")
        for dim in (start_dim, *dims):
            if dim not in (*self.dims, self.d):
                raise ValueError(f"lengths must be among the retriever's {sorted({*self.dims, self.d})}, got {dim}")
        if len(dims):
            check_dims(dims, self.d)
            if dims[0] < start_dim:
                raise ValueError(f"re-ranking lengths must not be below the first one, {start_dim}; got {list(dims)}")
        sizes = [int(check_number(f"shortlists[{i}]", s, low=1, integer=True)) for i, s in enumerate(shortlists)]
        if any(b >= a for a, b in pairwise(sizes)):
            raise ValueError(f"shortlists must be strictly decreasing, got {sizes}")
        if k is None and not sizes:
            raise ValueError("without re-ranking stages, k must say how many results to return")
        k = sizes[-1] if k is None else int(check_number("k", k, low=1, integer=True))
        if sizes and k > sizes[-1]:
            raise ValueError(f"k must not exceed the last shortlist, {sizes[-1]}; got {k}")
        if max([*sizes, k]) > self.n:
            warnings.warn(
                f"asked for {max([*sizes, k])} candidates of {self.n}: clipped to the database",
                UserWarning,
                stacklevel=4,
            )
        return [(int(m), min(s, self.n)) for m, s in zip(dims, sizes)], min(k, self.n)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("the faiss backends need faiss-cpu: pip install 'holdfast[retrieval]'") from error
    return faiss
