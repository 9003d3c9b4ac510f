"""Whether a likelihood on these data means anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_number
from holdfast.core.random import generator, spawn_seed
from holdfast.distribution.singular.perturbation import data_scale
from holdfast.distribution.singular.points import column_scales
from holdfast.distribution.singular.rates import perturbation_level
from holdfast.metrics.retrieval import nearest_neighbours
from holdfast.metrics.support import intrinsic_dimension

__all__ = ["SingularityReport", "singularity_report"]

_FEWEST = 20
_CODES = 32
_SHARE = 0.75
_COPIES = 0.01
_RATIO = 100.0


@dataclass(frozen=True)
class SingularityReport:
    """What :func:`singularity_report` found; ``print`` it.

    Attributes:
        n, columns: shape of the data.
        duplicates: rows that equal an earlier one.
        constant: columns with one value.
        coded: columns of at most 32 different values, all of them integers.
        scale: of the data, one number.
        scale_ratio: largest over smallest deviation of columns that vary.
        rank: of the centred data.
        local_spectrum: variance of the neighbours of a point along their principal directions, as shares of the sum;
            the mean over points.
        dimension: estimate of the dimension of the set that the points lie on, see
            :func:`holdfast.metrics.intrinsic_dimension`.
        dimension_of_noise: the same for as many points of a normal law with as many columns.
        level: noise to add by the rule of thumb, in the units of the data, see :func:`perturbation_level`.
        verdict: "singular" where the data certainly lie on a set without volume, "nearly singular" where they look so
            at the distance of neighbours, else "no sign".
    """

    n: int
    columns: int
    duplicates: int
    constant: tuple[int, ...]
    coded: tuple[int, ...]
    scale: float
    scale_ratio: float
    rank: int
    local_spectrum: Float[Tensor, " k"]
    dimension: float
    dimension_of_noise: float
    level: float
    verdict: Literal["singular", "nearly singular", "no sign"]

    @property
    def likelihood_is_meaningful(self) -> bool:
        """Whether nothing speaks against comparing likelihoods of models on these data."""
        return self.verdict == "no sign"

    def reasons(self) -> list[str]:
        """Return what speaks for a set without volume, strongest first."""
        found = []
        if self.rank < self.columns:
            found.append(f"the rank is {self.rank}, of {self.columns} columns")
        if self.constant:
            found.append(f"{len(self.constant)} columns are constant: {_few(self.constant)}")
        if self.duplicates:
            found.append(f"{self.duplicates} of {self.n} rows are copies of others")
        if self.coded:
            found.append(f"{len(self.coded)} columns hold few integers, codes or a coarse scale: {_few(self.coded)}")
        if self.dimension < _SHARE * self.dimension_of_noise:
            found.append(
                f"points look {self.dimension:.1f}-dimensional, noise in {self.columns} columns "
                f"{self.dimension_of_noise:.1f}-dimensional"
            )
        return found

    def __str__(self) -> str:
        lines = [f"{self.n} points, {self.columns} columns: {self.verdict}"]
        lines += [f"  - {reason}" for reason in self.reasons()]
        if self.scale_ratio > _RATIO:
            lines.append(f"  - columns differ in scale by a factor of {self.scale_ratio:.3g}: bring them to one first")
        if self.likelihood_is_meaningful:
            lines.append("Nothing speaks against a density: likelihoods can be compared.")
        else:
            lines.append(
                f"Your data are {'(nearly) ' if self.verdict != 'singular' else ''}singular: likelihoods of noise-free "
                "models are not comparable, they grow without bound as a model's noise shrinks."
            )
            lines.append(
                f"Add noise of deviation about {self.level:.2g} before a fit by likelihood, and sample without it."
            )
        return "\n".join(lines)


def singularity_report(X: Any, *, k: int = 20, seed: int = 0) -> SingularityReport:
    """Tell whether a likelihood on these data means anything.

    Data on a set without volume (copies, constant columns, exact relations between columns, curves, few grey levels)
    have no density. A model's likelihood then grows without bound as its noise shrinks onto the set, wherever the mass
    on it is: it compares nothing.

    The verdict is "singular" for a rank below the number of columns, more than one row in a hundred that is a copy, or
    columns of few integers only; "nearly singular" where the points look at most three quarters as high-dimensional
    as normal noise of as many points and columns does. The second is a judgement at the distance of neighbours, which
    many columns with strong dependence fall under too.

    Args:
        X: (n, ...) numbers, or a table; columns without numbers are an error.
        k: neighbours of a point that are looked at.
        seed: of the noise that is compared with, and of the choice of at most 2000 points.

    Raises:
        ValueError: for fewer than 20 rows, values that are not finite, all rows equal, or ``k`` too large.
        TypeError: for values that are not numbers.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023; Levina and Bickel, NeurIPS 2004.

    Examples:
        >>> from holdfast.distribution.singular import make_space_curve
        >>> report = singularity_report(make_space_curve(500, noise=0.001, seed=0))
        >>> report.verdict, round(report.dimension)
        ('nearly singular', 1)
    """
    x, eps = _numbers(X)
    n, columns = x.shape
    check_number("k", k, low=4, integer=True)
    distinct = x.unique(dim=0)
    if len(distinct) < 2:
        raise ValueError("all rows of X are equal: there is nothing to fit")
    scales = column_scales(x)
    moving = scales[scales > 0]
    whole = (x == x.round()).all(0)
    coded = [int(j) for j in whole.nonzero().flatten() if scales[j] > 0 and len(x[:, j].unique()) <= _CODES]
    values = torch.linalg.svdvals(distinct - distinct.mean(0))
    # Rounding of the entries, which are independent errors of this size, is no direction of the data.
    rank = int((values > 10 * eps * float(x.abs().max()) * len(distinct) ** 0.5).sum())
    near = min(k, len(distinct) - 1)
    if near >= 4:
        low = near // 2
        dimension = intrinsic_dimension(distinct, low, near, seed=seed)
        noise = torch.randn(len(distinct), columns, generator=generator(spawn_seed(seed, "noise")), dtype=torch.float64)
        of_noise = intrinsic_dimension(noise, low, near, seed=seed)
    else:
        dimension, of_noise = 0.0, float(columns)
    copies = n - len(distinct)
    verdict: Literal["singular", "nearly singular", "no sign"] = "no sign"
    if rank < columns or copies > _COPIES * n or len(coded) == columns:
        verdict = "singular"
    elif dimension < _SHARE * of_noise:
        verdict = "nearly singular"
    scale = data_scale(x)
    return SingularityReport(
        n=n,
        columns=columns,
        duplicates=copies,
        constant=tuple((scales == 0).nonzero().flatten().tolist()),
        coded=tuple(coded),
        scale=scale,
        scale_ratio=float(moving.max() / moving.min()),
        rank=rank,
        local_spectrum=_local_spectrum(distinct, near, seed),
        dimension=dimension,
        dimension_of_noise=of_noise,
        level=perturbation_level(n, max(1.0, dimension), scale=scale),
        verdict=verdict,
    )


def _numbers(X: Any) -> tuple[Float[Tensor, "n columns"], float]:
    """Return the numbers as double, and the precision that they came in."""
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        other = [str(c) for c, t in zip(X.columns, X.dtypes) if getattr(t, "kind", "O") not in "fiub"]
        if other:
            raise TypeError(f"X must hold numbers, but these columns do not: {', '.join(other)}")
        X = X.to_numpy(dtype=float)
    a = X if isinstance(X, Tensor) else np.asarray(X)
    if not isinstance(a, Tensor) and a.dtype.kind not in "fiub":
        raise TypeError(f"X must hold numbers, got dtype {a.dtype}")
    given = as_tensor(a)
    eps = torch.finfo(given.dtype).eps if given.is_floating_point() else torch.finfo(torch.float64).eps
    x = given.detach().double().cpu()
    if x.ndim < 2:
        raise ValueError(f"X must have shape (n, ...), got {tuple(x.shape)}")
    if len(x) < _FEWEST:
        raise ValueError(f"X must have at least {_FEWEST} rows, got {len(x)}")
    x = x.flatten(1)
    if not bool(torch.isfinite(x).all()):
        row, column = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise ValueError(f"X must be finite, but row {row}, column {column} holds {float(x[row, column])}")
    return x, eps


def _local_spectrum(x: Float[Tensor, "n d"], k: int, seed: int, points: int = 500) -> Float[Tensor, " k"]:
    rows = torch.randperm(len(x), generator=generator(spawn_seed(seed, "local")))[:points]
    near = x[nearest_neighbours(x[rows], x, k + 1, "l2").indices]
    squared = torch.linalg.svdvals(near - near.mean(1, keepdim=True)).square()
    return (squared / squared.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)).mean(0)


def _few(columns: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, columns[:8]))
    return shown if len(columns) <= 8 else f"{shown}, ..."
