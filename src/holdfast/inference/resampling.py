"""Resamplers on tensors: from log-weights to ancestors, in one pass over any batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice

__all__ = ["RESAMPLERS", "resample_indices"]


def _fill(below: Tensor) -> Tensor:
    """Return ancestors in order from ``below[j]``, the number of slots that ancestors up to ``j`` take."""
    n = below.shape[-1]
    marks = torch.zeros((*below.shape[:-1], n + 1), dtype=torch.int64, device=below.device)
    marks.scatter_add_(-1, below, torch.ones_like(below))
    # Slot i descends from the first ancestor whose slots reach beyond i.
    return marks.cumsum(-1)[..., :n].clamp_max_(n - 1)


def _edges(w: Tensor) -> Tensor:
    """Return cumulative shares; the last is exactly 1, and so is every one that only weights of 0 follow."""
    edges = w.cumsum(-1)
    return edges.div_(edges[..., -1:].clone())


def _systematic(w: Tensor, generator: torch.Generator | None) -> Tensor:
    n = w.shape[-1]
    u = torch.rand((*w.shape[:-1], 1), dtype=w.dtype, device=w.device, generator=generator)
    below = _edges(w).mul_(n).sub_(u).ceil_().clamp_min_(0)
    return _fill(below.long())


def _stratified(w: Tensor, generator: torch.Generator | None) -> Tensor:
    n = w.shape[-1]
    u = torch.rand(w.shape, dtype=w.dtype, device=w.device, generator=generator)
    edge = _edges(w).mul_(n)
    stratum = edge.long().clamp_max_(n - 1)
    below = stratum + (u.gather(-1, stratum) < edge - stratum)
    return _fill(below)


def _multinomial(w: Tensor, generator: torch.Generator | None) -> Tensor:
    # Uniform order statistics from exponential gaps: sorted queries walk through the table once.
    n = w.shape[-1]
    gaps = torch.empty((*w.shape[:-1], n + 1), dtype=w.dtype, device=w.device).exponential_(generator=generator)
    points = gaps.cumsum(-1)
    points = points[..., :n] / points[..., n:]
    return _search(w, points)


def _search(w: Tensor, points: Tensor) -> Tensor:
    return torch.searchsorted(_edges(w), points, right=True).clamp_max_(w.shape[-1] - 1)


def _residual(w: Tensor, generator: torch.Generator | None) -> Tensor:
    n = w.shape[-1]
    expected = w * (n / w.sum(-1, keepdim=True))
    # A product a hair below a whole number is that number.
    sure = (expected * (1 + 1e-12)).floor_()
    kept = sure.cumsum(-1)
    rest = (expected - sure).clamp_min_(0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, w)
    points = torch.rand(w.shape, dtype=w.dtype, device=w.device, generator=generator)
    drawn = _search(rest, points)
    slots = torch.arange(n, device=w.device).expand(w.shape)
    return torch.where(slots < kept[..., -1:], _fill(kept.clamp_max(n).long()), drawn)


RESAMPLERS: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "multinomial": _multinomial,
    "stratified": _stratified,
    "systematic": _systematic,
    "residual": _residual,
}
"""From weights (..., n) in double precision, of any positive total, to ancestors (..., n)."""


def resample_indices(
    logw: Float[Tensor, "*batch n"], method: str = "systematic", generator: torch.Generator | None = None
) -> Int[Tensor, "*batch n"]:
    r"""Draw ``n`` ancestors from ``n`` log-weights, independently for every row of the batch.

    Every method gives particle :math:`i` an expected number of offspring :math:`n w_i / W`:

    * ``"multinomial"``: ``n`` independent draws;
    * ``"stratified"``: one point in each of ``n`` equal strata of the cumulative weights;
    * ``"systematic"``: the same point in every stratum, so counts are
      :math:`\lfloor n w_i / W \rfloor` or :math:`\lceil n w_i / W \rceil`; the draws depend on one another;
    * ``"residual"``: :math:`\lfloor n w_i / W \rfloor` copies each, the rest by independent draws.

    Args:
        logw: log-weights, in any scale; ``-inf`` for a particle of weight 0.
        method: the resampler.
        generator: random state, on the device of ``logw``.

    Returns:
        Ancestors of the ``n`` offspring; the identity for a row whose weights are all 0.

    Raises:
        ValueError: for no particle, a log-weight that is NaN or ``+inf``, or an unknown method.

    References:
        Douc, Cappé, Moulines, "Comparison of resampling schemes for particle filtering", 2005.

    Examples:
        >>> import math
        >>> logw = torch.tensor([0.5, 0.25, 0.25, 0.0]).log()
        >>> resample_indices(logw, "systematic", torch.Generator().manual_seed(0)).tolist()
        [0, 0, 1, 2]
    """
    draw = RESAMPLERS[check_choice("method", method, sorted(RESAMPLERS))]
    if logw.ndim == 0 or logw.shape[-1] == 0:
        raise ValueError(f"resampling needs at least one particle, got log-weights of shape {tuple(logw.shape)}")
    w = logw.double()
    top = w.amax(-1, keepdim=True)
    if not bool((top < float("inf")).all()):
        raise ValueError("log-weights must be below +inf and not NaN")
    dead = top == -float("inf")
    any_dead = bool(dead.any())
    w = torch.where(dead, 0.0, w - top).exp() if any_dead else (w - top).exp_()
    index = draw(w, generator)
    if any_dead:
        index = torch.where(dead, torch.arange(w.shape[-1], device=w.device), index)
    return index
