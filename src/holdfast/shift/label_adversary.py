"""The general label-distributionally robust loss: any penalty, simplex or capped simplex, solved exactly."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_finite, check_matrix, check_number
from holdfast.shift.label_robust import Reduction, check_temperature, reduce, score_gaps

__all__ = ["label_dro", "project_capped_simplex"]

Divergence = Literal["kl", "l2", "none"]


def project_capped_simplex(
    v: Float[Tensor, "batch k"], cap: float | None = None, *, full: bool = True
) -> Float[Tensor, "batch k"]:
    r"""Euclidean projection of every row on :math:`\{0 \le p_k \le b, \sum_k p_k = 1\}` (or :math:`\le 1`).

    .. math:: p_k = \min(b, \max(0, v_k - \nu)), \quad \nu \text{ such that } \sum_k p_k = 1

    The sum is piecewise linear in :math:`\nu` with breakpoints :math:`v_k` and :math:`v_k - b`: sort them, accumulate
    slope times gap, and interpolate. Cost :math:`O(K \log K)` a row.

    Args:
        v: the points.
        cap: b, at most 1; ``None`` for no cap.
        full: whether the weights must sum to exactly 1, else to at most 1.

    Raises:
        ValueError: when ``full`` and ``cap * k < 1`` (the set is empty), or for non-finite points.

    Examples:
        >>> import torch
        >>> project_capped_simplex(torch.tensor([[2.0, 0.2, 0.0]]), cap=0.5)
        tensor([[0.5000, 0.3500, 0.1500]])
    """
    check_matrix("v", v)
    check_finite("v", v)
    k = v.shape[1]
    bound = 1.0 if cap is None else check_number("cap", cap, low=0, high=1, open_low=True)
    if full and bound * k < 1 - 1e-9:
        raise ValueError(f"no weights with cap {bound:g} sum to 1 over {k} classes; cap must be at least {1 / k:g}")
    knots, order = torch.cat([v, v - bound], 1).sort(dim=1, descending=True)
    step = torch.cat([v.new_ones(k), -v.new_ones(k)])
    slope = step[order].cumsum(1)
    mass = torch.cat([v.new_zeros(len(v), 1), (slope[:, :-1] * (knots[:, :-1] - knots[:, 1:])).cumsum(1)], 1)
    # First breakpoint whose mass reaches 1; before it the mass grows with the slope of the breakpoint to its left.
    reached = mass >= 1 - 8 * torch.finfo(v.dtype).eps
    hit = torch.where(reached.any(1), reached.to(torch.int8).argmax(1), 2 * k - 1).clamp(min=1).unsqueeze(1)
    left = hit - 1
    nu = knots.gather(1, left) - (1 - mass.gather(1, left)) / slope.gather(1, left).clamp(min=1)
    if not full:
        nu = nu.clamp(min=0)
        nu = torch.where(v.clamp(0, bound).sum(1, keepdim=True) <= 1, torch.zeros_like(nu), nu)
    return (v - nu).clamp(0, bound)


def _largest(gaps: Tensor) -> Tensor:
    """Equal weight on the tied largest gaps."""
    top = (gaps == gaps.amax(1, keepdim=True)).to(gaps.dtype)
    return top / top.sum(1, keepdim=True)


def _capped_linear(gaps: Tensor, cap: float) -> Tensor:
    """Weights that maximise the sum of p * gaps: fill the largest positive gaps up to the cap."""
    ordered, order = gaps.sort(dim=1, descending=True)
    before = cap * torch.arange(gaps.shape[1], dtype=gaps.dtype, device=gaps.device)
    fill = (1 - before).clamp(0, cap) * (ordered > 0)
    return torch.zeros_like(gaps).scatter(1, order, fill)


def _capped_kl(gaps: Tensor, cap: float, lam: Tensor) -> Tensor:
    """Weights min(cap, exp(gaps / lambda - nu) / K) with the smallest nu >= 0 whose sum is at most 1."""
    k = gaps.shape[1]
    z, order = (gaps / lam).sort(dim=1, descending=True)
    tail = torch.logcumsumexp(z.flip(1), 1).flip(1)
    left = 1 - cap * torch.arange(k, dtype=gaps.dtype, device=gaps.device)
    shift = torch.where(left > 0, left.clamp_min(1e-30).log() - tail, -math.inf)
    # With the j largest at the cap, the next one must fit under it; the first j that does is the answer.
    fits = (z + shift <= math.log(cap) + 1e-9) & (left > 0)
    first = torch.where(fits.any(1), fits.to(torch.int8).argmax(1), 0).unsqueeze(1)
    offset = torch.where(fits.any(1, keepdim=True), shift.gather(1, first), math.inf).clamp(max=-math.log(k))
    p = (z + offset).clamp(max=math.log(cap)).exp()
    return torch.zeros_like(gaps).scatter(1, order, p)


def _penalty(p: Tensor, divergence: str) -> Tensor:
    """The convex penalty R(p) of every row; zero at uniform weights."""
    k = p.shape[1]
    if divergence == "kl":
        return torch.xlogy(p, k * p).sum(1) - p.sum(1) + 1
    if divergence == "l2":
        return 0.5 * k * (p - 1 / k).square().sum(1)
    return p.new_zeros(len(p))


def label_dro(
    scores: Float[Tensor, "batch k"],
    target: Int[Tensor, " batch"],
    divergence: Divergence = "kl",
    cap: float | None = None,
    temperature: float | Float[Tensor, " batch"] = 1.0,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> tuple[Tensor, Float[Tensor, "batch k"]]:
    r"""General label-distributionally robust loss and the adversary's weights.

    .. math:: \psi(f, y) = \max_{p \in \Omega} \sum_k p_k \delta_k - \lambda R(p), \qquad
        \delta_k = f_k - f_y + c\,\mathbb 1[k \ne y]

    ``cap=None`` is the simplex; ``cap=b`` is :math:`\{0 \le p_k \le b, \sum_k p_k \le 1\}`. ``"kl"`` is
    :math:`R(p) = \sum_k p_k \log(K p_k) - \sum_k p_k + 1` (the KL divergence to uniform weights on the simplex),
    ``"l2"`` is :math:`\tfrac K2 \lVert p - u\rVert^2` (weights like sparsemax), ``"none"`` is 0 and ignores the
    temperature. So ``divergence="none"`` gives the Crammer-Singer loss on the simplex and, with ``cap=1/m``, the
    top-m support vector loss: the mean of the m largest gaps, each clipped at 0.

    The weights are solved exactly (sorting); the loss differentiates through the gaps alone (envelope theorem).

    Raises:
        ValueError: for a cap outside (0, 1], an unknown divergence, and as :func:`holdfast.shift.ldr_kl`.

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification", ICML 2023,
    the general family and its table of special cases.

    Examples:
        >>> import torch
        >>> f, y = torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([3])
        >>> loss, p = label_dro(f, y, divergence="none", cap=1 / 2)
        >>> loss, p
        (tensor(2.5000), tensor([[0.5000, 0.0000, 0.5000, 0.0000]]))
    """
    check_choice("divergence", divergence, ["kl", "l2", "none"])
    if cap is not None:
        check_number("cap", cap, low=0, high=1, open_low=True)
    gaps = score_gaps(scores, target, margin)
    check_temperature(temperature, len(gaps))
    n, k = gaps.shape
    d = gaps.detach()
    lam = torch.as_tensor(temperature, dtype=d.dtype, device=d.device).expand(n)
    cold, hot = lam <= torch.finfo(d.dtype).eps ** 2, torch.isinf(lam)
    if cap is not None and cap * k < 1 and bool(hot.any()):
        raise ValueError(f"an infinite temperature needs uniform weights, which a cap of {cap:g} < 1/{k} forbids")
    if divergence == "none":
        cold, hot = torch.ones_like(cold), torch.zeros_like(hot)
    safe = torch.where(cold | hot, torch.ones_like(lam), lam).unsqueeze(1)
    if divergence == "l2":
        p = project_capped_simplex(1 / k + d / (safe * k), cap, full=cap is None)
    elif cap is None:
        p = torch.softmax(d / safe, 1)
    else:
        p = _capped_kl(d, cap, safe)
    linear = _largest(d) if cap is None else _capped_linear(d, cap)
    uniform = torch.full_like(d, 1 / k)
    p = torch.where(cold.unsqueeze(1), linear, torch.where(hot.unsqueeze(1), uniform, p))
    paid = torch.where(cold | hot, torch.zeros_like(lam), lam) * _penalty(p, divergence)
    return reduce((p * gaps).sum(1) - paid, reduction), p
