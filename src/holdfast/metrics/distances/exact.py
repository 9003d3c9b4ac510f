"""Exact discrete transport: a linear programme, by POT where it is installed and by SciPy where not."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import optimize, sparse
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.core.checks import check_number
from holdfast.metrics.distances.point_sets import point_sets

__all__ = ["exact_transport", "optimal_plan", "transport_cost"]


def exact_transport(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    *,
    p: float = 2.0,
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Wasserstein distance to the power ``p``, exactly: :math:`\min_\pi \sum_{ij} \pi_{ij} \lVert x_i - y_j \rVert^p`.

    A linear programme per pair of sets, on the CPU: for hundreds of points, or a few thousand with the package POT
    (``pip install 'holdfast[transport]'``). Gradients, for points and weights, are those of the optimal plan.

    Args:
        x, y: sets, (n, d) and (m, d), or batches of them.
        p: power, at least 1.
        x_weights, y_weights: of the points, not negative; they are divided by their sum.
        x_mask, y_mask: True where a point counts; the others may hold anything.

    Raises:
        TypeError: for points of another type than floats, or of two types.
        ValueError: for shapes that do not fit, negative weights, or a set without weight.
        RuntimeError: where the programme is not solved.

    Source: Peyré and Cuturi, "Computational Optimal Transport", Foundations and Trends in Machine Learning 2019,
    section 2.3.

    Examples:
        >>> exact_transport(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]]))
        tensor(4.)
    """
    check_number("p", p, low=1)
    s = point_sets(x, y, x_weights, y_weights, x_mask, y_mask)
    distance = torch.cdist(s.x, s.y, compute_mode="donot_use_mm_for_euclid_dist")
    return s.out(transport_cost(distance if p == 1 else distance.pow(p), *s.weights()))


def transport_cost(
    cost: Float[Tensor, "batch n m"], a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
) -> Float[Tensor, " batch"]:
    """Return the least cost of taking ``a`` to ``b``, whose gradients are the plan and its prices."""
    return _Cost.apply(cost, a, b)  # type: ignore[return-value]


def optimal_plan(
    cost: Float[Tensor, "batch n m"], a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return an optimal plan (B, n, m) and the prices (B, n) and (B, m) of the two sides' weights."""
    found = [_solve(*(np.asarray(t.detach().cpu().double()) for t in row)) for row in zip(cost, a, b)]
    plan, u, v = (torch.as_tensor(np.stack(part)).to(cost) for part in zip(*found))
    return plan, u, v


class _Cost(torch.autograd.Function):
    @staticmethod
    @torch.compiler.disable
    def forward(ctx: Any, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        plan, u, v = optimal_plan(cost, a, b)
        ctx.save_for_backward(plan, u, v)
        return (plan * cost).sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        plan, u, v = ctx.saved_tensors
        return grad[:, None, None] * plan, grad[:, None] * u, grad[:, None] * v


def _solve(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = a / a.sum(), b / b.sum()
    return _by_pot(cost, a, b) if find_spec("ot") else _by_scipy(cost, a, b)


def _by_pot(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import ot

    plan, log = ot.emd(a, b, cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"the transport programme is not solved: {log['warning']}")
    return plan, log["u"], log["v"]


def _by_scipy(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, m = cost.shape
    rows = sparse.kron(sparse.eye(n), np.ones((1, m)))
    columns = sparse.kron(np.ones((1, n)), sparse.eye(m))
    found = optimize.linprog(
        cost.ravel(), A_eq=sparse.vstack([rows, columns]), b_eq=np.r_[a, b], bounds=(0, None), method="highs"
    )
    if found.status != 0:
        raise RuntimeError(f"the transport programme is not solved: {found.message}")
    price = found.eqlin.marginals
    return found.x.reshape(n, m), price[:n], price[n:]
