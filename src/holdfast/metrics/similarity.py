"""How alike two representations of the same items are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.metrics._inputs import as_pair, centred, unit_rows
from holdfast.metrics.retrieval import nearest_neighbours

__all__ = [
    "cknna",
    "cross_space_mrr",
    "linear_cka",
    "mean_cosine",
    "minibatch_cka",
    "mutual_knn",
    "procrustes_distance",
    "topk_jaccard",
]


def linear_cka(z1: Any, z2: Any, *, unbiased: bool = False) -> float:
    r"""Linear centred kernel alignment of two representations; 1 for equal up to rotation and scale.

    .. math:: \frac{\lVert \bar Z_2^\top \bar Z_1 \rVert_F^2}
                   {\lVert \bar Z_1^\top \bar Z_1 \rVert_F\, \lVert \bar Z_2^\top \bar Z_2 \rVert_F}

    with centred columns. ``unbiased`` uses the unbiased estimate of the Hilbert-Schmidt independence criterion in
    numerator and denominator, which is near 0 for independent representations even when they are wide, and may be
    slightly negative.

    Args:
        z1: ``(n, d1)``.
        z2: ``(n, d2)``, the same items in the same order.
        unbiased: needs ``n >= 4`` and builds ``n x n`` kernels.

    Raises:
        ValueError: for different row counts, or a representation that is constant.

    Source: Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019;
    unbiased estimate: Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, eq. 4.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
        >>> rotated = 3 * z @ torch.tensor([[0.6, -0.8], [0.8, 0.6]])
        >>> round(linear_cka(z, rotated), 6)
        1.0
    """
    a, b = (centred(n, z) for n, z in zip(("z1", "z2"), as_pair("z1", z1, "z2", z2)))
    if unbiased:
        k, m = a @ a.T, b @ b.T
        return _ratio(_hsic(k, m), _hsic(k, k), _hsic(m, m))
    if max(a.shape[1], b.shape[1]) > len(a):  # the smaller of the two equal forms
        k, m = a @ a.T, b @ b.T
        return float((k * m).sum() / (k.norm() * m.norm()))
    return float((b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))


def minibatch_cka(batches: Iterable[tuple[Any, Any]]) -> float:
    r"""Linear centred kernel alignment from batches, for representations that do not fit into memory together.

    .. math:: \frac{\sum_i \mathrm{HSIC}_u(K_i, L_i)}
                   {\sqrt{\sum_i \mathrm{HSIC}_u(K_i, K_i)\,\sum_i \mathrm{HSIC}_u(L_i, L_i)}}

    over batches i with kernels :math:`K_i, L_i` of their rows. The estimates are unbiased, so the value does not
    depend on the size of the batches but for noise; with one batch it is ``linear_cka(..., unbiased=True)``.

    Args:
        batches: pairs ``(n_i, d1)``, ``(n_i, d2)`` of the same items, at least 4 each; a last batch of fewer rows is
            better left out.

    Raises:
        ValueError: for no batches, different row counts, or a representation that is constant.

    Source: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equation 3.

    Examples:
        >>> import torch
        >>> z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> round(minibatch_cka((part, -2 * part) for part in z.split(16)), 6)
        1.0
    """
    sums: list[Tensor] = []
    for z1, z2 in batches:
        a, b = (centred(n, z) for n, z in zip(("z1", "z2"), as_pair("z1", z1, "z2", z2)))
        k, m = a @ a.T, b @ b.T
        sums.append(torch.stack([_hsic(k, m), _hsic(k, k), _hsic(m, m)]).cpu())
    if not sums:
        raise ValueError("batches holds nothing: there must be at least one pair of representations")
    cross, own1, own2 = torch.stack(sums).sum(0)
    return _ratio(cross, own1, own2)


def cknna(z1: Any, z2: Any, k: int = 10, *, normalise: bool = True) -> float:
    r"""Centred kernel nearest-neighbour alignment: CKA that looks only at pairs that are neighbours in both spaces.

    With kernels :math:`K = Z_1 Z_1^\top`, :math:`L = Z_2 Z_2^\top` and the mask :math:`\alpha_{KL}(i, j) = 1` where
    ``j`` is among the ``k`` nearest of ``i`` under both kernels,

    .. math:: \frac{\mathrm{HSIC}_u(\alpha_{KL} K, \alpha_{KL} L)}
                   {\sqrt{\mathrm{HSIC}_u(\alpha_{KK} K, \alpha_{KK} K)\,\mathrm{HSIC}_u(\alpha_{LL} L, \alpha_{LL} L)}}

    where each term of the denominator uses its own mask and :math:`\mathrm{HSIC}_u` is the unbiased estimate. With
    ``k = n - 1`` this is ``linear_cka(..., unbiased=True)`` of the same rows.

    Args:
        z1: ``(n, d1)``, ``n >= 4``.
        z2: ``(n, d2)``, the same items in the same order.
        k: neighbours, at most ``n - 1``.
        normalise: scale rows to unit length first, so that the kernel is the cosine.

    Source: Huh, Cheung, Wang and Isola, "The Platonic Representation Hypothesis", ICML 2024, appendix A.

    Examples:
        >>> import torch
        >>> z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> round(cknna(z, -z, k=5), 6)
        1.0
    """
    a, b = as_pair("z1", z1, "z2", z2)
    if len(a) < 4:
        raise ValueError(f"the unbiased estimate needs at least 4 rows, got {len(a)}")
    check_number("k", k, low=1, high=len(a) - 1, integer=True)
    if normalise:
        a, b = unit_rows("z1", a), unit_rows("z2", b)
    kernel1, kernel2 = a @ a.T, b @ b.T
    mask1, mask2 = _neighbour_mask(kernel1, k), _neighbour_mask(kernel2, k)
    both = mask1 * mask2
    return _ratio(
        _hsic(both * kernel1, both * kernel2),
        _hsic(mask1 * kernel1, mask1 * kernel1),
        _hsic(mask2 * kernel2, mask2 * kernel2),
    )


def topk_jaccard(z1: Any, z2: Any, k: int = 5, metric: Literal["cosine", "l2"] = "cosine") -> float:
    r"""Mean overlap of what an item retrieves from space 2 by its vector of space 1 and by its vector of space 2.

    .. math:: \frac1n \sum_i \frac{|N_k(z^1_i; Z_2) \cap N_k(z^2_i; Z_2)|}{|N_k(z^1_i; Z_2) \cup N_k(z^2_i; Z_2)|}

    Both spaces need the same width: this asks whether vectors can be exchanged. For neighbourhoods compared each in
    its own space, see :func:`mutual_knn`.

    Source: Moschella et al., "Relative Representations Enable Zero-Shot Latent Space Communication", ICLR 2023,
    section 4.1.

    Examples:
        >>> z = [[0.0, 1.0], [1.0, 0.0], [1.0, 0.2], [0.1, 1.0]]
        >>> topk_jaccard(z, z, k=2)
        1.0
    """
    a, b = as_pair("z1", z1, "z2", z2)
    _same_width(a, b)
    return _jaccard(nearest_neighbours(a, b, k, metric).indices, nearest_neighbours(b, b, k, metric).indices, len(b))


def mutual_knn(z1: Any, z2: Any, k: int = 10, metric: Literal["cosine", "l2"] = "cosine") -> float:
    r"""Mean share of an item's ``k`` nearest others that both spaces agree on, each searched in its own space.

    .. math:: \frac{1}{nk} \sum_i |N_k(z^1_i; Z_1 \setminus i) \cap N_k(z^2_i; Z_2 \setminus i)|

    Source: Huh, Cheung, Wang and Isola, "The Platonic Representation Hypothesis", ICML 2024, section 2.

    Examples:
        >>> mutual_knn([[0.0], [1.0], [3.0]], [[5.0, 0], [4.0, 0], [0.0, 0]], k=1, metric="l2")
        1.0
    """
    a, b = as_pair("z1", z1, "z2", z2)
    found = [nearest_neighbours(z, z, k, metric, exclude_self=True).indices for z in (a, b)]
    return float(_shared(found[0], found[1], len(a)).mean() / k)


def cross_space_mrr(z1: Any, z2: Any, metric: Literal["cosine", "l2"] = "cosine") -> float:
    r"""Mean reciprocal rank of item ``i`` when its space-1 vector is the query in space 2.

    .. math:: \frac1n \sum_i \frac{1}{\mathrm{rank}_i},\qquad
              \mathrm{rank}_i = 1 + \#\{j : d_{ij} < d_{ii}\} + \tfrac12 \#\{j \ne i : d_{ij} = d_{ii}\}

    A space with itself gives 1 (without duplicates); unrelated spaces give about :math:`H_n / n`.

    Source: Moschella et al., "Relative Representations Enable Zero-Shot Latent Space Communication", ICLR 2023,
    section 4.1.

    Examples:
        >>> cross_space_mrr([[0.0, 1.0], [1.0, 0.0]], [[0.1, 1.0], [1.0, 0.1]])
        1.0
    """
    check_choice("metric", metric, ["cosine", "l2"])
    a, b = as_pair("z1", z1, "z2", z2)
    _same_width(a, b)
    if metric == "cosine":
        a, b = unit_rows("z1", a), unit_rows("z2", b)
    else:
        a, b = a - b.mean(0), b - b.mean(0)
    half_norms = 0 if metric == "cosine" else b.square().sum(1) / 2
    total = 0.0
    step = max(1, 2**25 // len(b))
    for start in range(0, len(a), step):
        closeness = a[start : start + step] @ b.T - half_norms
        rows = torch.arange(len(closeness), device=b.device)
        own = closeness[rows, rows + start][:, None]
        rank = 0.5 + (closeness > own).sum(1).double() + 0.5 * (closeness == own).sum(1)
        total += float(rank.reciprocal().sum())
    return total / len(a)


def mean_cosine(z1: Any, z2: Any) -> float:
    """Mean over items of the cosine between the item's two vectors.

    Examples:
        >>> mean_cosine([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]])
        0.5
    """
    a, b = as_pair("z1", z1, "z2", z2)
    _same_width(a, b)
    return float((unit_rows("z1", a) * unit_rows("z2", b)).sum(1).mean())


def procrustes_distance(z1: Any, z2: Any, *, center: bool = True, scale: bool = True) -> float:
    r"""Squared distance left after the best orthogonal map between two representations.

    .. math:: \min_{Q^\top Q = I} \lVert Z_1 - Z_2 Q \rVert_F^2
              = \lVert Z_1 \rVert_F^2 + \lVert Z_2 \rVert_F^2 - 2 \lVert Z_1^\top Z_2 \rVert_*

    With ``scale`` both have Frobenius norm 1, and the value lies in ``[0, 2]``. The narrower representation is
    understood as padded with zero columns.

    Source: Ding, Denain and Steinhardt, "Grounding Representation Similarity Through Statistical Testing",
    NeurIPS 2021, section 2.

    Examples:
        >>> round(procrustes_distance([[0.0, 1.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], center=False), 6)
        0.0
    """
    a, b = as_pair("z1", z1, "z2", z2)
    if center:
        a, b = centred("z1", a), centred("z2", b)
    if scale:
        if not (a.any() and b.any()):
            raise ValueError("a representation is zero everywhere and cannot be scaled to norm 1")
        a, b = a / a.norm(), b / b.norm()
    nuclear = torch.linalg.svdvals(a.T @ b).sum()
    return max(0.0, float(a.square().sum() + b.square().sum() - 2 * nuclear))


def _same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"vectors can only be exchanged between spaces of one width, got {a.shape[1]} and {b.shape[1]}"
        )


def _neighbour_mask(kernel: Tensor, k: int) -> Tensor:
    others = kernel.clone().fill_diagonal_(-torch.inf)
    return torch.zeros_like(kernel).scatter_(1, others.topk(k, dim=1).indices, 1.0)


def _hsic(k: Tensor, m: Tensor) -> Float[Tensor, ""]:
    n = len(k)
    if n < 4:
        raise ValueError(f"the unbiased estimate needs at least 4 rows, got {n}")
    k, m = k.clone().fill_diagonal_(0), m.clone().fill_diagonal_(0)
    trace = (k * m.T).sum()
    total = k.sum() * m.sum() / ((n - 1) * (n - 2))
    cross = 2 * (k.sum(0) @ m.sum(1)) / (n - 2)
    return (trace + total - cross) / (n * (n - 3))


def _ratio(cross: Tensor, own1: Tensor, own2: Tensor) -> float:
    if float(own1) <= 0 or float(own2) <= 0:
        raise ValueError("a representation has no self-alignment at this k (too few rows, or rows that all agree)")
    return float(cross / (own1 * own2).sqrt())


def _shared(i1: Tensor, i2: Tensor, n: int) -> Float[Tensor, " rows"]:
    shared = torch.empty(len(i1), dtype=torch.float64, device=i1.device)
    step = max(1, 2**25 // n)
    for start in range(0, len(i1), step):
        a = i1[start : start + step]
        member = torch.zeros(len(a), n, dtype=torch.bool, device=a.device).scatter_(1, a, True)
        shared[start : start + step] = member.gather(1, i2[start : start + step]).sum(1).double()
    return shared


def _jaccard(i1: Tensor, i2: Tensor, n: int) -> float:
    shared = _shared(i1, i2, n)
    return float((shared / (2 * i1.shape[1] - shared)).mean())
