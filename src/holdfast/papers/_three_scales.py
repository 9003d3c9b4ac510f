"""Images with three independent factors of very different pixel change: a ramp, a blob and a fine pattern."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.random import generator

__all__ = ["FACTORS", "ThreeScales", "clean_images", "read_factors", "three_scales"]

FACTORS = ("fine", "middle", "coarse")
"""Columns of the factors, the smallest pixel change first."""
_VALUES = (2, 4, 2)
SIZE = 16


@dataclass(frozen=True)
class ThreeScales:
    """Images (n, 1, 16, 16) and their factors (n, 3), in the order of :data:`FACTORS`."""

    x: Float[Tensor, "n 1 16 16"]
    factors: Int[Tensor, "n 3"]


def clean_images(factors: Int[Tensor, "n 3"]) -> Float[Tensor, "n 1 16 16"]:
    """Render factors without noise: stripes or chequers, one of four places, and the sign of a ramp."""
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    ramp = 0.9 * (column - 7.5) / 8
    places = torch.tensor([[4.0, 4.0], [4.0, 11.0], [11.0, 4.0], [11.0, 11.0]])
    distance = (row - places[:, 0, None, None]).square() + (column - places[:, 1, None, None]).square()
    blob = 1.2 * torch.exp(-distance / (2 * 1.8**2))
    pattern = 0.1 * torch.stack([(-1.0) ** (row + column), (-1.0) ** row])
    fine, middle, coarse = factors.unbind(1)
    return (pattern[fine] + blob[middle] + (2 * coarse[:, None, None] - 1) * ramp)[:, None]


def three_scales(n: int, seed: int, *, noise: float = 0.02) -> ThreeScales:
    """Draw ``n`` images with independent uniform factors and pixel noise."""
    rng = generator(seed)
    factors = torch.stack([torch.randint(k, (n,), generator=rng) for k in _VALUES], 1)
    clean = clean_images(factors)
    return ThreeScales(clean + noise * torch.randn(clean.shape, generator=rng), factors)


def read_factors(x: Float[Tensor, "n 1 16 16"]) -> Int[Tensor, "n 3"]:
    """Return the factors of the clean image that is nearest."""
    every = torch.cartesian_prod(*(torch.arange(k) for k in _VALUES))
    return every[torch.cdist(x.flatten(1), clean_images(every).flatten(1)).argmin(1)]
