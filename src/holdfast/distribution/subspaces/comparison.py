"""Whether the subspaces of two windows of data are the same."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.distribution.subspaces.clustering import k_subspaces
from holdfast.distribution.subspaces.fit import SubspaceFit
from holdfast.metrics.subspaces import match_subspaces, principal_angles

__all__ = ["SubspaceChange", "compare_subspaces"]


class SubspaceChange(NamedTuple):
    """How far subspaces moved.

    Attributes:
        permutation: the subspace of the second fit that goes with every one of the first.
        errors: distance of every pair, 0 to 1.
        angles: principal angles of every pair, in radians.
        statistic: mean distance of the refitted pairs, which the permutations are compared with.
        p_value: of the hypothesis that both windows have one law.
    """

    permutation: list[int]
    errors: list[float]
    angles: list[Float[Tensor, " d"]]
    statistic: float
    p_value: float


def compare_subspaces(
    a: SubspaceFit,
    b: SubspaceFit,
    *,
    permutations: int = 199,
    generator: torch.Generator | None = None,
) -> SubspaceChange:
    r"""Test whether two fits, on two windows of data, differ by more than samples of one law would.

    The samples of both are dealt anew to windows of the same sizes, and subspaces are refitted to each by
    :func:`k_subspaces` from those of all samples together, the observed windows included; so under the hypothesis
    all deals are exchangeable and the p-value :math:`(1 + \#\{T_b \ge T\}) / (1 + B)` is exact.

    Args:
        a, b: fits with the same dimensions, on samples scaled alike.
        permutations: B.
        generator: of the deals.

    Raises:
        ValueError: for fits of different dimensions.

    Source: the statistic is of Wang et al., "Diffusion models learn low-dimensional distributions via subspace
    clustering", 2024; the test is Fisher's.

    Examples:
        >>> from holdfast.distribution.subspaces import fit_subspace_denoiser, make_subspace_samples
        >>> fits = [fit_subspace_denoiser(make_subspace_samples(8, (2,), 30, seed=s).x, (2,), steps=20, restarts=1,
        ...         device="cpu") for s in (0, 1)]
        >>> compare_subspaces(*fits, permutations=19, generator=torch.Generator().manual_seed(0)).p_value
        0.05
    """
    check_number("permutations", permutations, low=1, integer=True)
    if sorted(a.dims) != sorted(b.dims) or a.X.shape[1] != b.X.shape[1]:
        raise ValueError(
            f"fits must have the same dimensions, got {a.dims} in {a.X.shape[1]} and {b.dims} in {b.X.shape[1]}"
        )
    pooled = torch.cat([a.X, b.X])
    start = k_subspaces(pooled, a.dims, generator=generator).bases

    def statistic(order: Tensor) -> float:
        halves = (pooled[order[: len(a.X)]], pooled[order[len(a.X) :]])
        first, second = (k_subspaces(rows, a.dims, start=start).bases for rows in halves)
        errors = match_subspaces(first, second).errors
        return sum(errors) / len(errors)

    seen = statistic(torch.arange(len(pooled)))
    dealt = [statistic(torch.randperm(len(pooled), generator=generator)) for _ in range(int(permutations))]
    permutation, errors = match_subspaces(a.bases, b.bases)
    angles = [principal_angles(U, b.bases[k]) for U, k in zip(a.bases, permutation)]
    # Ties within rounding count against the difference.
    above = sum(t >= seen - 1e-9 for t in dealt)
    return SubspaceChange(permutation, errors, angles, seen, (1 + above) / (1 + len(dealt)))
