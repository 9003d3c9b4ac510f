"""Entropic transport: the debiased Sinkhorn divergence."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.core.checks import check_number
from holdfast.metrics.distances.point_sets import mean_square, point_sets, squared_distances

__all__ = ["sinkhorn_divergence"]

_BLOCK = 10  # scalings between two passes in the logarithmic domain
_COOLING = 0.25  # of the entropic weight, from the largest cost down


def sinkhorn_divergence(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    *,
    eps: float | Float[Tensor, "*batch"] | None = None,
    share: float = 0.05,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Debiased Sinkhorn divergence with squared cost; it tends to the squared Wasserstein-2 distance as eps falls.

    .. math:: S_\epsilon(x, y) = \mathrm{OT}_\epsilon(x, y) - \tfrac12 \mathrm{OT}_\epsilon(x, x) -
              \tfrac12 \mathrm{OT}_\epsilon(y, y),\qquad \mathrm{OT}_\epsilon = \min_\pi \langle \pi, \lVert x - y
              \rVert^2 \rangle + \epsilon\, \mathrm{KL}(\pi \Vert a \otimes b)

    The entropic weight comes down from the largest cost to ``eps``, then scalings go on until the marginals of the
    plan are right. The value is that of the dual problem, so its error is of second order in that of the marginals.
    Gradients (for points and weights, not for ``eps``) are those of the plan found (the envelope theorem): they take
    memory of the size of the points, whatever the number of iterations. They cannot be differentiated again.

    Args:
        x, y: sets, (n, d) and (m, d), or batches of them.
        eps: entropic weight, one or one for each pair of sets; by default ``share`` of their mean squared distance.
        share: see ``eps``.
        tolerance: largest total error of the plan's marginals, which lies in [0, 2].
        max_iterations: of the scalings at the last weight; there is a warning where they do not suffice.
        x_weights, y_weights: of the points, not negative; they are divided by their sum.
        x_mask, y_mask: True where a point counts; the others may hold anything.

    Raises:
        TypeError: for points of another type than floats, or of two types.
        ValueError: for shapes that do not fit, negative weights, a set without weight, or a weight eps that is not
            positive.

    Source: Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS 2019;
    scalings between passes as in Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized transport
    problems", SIAM J. Scientific Computing 2019.

    Examples:
        >>> x = torch.randn(8, 2)
        >>> sinkhorn_divergence(x, x + 3).round(decimals=2)
        tensor(18.)
    """
    check_number("share", share, low=0, open_low=True)
    check_number("tolerance", tolerance, low=0, open_low=True)
    check_number("max_iterations", max_iterations, low=1, integer=True)
    s = point_sets(x, y, x_weights, y_weights, x_mask, y_mask)
    a, b = s.weights()
    if eps is None:
        with torch.no_grad():
            scale = share * mean_square(s.x, s.y, a, b)
            weight = scale.clamp_min(torch.finfo(s.x.dtype).tiny ** 0.5)
    else:
        weight = torch.as_tensor(eps, dtype=s.x.dtype, device=s.x.device).detach()
        if weight.ndim > 1 or (weight.ndim == 1 and len(weight) != len(s.x)):
            raise ValueError(f"eps must be one number or one for each of {len(s.x)} pairs, got {tuple(weight.shape)}")
        if not torch.compiler.is_compiling() and not bool((weight > 0).all()):
            raise ValueError(f"eps must be in (0, inf), got {float(weight.min()):g}")
        weight = weight.expand(len(s.x))
    return s.out(_Divergence.apply(s.x, s.y, a, b, weight, tolerance, int(max_iterations)))  # type: ignore[arg-type]


class _Divergence(torch.autograd.Function):
    """The divergence (B,) of weighted sets, with the gradients of the envelope theorem."""

    @staticmethod
    @torch.compiler.disable
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, eps: Tensor, tolerance: float, limit: int
    ) -> Tensor:
        e = eps[:, None]
        wants = ctx.needs_input_grad
        cost = squared_distances(x, y)
        g = _cross_potential(cost, a, b, e, tolerance, limit)
        logits = _logits(cost, g, b, e)
        f = -e * logits.logsumexp(2)
        value = (a * f).sum(1) + (b * g).sum(1)
        grads: list[Tensor | None] = [None] * 4
        grads[0] = logits.softmax(2) @ y if wants[0] else None
        if wants[1] or wants[3]:
            logits = _logits(cost.mT, f, a, e)
            grads[1] = logits.softmax(2) @ x if wants[1] else None
            grads[3] = -e * logits.logsumexp(2)
        grads[2] = f
        for side, (points, w) in enumerate(((x, a), (y, b))):
            cost = squared_distances(points, points)
            p = _self_potential(cost, w, e, tolerance, limit)
            logits = _logits(cost, p, w, e)
            q = -e * logits.logsumexp(2)
            value = value - 0.5 * (w * (p + q)).sum(1)
            image, potential = grads[side], grads[2 + side]
            if image is not None:
                grads[side] = 2 * w[..., None] * (logits.softmax(2) @ points - image)
            grads[2 + side] = potential - q if wants[2 + side] and potential is not None else None
        ctx.save_for_backward(*grads)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gx, gy, ga, gb = ctx.saved_tensors
        points = (None if g is None else grad[:, None, None] * g for g in (gx, gy))
        weights = (None if g is None else grad[:, None] * g for g in (ga, gb))
        return (*points, *weights, None, None, None)


def _logits(cost: Tensor, g: Tensor, b: Tensor, e: Tensor) -> Tensor:
    """Return (B, n, m) whose softmax over columns are the rows of the plan, and whose logsumexp is minus f / eps."""
    return (g / e + b.log())[:, None] - cost / e[..., None]


def _floor(t: Tensor) -> Tensor:
    """Keep what is divided by away from 0; a step that this shortens goes on in the next block."""
    return t.clamp_min(torch.finfo(t.dtype).tiny ** 0.8)


def _cross_potential(cost: Tensor, a: Tensor, b: Tensor, eps: Tensor, tolerance: float, limit: int) -> Tensor:
    """Return the potential g (B, m) of the columns.

    A block starts with a pass in the logarithmic domain, which makes the rows right; then come scalings of rows and
    columns, which are products with vectors.
    """
    top = cost.amax((1, 2))[:, None]
    stages = max(0, math.ceil(math.log(max(float((top / eps).max()), 1.0)) / -math.log(_COOLING)))
    a, b = a[:, None], b[:, None]
    g, error = torch.zeros_like(b[:, 0]), torch.zeros_like(eps)
    for block in range(stages + math.ceil(limit / _BLOCK)):
        e = torch.maximum(eps, top * _COOLING ** (block + 1))
        plan = _logits(cost, g, b[:, 0], e).softmax(2)
        column = a @ plan
        if block >= stages:
            error = (column - b).abs().sum((1, 2))
            if bool((error <= tolerance).all()):
                return g
        turned = plan.mT.contiguous()
        v = torch.ones_like(b)
        for _ in range(_BLOCK):
            v = torch.where(b > 0, b / _floor(column), 1)
            column = (a / _floor(v @ turned)) @ plan
        g = g + e * v[:, 0].log()
    warnings.warn(
        f"the marginals of the plan are {float(error.max()):.1e} off after {limit} iterations, more than "
        f"tolerance={tolerance:g}: give more max_iterations, or a larger eps",
        stacklevel=2,
    )
    return g


def _self_potential(cost: Tensor, a: Tensor, eps: Tensor, tolerance: float, limit: int) -> Tensor:
    """Return the potential (B, n) of a set with itself: the mean with the next scaling halves the error, at least."""
    kernel = a[:, :, None] * torch.exp(-cost / eps[..., None])
    u = torch.ones_like(a)[:, None]
    for step in range(limit):
        row = _floor(u @ kernel)
        if step % _BLOCK == _BLOCK - 1 and bool((((u * row - 1).abs() * a[:, None]).sum((1, 2)) <= tolerance).all()):
            break
        u = (u / row).sqrt()
    return eps * u[:, 0].log()
