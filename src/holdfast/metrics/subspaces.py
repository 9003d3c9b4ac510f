"""How far apart linear subspaces are: principal angles, one error in [0, 1], and matching of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from holdfast.metrics._inputs import as_float

__all__ = ["SubspaceMatching", "match_subspaces", "principal_angles", "subspace_error"]


class SubspaceMatching(NamedTuple):
    """``permutation[i]`` is the subspace of the second list that goes with subspace ``i`` of the first."""

    permutation: list[int]
    errors: list[float]


def principal_angles(U: Any, V: Any) -> Float[Tensor, " angles"]:
    """Return the principal angles between the spans of the columns, in radians, from the largest to the smallest.

    Args:
        U, V: (n, d) and (n, e), columns in general position; they need not be orthonormal.

    Raises:
        ValueError: for matrices with different numbers of rows, or values that are not finite.

    Source: Björck and Golub, "Numerical methods for computing angles between linear subspaces", 1973.

    Examples:
        >>> principal_angles([[1.0], [0.0]], [[1.0], [1.0]]).rad2deg().round().tolist()
        [45.0]
    """
    u, v = _pair(U, V)
    return torch.from_numpy(subspace_angles(u.cpu().numpy(), v.cpu().numpy()).copy())


def subspace_error(U: Any, V: Any, *, normalised: bool = True) -> float:
    r"""Return the distance of the projections onto two spans, 0 for equal ones and 1 for orthogonal ones.

    .. math:: \frac{\lVert P_U - P_V \rVert_F}{\sqrt{d + e}} = \sqrt{\tfrac1d \textstyle\sum_j \sin^2\theta_j}
              \;\text{ where } d = e

    Args:
        U, V: (n, d) and (n, e); they need not be orthonormal.
        normalised: divide by :math:`\sqrt{d + e}`, which is the distance of orthogonal spans.

    Raises:
        ValueError: for matrices with different numbers of rows, or values that are not finite.

    Examples:
        >>> round(subspace_error([[1.0], [0.0]], [[1.0], [1.0]]), 4)
        0.7071
    """
    u, v = _pair(U, V)
    theta = principal_angles(u, v)
    # |P_U - P_V|^2 = d + e - 2 sum cos^2 = |d - e| + 2 sum sin^2: no small difference of large numbers.
    squared = abs(u.shape[1] - v.shape[1]) + 2 * float(theta.sin().square().sum())
    return math.sqrt(squared / (u.shape[1] + v.shape[1]) if normalised else squared)


def match_subspaces(Us: Sequence[Any], Vs: Sequence[Any]) -> SubspaceMatching:
    """Pair the subspaces of two lists so that the sum of their :func:`subspace_error` is smallest.

    Raises:
        ValueError: for lists of different lengths, or subspaces of different spaces.

    Examples:
        >>> x, y = [[1.0], [0.0]], [[0.0], [1.0]]
        >>> match_subspaces([x, y], [y, x]).permutation
        [1, 0]
    """
    if len(Us) != len(Vs) or not len(Us):
        raise ValueError(f"the lists must have the same number of subspaces, at least 1, got {len(Us)} and {len(Vs)}")
    cost = torch.tensor([[subspace_error(u, v) for v in Vs] for u in Us], dtype=torch.float64)
    rows, columns = linear_sum_assignment(cost.numpy())
    return SubspaceMatching(columns.tolist(), cost[rows, columns].tolist())


def _pair(U: Any, V: Any) -> tuple[Tensor, Tensor]:
    u, v = as_float("U", U, ndim=2), as_float("V", V, ndim=2)
    if len(u) != len(v):
        raise ValueError(f"U and V must be bases in the same space, got {len(u)} and {len(v)} rows")
    return u, v.to(u.device)
