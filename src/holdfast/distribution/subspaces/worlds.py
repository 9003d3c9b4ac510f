"""Samples near known subspaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator
from holdfast.distribution.subspaces.mixture import MixtureOfLowRankGaussians, random_subspaces

__all__ = ["SubspaceSamples", "make_subspace_samples"]


class SubspaceSamples(NamedTuple):
    """Samples, the subspace of each, and the law that they came from, without the residual."""

    x: Float[Tensor, "N n"]
    y: Int[Tensor, " N"]
    mixture: MixtureOfLowRankGaussians


def make_subspace_samples(
    n: int,
    dims: Sequence[int],
    per_subspace: int | Sequence[int],
    *,
    residual: float = 0.01,
    orthogonal: bool = True,
    seed: int = 0,
) -> SubspaceSamples:
    r"""Draw :math:`x = U_k a + e` with :math:`a \sim \mathcal N(0, I)` and :math:`e \sim \mathcal N(0, r^2 I / n)`.

    Args:
        n: dimension of the space.
        dims: dimension of every subspace.
        per_subspace: samples of every subspace.
        residual: length r of the part outside the subspaces.
        orthogonal: subspaces orthogonal to each other; else independent.
        seed: of subspaces and samples.

    Raises:
        ValueError: for dimensions outside 1..n - 1, or orthogonal subspaces that do not fit.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024,
    section 5.

    Examples:
        >>> data = make_subspace_samples(24, (4, 4), 8, seed=0)
        >>> data.x.shape, data.y.bincount().tolist()
        (torch.Size([16, 24]), [8, 8])
    """
    check_number("residual", residual, low=0)
    rng = generator(seed)
    mixture = MixtureOfLowRankGaussians(random_subspaces(n, dims, orthogonal=orthogonal, generator=rng))
    counts = [per_subspace] * len(dims) if isinstance(per_subspace, int) else list(per_subspace)
    for m in counts:
        check_number("per_subspace", m, low=1, integer=True)
    x, y = mixture.sample_labelled(counts, rng)
    x = x + residual / math.sqrt(n) * torch.randn(x.shape, generator=rng)
    return SubspaceSamples(x, y, mixture)
