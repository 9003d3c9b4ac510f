"""Normal draws of a row that depend on the seed and the row's number alone, not on the batch it comes in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.random import spawn_seed

__all__ = ["row_noise"]


def _signed(z: int) -> int:
    z &= (1 << 64) - 1
    return z - (1 << 64) if z >> 63 else z


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right with zeros from the left; torch's own shift of signed integers copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64, on integers that wrap around."""
    z = (z ^ _shift(z, 30)) * _FIRST
    z = (z ^ _shift(z, 27)) * _SECOND
    return z ^ _shift(z, 31)


def row_noise(
    rows: Int[Tensor, " batch"], shape: Sequence[int], seed: int, *keys: int | str
) -> Float[Tensor, "batch *shape"]:
    r"""Standard normal draws for rows of a data set, a pure function of seed, keys, row and place.

    A counter-based generator: every (row, place) is hashed to two uniforms :math:`u, v`, and the draw is
    :math:`\sqrt{-2 \log u}\, \cos 2 \pi v` (Box-Muller). Nothing depends on the order or the size of batches, so
    features of row 7 are the same alone, shuffled, or in a pass over everything.

    Args:
        rows: numbers of the rows.
        shape: of one row.
        seed: non-negative.
        keys: what tells this use of the noise from others.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Examples:
        >>> rows = torch.tensor([4, 7, 1])
        >>> bool((row_noise(rows, (3,), 0)[1] == row_noise(torch.tensor([7]), (3,), 0)[0]).all())
        True
    """
    base = spawn_seed(seed, *keys, "low") | spawn_seed(seed, *keys, "high") << 31
    places = torch.arange(math.prod(shape), device=rows.device, dtype=torch.int64)
    row = _mix(rows.to(torch.int64) * _GOLDEN + base)
    bits = [_mix(row[:, None] + (2 * places + k) * _GOLDEN) for k in (1, 2)]
    # The 53 leading bits, at the middle of their interval, so that the logarithm is of a positive number.
    u, v = ((_shift(b, 11).double() + 0.5) / 2**53 for b in bits)
    normal = (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()
    return normal.float().reshape(len(rows), *shape)
