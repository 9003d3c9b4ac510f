"""From the probability of every element to a subset: a given size, a threshold, or the size that is expected best."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice

__all__ = ["SizeRule", "choose_subset", "expected_jaccard", "take_top"]

SizeRule = Literal["topk", "threshold", "expected_jaccard"]


def take_top(
    q: Float[Tensor, "batch elements"], size: Int[Tensor, " batch"], valid: Bool[Tensor, "batch elements"]
) -> Bool[Tensor, "batch elements"]:
    """Return the ``size`` most probable elements of every set.

    Examples:
        >>> take_top(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2]), torch.ones(1, 3, dtype=torch.bool))
        tensor([[False,  True,  True]])
    """
    rank = torch.argsort(q.masked_fill(~valid, -1.0), dim=1, descending=True, stable=True).argsort(1)
    return rank < size.unsqueeze(1)


def expected_jaccard(
    q: Float[Tensor, "batch elements"], valid: Bool[Tensor, "batch elements"] | None = None
) -> Float[Tensor, "batch sizes"]:
    r"""Return the expected Jaccard index of the k most probable elements for k = 0, ..., n, exactly.

    With independent :math:`b_i \sim \mathrm{Bernoulli}(q_i)` and the elements in falling order of q,

    .. math:: E\,J_k = \Bigl(\sum_{i \le k} q_i\Bigr)\; E\Bigl[\frac1{k + \sum_{i > k} b_i}\Bigr],\qquad
              E\,J_0 = \prod_i (1 - q_i),

    where the law of the last sum follows by convolution from the end. Cost :math:`n^2`.

    Examples:
        >>> expected_jaccard(torch.tensor([[1.0, 0.5]]))
        tensor([[0.0000, 0.7500, 0.7500]])
    """
    if valid is not None:
        q = q * valid
    batch, n = q.shape
    p = q.detach().double().sort(1, descending=True).values
    sums = torch.cat([p.new_zeros(batch, 1), p.cumsum(1)], dim=1)
    # tail[:, b]: probability that b of the elements after the k-th are in.
    tail = torch.cat([p.new_ones(batch, 1), p.new_zeros(batch, n)], dim=1)
    counts = torch.arange(n + 1, device=q.device, dtype=p.dtype)
    columns = []
    for k in range(n, 0, -1):
        columns.append(sums[:, k] * (tail / (k + counts)).sum(1))
        i = p[:, k - 1 : k]
        tail = tail * (1 - i) + torch.cat([p.new_zeros(batch, 1), tail[:, :-1] * i], dim=1)
    columns.append(tail[:, 0])
    return torch.stack(columns[::-1], dim=1).to(q.dtype)


def choose_subset(
    q: Float[Tensor, "batch elements"],
    valid: Bool[Tensor, "batch elements"],
    size: int | Int[Tensor, " batch"] | None = None,
    rule: SizeRule | None = None,
) -> Bool[Tensor, "batch elements"]:
    """Return a subset of every set: the best ``size`` elements, those above 1/2, or the expected best size.

    Args:
        q: probability of every element.
        valid: which elements are no padding.
        size: one for all sets, or one for each.
        rule: ``"topk"`` (the rule where a size is given), ``"threshold"``, or ``"expected_jaccard"`` (the rule
            where none is).

    Raises:
        ValueError: for ``"topk"`` without a size, another rule with one, or a size above that of the ground set.

    Examples:
        >>> q, valid = torch.tensor([[0.9, 0.4, 0.1]]), torch.ones(1, 3, dtype=torch.bool)
        >>> choose_subset(q, valid), choose_subset(q, valid, size=2)
        (tensor([[ True, False, False]]), tensor([[ True,  True, False]]))
    """
    if rule is None:
        rule = "expected_jaccard" if size is None else "topk"
    check_choice("rule", rule, ["topk", "threshold", "expected_jaccard"])
    if (rule == "topk") != (size is not None):
        given = "no size" if size is None else "a size"
        raise ValueError(f"rule {rule!r} was given {given}: 'topk' needs one, and no other rule takes one")
    if rule == "threshold":
        return (q > 0.5) & valid
    if rule == "expected_jaccard":
        return take_top(q, expected_jaccard(q, valid).argmax(1), valid)
    return take_top(q, checked_sizes(size, valid), valid)


def checked_sizes(size: Any, valid: Tensor) -> Tensor:
    """Return one size per set, or raise where it is negative or above that of the ground set."""
    sizes = torch.as_tensor(size, device=valid.device).expand(len(valid))
    if sizes.is_floating_point() or sizes.dtype == torch.bool:
        raise TypeError(f"size must be an integer, got {sizes.dtype}")
    bad = (sizes < 0) | (sizes > valid.sum(1))
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise ValueError(f"size must be in [0, {int(valid[i].sum())}] for ground set {i}, got {int(sizes[i])}")
    return sizes
