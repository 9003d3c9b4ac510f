"""How many dimensions each subspace has, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.distribution.subspaces.clustering import check_samples, k_subspaces

__all__ = ["DimensionEstimate", "estimate_dims"]

_FLOOR = 1e-10
_SAMPLES_PER_DIM = 2


@dataclass(frozen=True)
class DimensionEstimate:
    """What :func:`estimate_dims` found.

    Attributes:
        dims: the dimension of every subspace, the largest subspace (in samples) first.
        bic: of every common dimension that was tried, smaller is better.
        eigenvalues: second moments of every subspace's samples along its principal directions, all n.
        gaps: the factor between the last eigenvalue inside and the first outside.
        agreement: share of bootstrap resamples of a subspace's samples that give the same dimension.
        counts: samples of every subspace.
    """

    dims: tuple[int, ...]
    bic: dict[int, float]
    eigenvalues: list[Float[Tensor, " n"]]
    gaps: tuple[float, ...]
    agreement: tuple[float, ...]
    counts: tuple[int, ...]


def estimate_dims(
    X: Any,
    K: int = 1,
    *,
    d_max: int | None = None,
    n_init: int = 10,
    n_bootstrap: int = 50,
    generator: torch.Generator | None = None,
) -> DimensionEstimate:
    r"""Estimate the dimensions of K subspaces by BIC under :math:`\mathcal N(0, U\Lambda U^\top + \sigma^2 I)` each.

    Clusters are those of :func:`k_subspaces` at the common dimension of the smallest BIC; within them every subspace
    then gets its own. The likelihood per subspace is that of the d largest second moments and one residual variance.
    Only dimensions with two samples each are tried: beyond, bases are not recovered reliably, and the residual of the
    samples is too small.

    Args:
        X: (N, n) samples, centred.
        K: number of subspaces.
        d_max: largest dimension tried.
        n_init: starts of the clustering.
        n_bootstrap: resamples behind ``agreement``.
        generator: of starts and resamples.

    Raises:
        ValueError: for fewer than 2 samples per subspace, or values that are not finite.

    Source: Minka, "Automatic choice of dimensionality for PCA", NeurIPS 2000 (BIC, equation 82).

    Examples:
        >>> from holdfast.distribution.subspaces import make_subspace_samples
        >>> data = make_subspace_samples(24, (4, 2), 40, residual=0.1, seed=0)
        >>> sorted(estimate_dims(data.x, 2, generator=torch.Generator().manual_seed(0)).dims)
        [2, 4]
    """
    check_number("K", K, low=1, integer=True)
    check_number("n_bootstrap", n_bootstrap, low=1, integer=True)
    x, _ = check_samples(X, (1,) * K)
    x = x.double().cpu()
    N, n = x.shape
    if N < _SAMPLES_PER_DIM * K:
        raise ValueError(f"dimensions of {K} subspaces need at least {_SAMPLES_PER_DIM * K} samples, got {N}")
    most = min(n - 1, N // (_SAMPLES_PER_DIM * K))
    if d_max is not None:
        most = min(most, int(check_number("d_max", d_max, low=1, high=n - 1, integer=True)))
    bic: dict[int, float] = {}
    found: dict[int, Tensor] = {}
    for d in range(1, most + 1):
        labels = k_subspaces(x, (d,) * K, n_init=n_init, generator=generator).labels
        parts = [x[labels == k] for k in range(K)]
        if min(len(rows) for rows in parts) == 0:
            continue
        scores = [_bic(_moments(rows), len(rows), d, len(x)) for rows in parts]
        weights = -2 * sum(len(rows) * math.log(len(rows) / N) for rows in parts) + (K - 1) * math.log(N)
        bic[d], found[d] = sum(scores) + weights, labels
    if not bic:
        raise ValueError(f"the samples fall into fewer than {K} subspaces")
    labels = found[min(bic, key=bic.__getitem__)]
    parts = sorted((x[labels == k] for k in range(K)), key=len, reverse=True)
    dims, gaps, agreement, eigenvalues = [], [], [], []
    for rows in parts:
        values = _moments(rows)
        d = _best(values, len(rows), n, d_max)
        drawn = torch.randint(len(rows), (n_bootstrap, len(rows)), generator=generator)
        again = [_best(_moments(rows[i]), len(rows), n, d_max) for i in drawn]
        dims.append(d)
        gaps.append(float(values[d - 1] / values[d].clamp_min(_FLOOR * values[0])))
        agreement.append(sum(a == d for a in again) / n_bootstrap)
        eigenvalues.append(values)
    return DimensionEstimate(
        tuple(dims), bic, eigenvalues, tuple(gaps), tuple(agreement), tuple(len(rows) for rows in parts)
    )


def _moments(x: Float[Tensor, "N n"]) -> Float[Tensor, " n"]:
    """Eigenvalues of the second moments, with the zeros of directions that few samples leave out."""
    values = torch.linalg.svdvals(x).square() / len(x)
    return torch.nn.functional.pad(values, (0, x.shape[1] - len(values)))


def _bic(values: Float[Tensor, " n"], samples: int, d: int, of: int) -> float:
    n = len(values)
    floor = _FLOOR * float(values[0]) + torch.finfo(values.dtype).tiny
    rest = values[d:].mean().clamp_min(floor)
    inside = values[:d].clamp_min(floor).log().sum()
    deviance = samples * float(n * math.log(2 * math.pi) + inside + (n - d) * rest.log() + n)
    return deviance + (d * (2 * n - d + 1) / 2 + 1) * math.log(of)


def _best(values: Float[Tensor, " n"], samples: int, n: int, d_max: int | None) -> int:
    most = max(1, min(n - 1, samples // _SAMPLES_PER_DIM, n if d_max is None else d_max))
    return min(range(1, most + 1), key=lambda d: _bic(values, samples, d, samples))
