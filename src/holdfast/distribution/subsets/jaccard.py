"""How much two subsets have in common."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["jaccard"]


def jaccard(
    pred: Bool[Tensor, "*batch elements"],
    true: Bool[Tensor, "*batch elements"],
    valid: Bool[Tensor, "*batch elements"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Return :math:`|S' \cap S^*| / |S' \cup S^*|` of every pair of subsets; two empty subsets have 1.

    Args:
        pred, true: membership of every element of the ground set.
        valid: which elements are no padding.

    Raises:
        TypeError: for masks that are not boolean.
        ValueError: for masks of different shapes.

    Examples:
        >>> import torch
        >>> jaccard(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
        tensor(0.3333)
    """
    for name, mask in (("pred", pred), ("true", true)):
        if mask.dtype.is_floating_point or mask.dtype.is_complex or mask.dtype.itemsize != 1:
            raise TypeError(f"{name} must be a boolean mask, got {mask.dtype}")
    if pred.shape != true.shape:
        raise ValueError(f"pred and true must have the same shape, got {tuple(pred.shape)} and {tuple(true.shape)}")
    both, either = pred & true, pred | true
    if valid is not None:
        both, either = both & valid, either & valid
    union = either.sum(-1)
    return both.sum(-1).float().where(union > 0, 1.0) / union.clamp_min(1)
