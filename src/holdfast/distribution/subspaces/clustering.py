"""K-subspaces: assign every sample to the nearest subspace, refit every subspace, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite, check_number
from holdfast.core.grassmann import random_frame
from holdfast.distribution.subspaces.mixture import check_dims

__all__ = ["KSubspaces", "check_samples", "clustering_objective", "k_subspaces", "top_subspace"]


class KSubspaces(NamedTuple):
    """Orthonormal bases, the subspace of every sample, and the mean squared length of the projections."""

    bases: list[Float[Tensor, "n d"]]
    labels: Int[Tensor, " N"]
    objective: float


def check_samples(X: Any, dims: Sequence[int]) -> tuple[Float[Tensor, "N n"], tuple[int, ...]]:
    """Return samples and dimensions, or raise unless there is at least one sample for every subspace."""
    x = as_tensor(X)
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"X must be real numbers of shape (N, n), got shape {tuple(x.shape)} of {x.dtype}")
    check_finite("X", x)
    dims = check_dims(dims, x.shape[1])
    if len(x) < len(dims):
        raise ValueError(f"{len(dims)} subspaces need at least one sample each, but there are {len(x)} samples")
    return x, dims


def top_subspace(x: Float[Tensor, "N n"], d: int) -> Float[Tensor, "n d"]:
    """Return the d directions of the largest second moments, not centred: the first right singular vectors.

    Where there are fewer than d samples, the rest is completed to an orthonormal basis.
    """
    return torch.linalg.svd(x, full_matrices=len(x) < d)[2][:d].mT.contiguous()


def clustering_objective(
    bases: Sequence[Float[Tensor, "n d"]], X: Float[Tensor, "N n"]
) -> tuple[float, Int[Tensor, " N"]]:
    r"""Return :math:`\frac1N \sum_i \max_k \lVert U_k^\top x_i \rVert^2` and the k that attain it.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024,
    theorem 3.

    Examples:
        >>> clustering_objective([torch.eye(2)[:, :1], torch.eye(2)[:, 1:]], torch.tensor([[3.0, 1.0], [0.0, 2.0]]))
        (6.5, tensor([0, 1]))
    """
    energy, labels = torch.stack([(X @ U.to(X)).square().sum(1) for U in bases], 1).max(1)
    return float(energy.double().mean()), labels


def k_subspaces(
    X: Any,
    dims: Sequence[int],
    *,
    n_init: int = 10,
    max_iter: int = 100,
    start: Sequence[Float[Tensor, "n d"]] | None = None,
    generator: torch.Generator | None = None,
) -> KSubspaces:
    r"""Maximise :math:`\frac1N \sum_k \sum_{i \in C_k} \lVert U_k^\top x_i \rVert^2` over bases and assignments.

    Lloyd's alternation, which ends in a local optimum; the best of ``n_init`` random starts is kept. A subspace that
    loses all samples restarts at the worst fitted ones.

    Args:
        X: (N, n) samples, with the subspaces through 0.
        dims: dimension of every subspace.
        n_init: starts; close subspaces need more.
        max_iter: rounds of a start.
        start: bases to start from instead.
        generator: of the starts.

    Raises:
        ValueError: for fewer samples than subspaces, dimensions outside 1..n - 1, or values that are not finite.

    Source: Bradley and Mangasarian, "k-plane clustering", 2000; Tseng, "Nearest q-flat to m points", 2000.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0, 0.0], [-3.0, 0.1, 0.0], [0.0, 2.0, 0.0], [0.0, -1.0, 0.1]])
        >>> found = k_subspaces(x, (1, 1), generator=torch.Generator().manual_seed(0))
        >>> labels = found.labels.tolist()
        >>> labels[0] == labels[1] != labels[2] == labels[3]
        True
    """
    x, dims = check_samples(X, dims)
    check_number("n_init", n_init, low=1, integer=True)
    check_number("max_iter", max_iter, low=1, integer=True)
    if len(dims) == 1:
        bases = [top_subspace(x, dims[0])]
        objective, labels = clustering_objective(bases, x)
        return KSubspaces(bases, labels, objective)
    best: KSubspaces | None = None
    for _ in range(1 if start is not None else int(n_init)):
        if start is None:
            bases = [random_frame(x.shape[1], d, generator=generator, dtype=x.dtype).to(x.device) for d in dims]
        else:
            bases = [U.to(x) for U in start]
        found = _lloyd(x, bases, dims, int(max_iter))
        if best is None or found.objective > best.objective:
            best = found
    assert best is not None
    return best


def _lloyd(x: Tensor, bases: list[Tensor], dims: tuple[int, ...], max_iter: int) -> KSubspaces:
    objective, labels = clustering_objective(bases, x)
    for _ in range(max_iter):
        members = [x[labels == k] for k in range(len(dims))]
        lost = [k for k, rows in enumerate(members) if not len(rows)]
        if lost:
            left = x.square().sum(1) - torch.stack([(x @ U).square().sum(1) for U in bases], 1).amax(1)
            for k, row in zip(lost, left.argsort(descending=True)):
                members[k] = x[row : row + 1]
        bases = [top_subspace(rows, d) for rows, d in zip(members, dims)]
        before, old = objective, labels
        objective, labels = clustering_objective(bases, x)
        if torch.equal(labels, old) or (not lost and objective <= before * (1 + 1e-7)):
            break
    return KSubspaces(bases, labels, objective)
