"""The encoder that should not be used: what goes wrong when a code depends on the size of the set."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.nn.sets.gnn import ResNetSetEncoder
from holdfast.nn.sets.pooling import pooled_sum

__all__ = ["SumSetEncoder"]


class SumSetEncoder(ResNetSetEncoder):
    """:class:`ResNetSetEncoder` with ``scale`` times the sum wherever that takes the mean; a control.

    It is invariant to order but not to duplication. ``scale = 1 / m`` gives the mean of sets of m elements.

    Examples:
        >>> import torch
        >>> SumSetEncoder(3, scale=1 / 5, width=16, out_dim=4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, *, scale: float = 1.0, **options: Any) -> None:
        super().__init__(features, **options)
        self.scale = check_number("scale", scale, low=0, open_low=True)

    def block_pool(
        self, h: Float[Tensor, "batch elements width"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch width"]:
        """Return the scaled sum."""
        return self.scale * pooled_sum(h, weights)

    pool = block_pool
