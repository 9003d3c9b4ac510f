"""Whether distances of codes follow distances of laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_number

__all__ = ["Agreement", "distance_agreement"]


@dataclass(frozen=True)
class Agreement:
    """Correlations of two matrices of distances over all pairs, with 95% intervals.

    The intervals are of a bootstrap over the laws, since pairs that share a law are not independent.
    """

    spearman: float
    pearson: float
    spearman_interval: tuple[float, float]
    pearson_interval: tuple[float, float]


def distance_agreement(codes: Any, distances: Any, *, resamples: int = 200, seed: int = 0) -> Agreement:
    """Compare the Euclidean distances of ``codes`` with the ``distances`` of the laws they stand for.

    A high value says little where the laws' means differ: Wasserstein distances are then about those of the means,
    which any code holds. Put the plain mean and an untrained encoder beside it.

    Args:
        codes: (laws, l).
        distances: (laws, laws), such as Wasserstein-2 distances.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: for fewer than four laws, or shapes that do not fit.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025, the comparison of code distances.

    Examples:
        >>> import torch
        >>> z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        >>> distance_agreement(z, torch.cdist(z, z)).spearman > 0.999
        True
    """
    z, d = (np.asarray(as_tensor(a).double()) for a in (codes, distances))
    n = len(z)
    if z.ndim != 2 or n < 4:
        raise ValueError(f"codes must have shape (laws, l) with at least four laws, got {z.shape}")
    if d.shape != (n, n):
        raise ValueError(f"distances must have shape ({n}, {n}), got {d.shape}")
    check_number("resamples", resamples, low=10, integer=True)
    mine = np.sqrt(np.maximum(((z[:, None] - z[None]) ** 2).sum(-1), 0))
    i, j = np.triu_indices(n, 1)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(n, size=n)
        a, b = rows[i], rows[j]
        apart = a != b  # a law and its copy are no pair
        a, b = a[apart], b[apart]
        drawn.append((spearmanr(mine[a, b], d[a, b])[0], pearsonr(mine[a, b], d[a, b])[0]))
    low, high = np.nanquantile(np.array(drawn, dtype=float), [0.025, 0.975], axis=0)
    return Agreement(
        float(spearmanr(mine[i, j], d[i, j])[0]),  # type: ignore[arg-type]
        float(pearsonr(mine[i, j], d[i, j])[0]),  # type: ignore[arg-type]
        (float(low[0]), float(high[0])),
        (float(low[1]), float(high[1])),
    )
