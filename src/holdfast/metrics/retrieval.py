"""Retrieval: exact nearest neighbours, and the scores of a ranked list."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.metrics._inputs import as_codes, as_float, unit_rows

__all__ = [
    "Neighbours",
    "hit_at_k",
    "label_hits",
    "mean_average_precision",
    "mrr",
    "nearest_neighbours",
    "precision_at_k",
    "recall_at_k",
    "relevant_counts",
    "top1",
]

_ENTRIES = 2**25  # distances held at once


class Neighbours(NamedTuple):
    """Neighbours of each query, nearest first."""

    distances: Float[Tensor, "queries k"]
    indices: Int[Tensor, "queries k"]


def nearest_neighbours(
    queries: Any,
    gallery: Any,
    k: int,
    metric: Literal["cosine", "l2"] = "cosine",
    *,
    exclude_self: bool = False,
    chunk: int | None = None,
) -> Neighbours:
    r"""Exact ``k`` nearest neighbours by brute force, in chunks of queries.

    The distance is :math:`1 - \cos(q, g)` for ``"cosine"`` and :math:`\lVert q - g\rVert_2` for ``"l2"``. The
    search runs in the dtype and on the device of ``queries`` (float32 or float64). Ties come in no fixed order.

    Args:
        queries: ``(n, d)``.
        gallery: ``(m, d)``.
        k: neighbours per query, at most ``m`` (``m - 1`` with ``exclude_self``).
        metric: ``"cosine"`` or ``"l2"``.
        exclude_self: query ``i`` *is* gallery row ``i`` and must not find itself.
        chunk: queries per chunk; by default what keeps the distance block near 128 MiB.

    Raises:
        ValueError: for different widths, ``k`` out of range, entries that are not finite, or a zero row with
            ``"cosine"`` (the row is named).

    Examples:
        >>> found = nearest_neighbours([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.1], [1.0, 1.0]], k=2)
        >>> found.indices.tolist()
        [[1, 2]]
    """
    check_choice("metric", metric, ["cosine", "l2"])
    q = as_float("queries", queries, ndim=2, dtype=None)
    g = as_float("gallery", gallery, ndim=2, dtype=None).to(q)
    if q.shape[1] != g.shape[1]:
        raise ValueError(f"queries have {q.shape[1]} columns but the gallery has {g.shape[1]}")
    if exclude_self and len(q) != len(g):
        raise ValueError(f"exclude_self needs one gallery row per query, got {len(q)} queries and {len(g)} rows")
    check_number("k", k, low=1, high=len(g) - int(exclude_self), integer=True)
    if chunk is None:
        chunk = max(1, _ENTRIES // len(g))
    check_number("chunk", chunk, low=1, integer=True)
    if metric == "cosine":
        q, g = unit_rows("queries", q), unit_rows("gallery", g)
        offset = None
    else:
        # Distances do not see a common shift; removing it keeps |q|^2 - 2qg + |g|^2 from cancelling.
        mean = g.mean(0)
        q, g = q - mean, g - mean
        offset = g.square().sum(1)
    distances, indices = [], []
    for start in range(0, len(q), chunk):
        block = q[start : start + chunk]
        if offset is None:
            d = torch.mm(block, g.T).neg_().add_(1)
        else:
            d = torch.addmm(offset.expand(len(block), -1), block, g.T, alpha=-2)
        if exclude_self:
            rows = torch.arange(len(block), device=d.device)
            d[rows, rows + start] = torch.inf
        value, index = d.topk(k, dim=1, largest=False)
        if offset is not None:
            value = (value + block.square().sum(1, keepdim=True)).clamp_min_(0).sqrt_()
        distances.append(value)
        indices.append(index)
    return Neighbours(torch.cat(distances), torch.cat(indices))


def label_hits(query_labels: Any, gallery_labels: Any, indices: Any) -> Bool[Tensor, "queries k"]:
    """Say for each retrieved item whether its label is the query's.

    Examples:
        >>> label_hits(["cat"], ["dog", "cat"], [[1, 0]]).tolist()
        [[True, False]]
    """
    (both,), _ = as_codes(labels=np.concatenate([_plain(query_labels), _plain(gallery_labels)]))
    q, g = both[: len(query_labels)], both[len(query_labels) :]
    index = torch.as_tensor(indices).cpu()
    if index.ndim != 2 or len(index) != len(q):
        raise ValueError(f"indices must have shape ({len(q)}, k), got {tuple(index.shape)}")
    return g[index] == q[:, None]


def relevant_counts(query_labels: Any, gallery_labels: Any) -> Int[Tensor, " queries"]:
    """Count the gallery items that carry each query's label (its class size).

    Examples:
        >>> relevant_counts([1, 0], [0, 1, 1]).tolist()
        [2, 1]
    """
    (both,), values = as_codes(labels=np.concatenate([_plain(query_labels), _plain(gallery_labels)]))
    q, g = both[: len(query_labels)], both[len(query_labels) :]
    return torch.bincount(g, minlength=len(values))[q]


def precision_at_k(hits: Any, k: int | None = None) -> float:
    """Mean share of hits among the first ``k``.

    Examples:
        >>> precision_at_k([[1, 0, 1, 1]], k=2)
        0.5
    """
    return float(_first(hits, k).mean())


def recall_at_k(hits: Any, n_relevant: Any, k: int | None = None) -> float:
    """Mean over queries of the hits among the first ``k``, divided by all relevant gallery items (the class size).

    Raises:
        ValueError: where a query has no relevant item, or fewer than it has hits.

    Examples:
        >>> recall_at_k([[1, 0, 1]], n_relevant=[4], k=3)
        0.5
    """
    h = _first(hits, k)
    return float((h.sum(1) / _relevant(h, n_relevant)).mean())


def mean_average_precision(
    hits: Any,
    k: int | None = None,
    *,
    denominator: Literal["k", "relevant", "hits"] = "k",
    n_relevant: Any = None,
) -> float:
    r"""Mean average precision of the first ``k`` retrieved items.

    .. math:: \mathrm{mAP@}k = \frac1Q \sum_q \frac{1}{D_q} \sum_{i \le k} \mathbb 1[\text{hit}_{qi}]\, P_q@i

    Args:
        hits: ``(queries, at least k)``, best first.
        k: length of the list that counts; all of it by default.
        denominator: :math:`D_q`. ``"k"``: the list's length (Kusupati et al., "Matryoshka Representation
            Learning", NeurIPS 2022); ``"relevant"``: ``min(k, n_relevant)``, so that the best possible list scores
            1; ``"hits"``: the hits among the first ``k`` (average precision of the list itself; a list without a
            hit scores 0).
        n_relevant: ``(queries,)`` relevant items in the gallery; only, and necessarily, with ``"relevant"``.

    Raises:
        ValueError: for hits that are not 0/1, ``k`` out of range, or ``n_relevant`` missing or too small.

    Examples:
        >>> round(mean_average_precision([[1, 0, 1]], k=3), 4)  # (1 + 2/3) / 3
        0.5556
        >>> round(mean_average_precision([[1, 0, 1]], k=3, denominator="hits"), 4)  # (1 + 2/3) / 2
        0.8333
    """
    check_choice("denominator", denominator, ["k", "relevant", "hits"])
    if (denominator == "relevant") != (n_relevant is not None):
        raise ValueError("n_relevant goes with denominator='relevant', and only with it")
    h = _first(hits, k)
    ranks = torch.arange(1, h.shape[1] + 1, dtype=h.dtype, device=h.device)
    total = (h * h.cumsum(1) / ranks).sum(1)
    if denominator == "k":
        return float((total / h.shape[1]).mean())
    if denominator == "hits":
        return float((total / h.sum(1).clamp_min(1)).mean())
    return float((total / _relevant(h, n_relevant).clamp_max(h.shape[1])).mean())


def mrr(hits: Any, k: int | None = None) -> float:
    """Mean reciprocal rank of the first hit; a list without a hit counts 0.

    Examples:
        >>> mrr([[0, 1, 1], [1, 0, 0]])
        0.75
    """
    h = _first(hits, k)
    first = h.argmax(1)  # of the first maximum
    return float((h.amax(1) / (first + 1)).mean())


def hit_at_k(hits: Any, k: int | None = None) -> float:
    """Share of queries with at least one hit among the first ``k``.

    Examples:
        >>> hit_at_k([[0, 1], [0, 0]], k=2)
        0.5
    """
    return float(_first(hits, k).amax(1).mean())


def top1(hits: Any) -> float:
    """Share of queries whose nearest neighbour is a hit (1-nearest-neighbour accuracy).

    Examples:
        >>> top1([[1, 0], [0, 1]])
        0.5
    """
    return precision_at_k(hits, 1)


def _plain(labels: Any) -> np.ndarray:
    a = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if a.ndim != 1 or a.size == 0:
        raise ValueError(f"labels must be a non-empty vector, got shape {a.shape}")
    return a


def _first(hits: Any, k: int | None) -> Float[Tensor, "queries k"]:
    h = as_float("hits", hits, ndim=2)
    if bool(((h != 0) & (h != 1)).any()):
        raise ValueError("hits must be 0 or 1 (compare labels first, see label_hits)")
    if k is not None:
        check_number("k", k, low=1, high=h.shape[1], integer=True)
    return h[:, :k]


def _relevant(h: Tensor, n_relevant: Any) -> Tensor:
    n = as_float("n_relevant", n_relevant, ndim=1).to(h.device)
    if len(n) != len(h):
        raise ValueError(f"n_relevant must have one entry per query, got {len(n)} for {len(h)}")
    bad = (n < 1) | (n < h.sum(1))
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise ValueError(f"n_relevant must be positive and at least the hits, but query {i} has {n[i]:g}")
    return n
