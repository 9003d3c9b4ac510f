"""Scatter matrices of many classes at once: rows by class, the Ledoit-Wolf weight, a Cholesky that names what fails."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ENTRIES", "by_class", "checked_cholesky", "ledoit_wolf_weight"]

ENTRIES = 2**24  # float64 entries of scratch space


def by_class(labels: Tensor, counts: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (classes, rows of each padded to the longest, mask), classes of like size together."""
    order = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    by_size = counts.argsort(descending=True)
    first = 0
    while first < len(counts):
        longest = int(counts[by_size[first]])
        chosen = by_size[first : first + max(1, ENTRIES // (longest * width))]
        offset = torch.arange(longest, device=labels.device)
        mask = offset < counts[chosen, None]
        rows = order[(starts[chosen, None] + offset).clamp_max(len(labels) - 1)]
        yield chosen, rows, mask
        first += len(chosen)


def ledoit_wolf_weight(scatter: Tensor, fourth: Tensor, size: Tensor) -> Float[Tensor, "covariances groups"]:
    """Optimal weight of the scaled identity; ``fourth`` is the sum over samples of the fourth power of the norm."""
    d, n = scatter.shape[-1], size[:, None].to(scatter)
    s = scatter / n[..., None, None]
    mu = s.diagonal(dim1=-2, dim2=-1).mean(-1)
    norm = s.square().sum((-2, -1))
    beta = (fourth / n - norm) / (d * n)
    delta = (norm - d * mu.square()) / d
    beta = torch.minimum(beta, delta)
    return torch.where(beta > 0, beta / delta, 0.0)


def checked_cholesky(covariance: Tensor, tied: bool) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(covariance)
    # A squared pivot over the variance is the share of a feature that those before it do not explain.
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    own = factor.diagonal(dim1=-2, dim2=-1).square() / variance
    floor = 10 * covariance.shape[-1] * torch.finfo(covariance.dtype).eps
    bad = (info != 0) | ~(own > floor).all(-1)
    if bool(bad.any()):
        c, k = bad.nonzero()[0].tolist()
        whose = "the tied covariance" if tied else f"the covariance of class {c}"
        raise ValueError(
            f"{whose}, group {k}, is singular: a feature is constant or a linear function of others; "
            "use shrinkage='ledoit_wolf', or drop that feature"
        )
    return factor
