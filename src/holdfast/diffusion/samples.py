"""What a sampler returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Samples"]


class Samples(NamedTuple):
    """Samples, and what they cost.

    Args:
        x: the samples, one per row.
        calls: evaluations of the network on the whole batch. A guided evaluation is two.
        draws: categorical and Bernoulli draws; 0 for continuous samplers.
        row_calls: evaluations of every row, where a sampler evaluates only the rows that need it.

    Examples:
        >>> import torch
        >>> Samples(torch.zeros(4, 2), calls=50).draws
        0
    """

    x: Tensor
    calls: int
    draws: int = 0
    row_calls: Tensor | None = None
