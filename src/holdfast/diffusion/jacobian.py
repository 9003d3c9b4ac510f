"""Singular values and vectors of a network's Jacobian at given inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_finite, check_number

__all__ = ["JacobianSVD", "jacobian_spectrum", "jacobian_svd", "numerical_rank"]

Method = Literal["full", "randomised"]
_METHODS: tuple[Method, ...] = ("full", "randomised")
_OVERSAMPLING = 8
_ROWS = 4096


class JacobianSVD(NamedTuple):
    """The largest singular values, and the directions of the input that they belong to."""

    values: Float[Tensor, "batch k"]
    right: Float[Tensor, "batch k *shape"]


def jacobian_spectrum(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch *shape"],
    k: int | None = None,
    *,
    method: Method = "full",
    iterations: int = 8,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch k"]:
    """Return the singular values of the Jacobian of ``f`` at every row of ``x``, from the largest down.

    Arguments as in :func:`jacobian_svd`.

    Examples:
        >>> jacobian_spectrum(lambda x: x @ torch.diag(torch.tensor([3.0, 1.0])), torch.zeros(1, 2))
        tensor([[3., 1.]])
    """
    if method == "full":
        rows = _full(f, x)
        k = _count(k, min(rows.shape[1:]))
        return torch.linalg.svdvals(rows)[:, :k]
    return jacobian_svd(f, x, k, method=method, iterations=iterations, generator=generator).values


def jacobian_svd(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch *shape"],
    k: int | None = None,
    *,
    method: Method = "full",
    iterations: int = 8,
    generator: torch.Generator | None = None,
) -> JacobianSVD:
    r"""Return the largest singular values :math:`s_j` and right singular vectors :math:`v_j` of :math:`J = df/dx`.

    ``"full"`` writes J down, which takes as many backward passes as there are outputs. ``"randomised"`` is subspace
    iteration on :math:`J^\top J`: ``iterations`` rounds of k + 8 Jacobian-vector and vector-Jacobian products, for
    large inputs; values that lie close together take more rounds.

    Args:
        f: from a batch to a batch, rows independent of each other (a network in evaluation mode).
        x: where.
        k: how many; all by default.
        method: see above.
        iterations: of the randomised method.
        generator: of the start of the randomised method, on the device of ``x``.

    Raises:
        ValueError: for a ``k`` that the Jacobian does not have, an unknown method, or values that are not finite.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 4.4.

    Examples:
        >>> found = jacobian_svd(lambda x: x * torch.tensor([1.0, 5.0, 2.0]), torch.zeros(1, 3), 1)
        >>> found.values, found.right.abs().round(decimals=3)
        (tensor([[5.]]), tensor([[[0., 1., 0.]]]))
    """
    check_choice("method", method, _METHODS)
    if method == "full":
        rows = _full(f, x)
        k = _count(k, min(rows.shape[1:]))
        _, values, right = torch.linalg.svd(rows, full_matrices=False)
        return JacobianSVD(values[:, :k], right[:, :k].reshape(len(x), k, *x.shape[1:]))
    x = _check(x)
    check_number("iterations", iterations, low=1, integer=True)
    n, size = x[0].numel(), len(x)
    k = _count(k, n)
    width = min(n, k + _OVERSAMPLING)
    at = x.repeat_interleave(width, 0)

    def times_jacobian(V: Tensor) -> Tensor:
        """From (batch, n, width) to (batch, m, width)."""
        out = torch.func.jvp(f, (at,), (V.mT.reshape(at.shape),))[1]
        return out.reshape(size, width, -1).mT

    def times_transpose(W: Tensor) -> Tensor:
        out, pull = torch.func.vjp(f, at)[:2]
        return pull(W.mT.reshape(out.shape))[0].reshape(size, width, n).mT

    V = torch.randn(size, n, width, generator=generator, device=x.device, dtype=x.dtype)
    V = torch.linalg.qr(V)[0]
    for _ in range(int(iterations)):
        V = torch.linalg.qr(times_transpose(times_jacobian(V)))[0]
    _, values, right = torch.linalg.svd(times_jacobian(V), full_matrices=False)
    check_finite("the Jacobian", values)
    k = _count(k, values.shape[1])
    return JacobianSVD(values[:, :k], (V @ right.mT).mT[:, :k].reshape(size, k, *x.shape[1:]))


def numerical_rank(s: Float[Tensor, "*batch k"], energy: float = 0.99) -> Tensor:
    r"""Return the least r with :math:`\sqrt{\sum_{j \le r} s_j^2} \ge \text{energy} \cdot \sqrt{\sum_j s_j^2}`.

    Args:
        s: all singular values, from the largest down.
        energy: share of the Frobenius norm; 0 values are needed where all of ``s`` are 0.

    Raises:
        ValueError: for an energy outside (0, 1], negative or unsorted values.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024.

    Examples:
        >>> numerical_rank(torch.tensor([[1.0, 1.0, 0.01], [1.0, 1.0, 1.0]])).tolist()
        [2, 3]
    """
    check_number("energy", energy, low=0, high=1, open_low=True)
    check_finite("s", s)
    if s.shape[-1] == 0 or bool((s < 0).any()) or bool((s.diff(dim=-1) > 0).any()):
        raise ValueError("s must hold at least one singular value, none negative, sorted from the largest down")
    total = s.double().square().cumsum(-1)
    short = total < energy**2 * total[..., -1:]
    return torch.where(total[..., -1] > 0, short.sum(-1) + 1, 0)


def _check(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise TypeError("x must be a floating-point batch (n, ...)")
    check_finite("x", x)
    return x.detach()


def _count(k: int | None, most: int) -> int:
    return most if k is None else int(check_number("k", k, low=1, high=most, integer=True))


def _full(f: Callable[[Tensor], Tensor], x: Tensor) -> Float[Tensor, "batch m n"]:
    """The Jacobians: every row of x is repeated once per output, and one backward pass serves many of them."""
    x = _check(x)
    m = f(x[:1])[0].numel()
    unit = torch.eye(m, dtype=x.dtype, device=x.device)
    out = []
    with torch.enable_grad():
        for part in x.split(max(1, _ROWS // m)):
            at = part.repeat_interleave(m, 0).requires_grad_()
            value = f(at)
            (rows,) = torch.autograd.grad(value, at, unit.repeat(len(part), 1).reshape(value.shape))
            out.append(rows.reshape(len(part), m, -1))
    rows = torch.cat(out)
    check_finite("the Jacobian", rows)
    return rows
