"""Sets of different sizes in one tensor, and large sets a piece at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_number
from holdfast.nn.sets.protocol import PooledSetEncoder, check_sets

__all__ = ["encode_in_chunks", "pad_sets"]


def pad_sets(
    sets: Sequence[Any],
) -> tuple[Float[Tensor, "batch elements *shape"], Bool[Tensor, "batch elements"]]:
    """Return the sets as one tensor filled up with zeros, and the mask of what is no filling.

    Args:
        sets: arrays or tensors (m_i, ...) with elements of one shape.

    Raises:
        ValueError: for no sets, a set without elements, or elements of different shapes.

    Examples:
        >>> x, mask = pad_sets([torch.ones(1, 2), torch.ones(3, 2)])
        >>> x.shape, mask.sum(1)
        (torch.Size([2, 3, 2]), tensor([1, 3]))
    """
    tensors = [as_tensor(s) for s in sets]
    if not tensors:
        raise ValueError("there are no sets")
    for i, s in enumerate(tensors):
        if s.ndim < 1 or len(s) == 0:
            raise ValueError(f"set {i} has no elements")
        if s.shape[1:] != tensors[0].shape[1:]:
            raise ValueError(
                f"elements of set {i} have shape {tuple(s.shape[1:])}, those of set 0 {tuple(tensors[0].shape[1:])}"
            )
    sizes = torch.tensor([len(s) for s in tensors])
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), mask.to(tensors[0].device)


def encode_in_chunks(
    encoder: PooledSetEncoder,
    x: Float[Tensor, "batch elements *shape"],
    chunk: int,
    mask: Bool[Tensor, "batch elements"] | None = None,
    weights: Float[Tensor, "batch elements"] | None = None,
) -> Float[Tensor, "batch code"]:
    """Encode sets of any size in pieces of ``chunk`` elements: the pieces' means are averaged before the last layer.

    Exact for encoders whose elements do not hear of each other; otherwise each element hears of its own piece only,
    which tends to the same code as the pieces grow, if the order of the elements is random.

    Examples:
        >>> from holdfast.nn.sets import MeanEncoder
        >>> encode_in_chunks(MeanEncoder(1), torch.arange(5.0).view(1, 5, 1), 2)
        tensor([[2.]])
    """
    check_number("chunk", chunk, low=1, integer=True)
    x, w = check_sets(x, mask, weights, encoder.element_shape)
    if w is None:
        w = x.new_ones(x.shape[:2])
    total, parts = w.sum(1, keepdim=True), []
    for piece, v in zip(x.split(chunk, dim=1), w.split(chunk, dim=1)):
        share = v.sum(1, keepdim=True)
        # A piece in which nothing counts has share 0; equal weights keep its mean defined.
        parts.append(encoder.pooled(piece, None, torch.where(share > 0, v, 1.0)) * (share / total))
    return encoder.project(torch.stack(parts).sum(0))
