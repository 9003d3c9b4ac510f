"""Sums and means over groups of rows, vectorised."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["group_counts", "group_mean"]


def group_counts(groups: Int[Tensor, " n"], n_groups: int) -> Float[Tensor, " groups"]:
    """Return the number of rows of every group.

    Examples:
        >>> group_counts(torch.tensor([0, 2, 2]), 3).tolist()
        [1.0, 0.0, 2.0]
    """
    return torch.bincount(groups, minlength=n_groups).to(torch.get_default_dtype())


def group_mean(
    values: Float[Tensor, "n *rest"], groups: Int[Tensor, " n"], n_groups: int
) -> tuple[Float[Tensor, "groups *rest"], Float[Tensor, " groups"]]:
    r"""Return the mean of ``values`` in every group and the group sizes; an empty group has mean zero.

    .. math:: \bar v_g = \frac{1}{n_g} \sum_{i: g_i = g} v_i

    Examples:
        >>> means, counts = group_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), 2)
        >>> means.tolist(), counts.tolist()
        ([2.0, 5.0], [2.0, 1.0])
    """
    counts = group_counts(groups, n_groups).to(values)
    total = values.new_zeros((n_groups, *values.shape[1:])).index_add(0, groups, values)
    shape = (n_groups,) + (1,) * (values.ndim - 1)
    return total / counts.clamp_min(1).view(shape), counts
