r"""Hiding tokens: exactly so many, each independently, or in nested steps of one random order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite, check_number
from holdfast.diffusion.draws import bernoulli

__all__ = ["hidden_count", "lowest", "mask_bernoulli", "mask_exactly", "nested_masks"]


def _check_tokens(x0: Tensor, mask_id: int) -> None:
    if x0.ndim != 2 or x0.is_floating_point() or x0.dtype == torch.bool:
        raise ValueError(f"tokens must be integers of shape (batch, length), got {x0.dtype} {tuple(x0.shape)}")
    check_number("mask_id", mask_id, low=0, integer=True)
    if bool((x0 == mask_id).any()):
        row, place = (x0 == mask_id).nonzero()[0].tolist()
        raise ValueError(f"tokens must not hold mask_id {mask_id} before masking, but row {row} does at {place}")


def lowest(scores: Float[Tensor, "*rows length"], n: Int[Tensor, "*rows"]) -> Bool[Tensor, "*rows length"]:
    """Mark the ``n`` smallest scores of every row; equal scores in order of position.

    Examples:
        >>> lowest(torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([2])).tolist()
        [[False, True, True]]
    """
    order = scores.argsort(dim=-1, stable=True)
    rank = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.zeros_like(order).scatter_(-1, order, rank) < n[..., None]


def hidden_count(length: int | Int[Tensor, "*shape"], ratio: float | Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    r"""Number of hidden tokens :math:`\lceil L r \rceil`, where rounding just above an integer is not rounded up.

    Raises:
        ValueError: for a ratio outside [0, 1].

    Examples:
        >>> hidden_count(16, torch.tensor([0.0, 0.5, 0.51, 1.0])).tolist()
        [0, 8, 9, 16]
    """
    r = torch.as_tensor(ratio, dtype=torch.float64)
    if r.numel() and not (float(r.amin()) >= 0 and float(r.amax()) <= 1):
        raise ValueError(f"ratio must lie in [0, 1], got {float(r.amin()):g} to {float(r.amax()):g}")
    return torch.ceil(length * r - 1e-6).long().clamp_min(0)


def mask_exactly(
    x0: Int[Tensor, "batch length"],
    n: Int[Tensor, " batch"],
    mask_id: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch length"]:
    r"""Hide exactly ``n[b]`` uniformly chosen tokens of row b: a draw of :math:`q_n(\cdot \mid x_0)`.

    Args:
        x0: tokens without the mask symbol.
        n: how many to hide in each row, 0 to length.
        mask_id: the mask symbol.
        generator: source of randomness, on the device of ``x0``.

    Raises:
        ValueError: for n outside [0, length] or not one per row, or tokens that hold ``mask_id``.

    Examples:
        >>> x = mask_exactly(torch.zeros(2, 5, dtype=torch.long), torch.tensor([1, 4]), mask_id=7)
        >>> (x == 7).sum(1).tolist()
        [1, 4]
    """
    _check_tokens(x0, mask_id)
    length = x0.shape[1]
    if n.shape != x0.shape[:1]:
        raise ValueError(f"n must have shape ({len(x0)},), one number per row; got {tuple(n.shape)}")
    if bool(((n < 0) | (n > length)).any()):
        bad = int(((n < 0) | (n > length)).nonzero()[0])
        raise ValueError(f"n must lie in [0, {length}], the length of the rows, but n[{bad}] is {int(n[bad])}")
    scores = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    return x0.masked_fill(lowest(scores, n), mask_id)


def mask_bernoulli(
    x0: Int[Tensor, "batch length"],
    keep_prob: Float[Tensor, " batch"],
    mask_id: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch length"]:
    r"""Hide every token of row b independently with probability 1 - ``keep_prob[b]``: a draw of the forward process.

    Args:
        x0: tokens without the mask symbol.
        keep_prob: :math:`\alpha(t)` of every row.
        mask_id: the mask symbol.
        generator: source of randomness, on the device of ``x0``.

    Raises:
        ValueError: for a probability outside [0, 1] or not one per row, or tokens that hold ``mask_id``.

    Examples:
        >>> mask_bernoulli(torch.zeros(2, 3, dtype=torch.long), torch.tensor([0.0, 1.0]), mask_id=7).tolist()
        [[7, 7, 7], [0, 0, 0]]
    """
    _check_tokens(x0, mask_id)
    if keep_prob.shape != x0.shape[:1]:
        raise ValueError(f"keep_prob must have shape ({len(x0)},), one per row; got {tuple(keep_prob.shape)}")
    keep = bernoulli(keep_prob[:, None].expand(x0.shape), generator=generator)
    return torch.where(keep, x0, mask_id)


def nested_masks(
    scores: Float[Tensor, "batch length"],
    ratios: Float[Tensor, " steps"] | Float[Tensor, "steps batch"] | Sequence[float],
) -> Bool[Tensor, "steps batch length"]:
    r"""Masks of one order: mask i hides the :math:`\lceil L r_i \rceil` positions of smallest score of every row.

    A larger ratio's mask contains a smaller one's. With uniform scores each mask is uniform among those of its size.

    Args:
        scores: one number per position, e.g. uniform.
        ratios: shares to hide in [0, 1], one per mask or one per mask and row.

    Returns:
        True where hidden.

    Raises:
        ValueError: for a ratio outside [0, 1], scores that are not finite, or shapes that do not fit.

    Examples:
        >>> small, large = nested_masks(torch.rand(3, 8), [0.25, 0.75])
        >>> bool((small <= large).all()), small.sum(1).tolist(), large.sum(1).tolist()
        (True, [2, 2, 2], [6, 6, 6])
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(f"scores must be floating of shape (batch, length), got {scores.dtype} {tuple(scores.shape)}")
    check_finite("scores", scores)
    r = torch.as_tensor(ratios, dtype=torch.float64, device=scores.device)
    if r.ndim == 1:
        r = r[:, None].expand(-1, len(scores))
    if r.ndim != 2 or r.shape[1] != len(scores):
        raise ValueError(f"ratios must have shape (steps,) or (steps, {len(scores)}), got {tuple(r.shape)}")
    n = hidden_count(scores.shape[1], r)
    return lowest(scores.expand(len(r), -1, -1), n)
