"""Statistics of a weighted set: mean, median, and the sum that is none."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice

__all__ = ["Pool", "pool", "pooled_mean", "pooled_median", "pooled_sum"]

Pool = Literal["mean", "median"]
Weights = Float[Tensor, "batch elements"] | None


def pooled_mean(h: Float[Tensor, "batch elements width"], weights: Weights = None) -> Float[Tensor, "batch width"]:
    r"""Return :math:`\sum_j w_j h_j / \sum_j w_j`; without weights the plain mean.

    Examples:
        >>> import torch
        >>> pooled_mean(torch.tensor([[[1.0], [4.0]]]), torch.tensor([[2.0, 1.0]]))
        tensor([[2.]])
    """
    if weights is None:
        return h.mean(1)
    return (weights.unsqueeze(1) @ h).squeeze(1) / weights.sum(1, keepdim=True)


def pooled_sum(h: Float[Tensor, "batch elements width"], weights: Weights = None) -> Float[Tensor, "batch width"]:
    r"""Return :math:`\sum_j w_j h_j`, which grows with the set and is no function of its empirical measure.

    Examples:
        >>> import torch
        >>> pooled_sum(torch.ones(1, 3, 2))
        tensor([[3., 3.]])
    """
    return h.sum(1) if weights is None else (weights.unsqueeze(1) @ h).squeeze(1)


def pooled_median(h: Float[Tensor, "batch elements width"], weights: Weights = None) -> Float[Tensor, "batch width"]:
    """Return the weighted median of every column: the middle of the interval of all medians.

    The gradient goes to the one or two elements at the median.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[[1.0], [2.0], [5.0], [9.0]]])
        >>> pooled_median(x), pooled_median(x, torch.tensor([[1.0, 1.0, 1.0, 3.0]]))
        (tensor([[3.5000]]), tensor([[7.]]))
    """
    if weights is None:
        weights = h.new_ones(h.shape[:2])
    order = h.detach().argsort(dim=1)
    ranked = h.gather(1, order)
    # In float64 sums of counts are exact, so that ties are seen as ties.
    below = weights.double().unsqueeze(-1).expand(-1, -1, h.shape[-1]).gather(1, order).cumsum(1)
    half = below[:, -1:] / 2
    slack = 1e-12 * half
    low = (below < half - slack).sum(1, keepdim=True)
    high = (below <= half + slack).sum(1, keepdim=True)
    return ((ranked.gather(1, low) + ranked.gather(1, high)) / 2).squeeze(1)


def pool(kind: Pool, h: Float[Tensor, "batch elements width"], weights: Weights = None) -> Float[Tensor, "batch width"]:
    """Return the mean or the median of every column.

    Examples:
        >>> import torch
        >>> pool("median", torch.tensor([[[1.0], [2.0], [9.0]]]))
        tensor([[2.]])
    """
    check_choice("pool", kind, ["mean", "median"])
    return pooled_mean(h, weights) if kind == "mean" else pooled_median(h, weights)
