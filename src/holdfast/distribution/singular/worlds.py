"""A curve in space with uneven mass along it: a law without a density."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator, spawn_seed
from holdfast.nn.gaussian import normal

__all__ = ["make_space_curve"]


def make_space_curve(
    n: int, dim: int = 10, *, noise: float = 0.0, turn: int = 0, seed: int = 0
) -> Float[Tensor, "n dim"]:
    r"""Draw from a closed curve in three of ``dim`` dimensions, rotated into all of them.

    .. math:: R\,(\cos a, \sin a, \tfrac12 \sin 2a), \qquad a = 2\pi u + 0.6 \sin 2\pi u

    with u uniform, so that the mass along the curve is uneven and has to be learned.

    Args:
        n: number of points.
        dim: of the space, at least 3.
        noise: deviation of noise in every direction.
        turn: seed of the rotation R; two samples of one law have it in common.
        seed: of the points.

    Raises:
        ValueError: for fewer than 3 dimensions, or negative noise.

    Source: Chae et al., JMLR 2023, section 5, for the kind of law.

    Examples:
        >>> x = make_space_curve(100, seed=0)
        >>> x.shape, int(torch.linalg.matrix_rank(x))
        (torch.Size([100, 10]), 3)
    """
    check_number("n", n, low=1, integer=True)
    check_number("dim", dim, low=3, integer=True)
    check_number("noise", noise, low=0)
    rng = generator(spawn_seed(seed, "curve"))
    u = torch.rand(n, generator=rng, dtype=torch.float64)
    a = 2 * math.pi * u + 0.6 * (2 * math.pi * u).sin()
    frame = torch.randn(dim, 3, generator=generator(spawn_seed(turn, "rotation")), dtype=torch.float64)
    rotation = torch.linalg.qr(frame).Q
    x = torch.stack([a.cos(), a.sin(), 0.5 * (2 * a).sin()], dim=1) @ rotation.T
    return (x + noise * normal(x.shape, x, rng)).float()
