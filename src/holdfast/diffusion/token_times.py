"""Tokens of one image at two times: an augmentation on the side of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["TokenTimeGroups", "pixel_times"]


def pixel_times(
    t: Float[Tensor, "batch tokens"], grid: tuple[int, int], patch: int
) -> Float[Tensor, "batch 1 height width"]:
    """Return one time per pixel from one per patch, row by row.

    Examples:
        >>> pixel_times(torch.tensor([[0.1, 0.2]]), (1, 2), patch=2)[0, 0]
        tensor([[0.1000, 0.1000, 0.2000, 0.2000],
                [0.1000, 0.1000, 0.2000, 0.2000]])
    """
    places = t.unflatten(1, grid)[:, None]
    return places.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)


@dataclass(frozen=True)
class TokenTimeGroups:
    """Split the tokens of every sample at random into two groups, each with a time of its own.

    Args:
        ratio: share of the smaller group, in (0, 1).
        separate: tokens attend within their group only, so that neither sees the other's noise level.

    Raises:
        ValueError: for a share outside (0, 1).

    Source: the authors of "No other representation component is needed", in the later arXiv 2607.02508.

    Examples:
        >>> TokenTimeGroups(0.25).draw(3, 16, torch.Generator().manual_seed(0)).sum(dim=1)
        tensor([4, 4, 4])
    """

    ratio: float = 0.25
    separate: bool = True

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, low=0, high=1, open_low=True, open_high=True)

    def draw(
        self, n: int, tokens: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> Int[Tensor, "n tokens"]:
        """Return the group of every token: 1 for a share of ``ratio`` of them (at least one), else 0."""
        if tokens < 2:
            raise ValueError(f"two groups need at least 2 tokens, got {tokens}")
        count = min(tokens - 1, max(1, round(self.ratio * tokens)))
        order = torch.rand(n, tokens, generator=generator, device=device).argsort(dim=1)
        return (order < count).long()
