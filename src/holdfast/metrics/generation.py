"""Generated samples against real ones, in a feature space with a name: Fréchet and kernel distance, and how much of
each side the other covers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator, spawn_seed
from holdfast.metrics._inputs import as_float
from holdfast.metrics.retrieval import nearest_neighbours
from holdfast.metrics.transport import gaussian_w2

__all__ = [
    "DensityCoverage",
    "FeatureSpace",
    "GenerationScores",
    "KernelDistance",
    "PrecisionRecall",
    "density_coverage",
    "frechet_distance",
    "frechet_distance_infinity",
    "generation_scores",
    "kernel_distance",
    "precision_recall",
]

_ENTRIES = 2**25  # distances held at once


class PrecisionRecall(NamedTuple):
    """Share of generated samples that look real, and of real samples that the generator can reach."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How deep generated samples lie among real ones (1 for equal laws), and the share of real samples met."""

    density: float
    coverage: float


class KernelDistance(NamedTuple):
    """Mean over subsets, and their standard deviation."""

    mean: float
    std: float


def frechet_distance(feats1: Any, feats2: Any) -> float:
    r"""Fréchet distance of two samples of features: the squared Wasserstein-2 distance of their Gaussians.

    .. math:: \lVert m_1 - m_2 \rVert^2 + \mathrm{tr}\, S_1 + \mathrm{tr}\, S_2
              - 2\, \mathrm{tr} (S_1^{1/2} S_2 S_1^{1/2})^{1/2}

    The last trace is the nuclear norm of :math:`S_1^{1/2} S_2^{1/2}`, found in float64 without the root of a
    product that is not symmetric, so singular covariances cost no accuracy. Where a sample has no more rows than
    features, it is the nuclear norm of :math:`X_1 X_2^\top / \sqrt{(n_1 - 1)(n_2 - 1)}` (centred rows), which is
    the same number and needs no covariance.

    The estimate is biased upwards, by about :math:`O(d / n)`: compare only numbers from equally many samples, or
    use :func:`frechet_distance_infinity`.

    Args:
        feats1: ``(n1, d)``.
        feats2: ``(n2, d)``.

    Raises:
        ValueError: for different widths, fewer than two rows on a side, or entries that are not finite.

    Warns:
        UserWarning: where a sample has no more rows than features.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
    NeurIPS 2017, eq. 6.

    Examples:
        >>> import torch
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x, x + torch.tensor([3.0, 4.0, 0.0])), 6)
        25.0
    """
    a, b = _features(feats1, feats2)
    least, d = min(len(a), len(b)), a.shape[1]
    if least > d:
        return gaussian_w2(a, b) ** 2
    warnings.warn(
        f"a Fréchet distance of {d} features from {least} samples is far too large: its covariance has rank "
        f"{least - 1}. Use more samples, fewer features, or kernel_distance.",
        UserWarning,
        stacklevel=2,
    )
    m1, m2 = a.mean(0), b.mean(0)
    x1, x2 = (a - m1) / (len(a) - 1) ** 0.5, (b - m2) / (len(b) - 1) ** 0.5
    cross = torch.linalg.svdvals(x1 @ x2.T).sum()
    squared = (m1 - m2).square().sum() + x1.square().sum() + x2.square().sum() - 2 * cross
    return float(squared.clamp_min(0))


def frechet_distance_infinity(real: Any, generated: Any, *, points: int = 10, seed: int = 0) -> float:
    r"""Fréchet distance that infinitely many generated samples would have: the bias in :math:`1/N` extrapolated.

    The distance is measured on random subsets of the generated features, of ``points`` sizes spread evenly in
    :math:`1/N` between a fifth of the sample and all of it; the intercept at :math:`1/N = 0` of the least-squares
    line is returned. It can be slightly negative.

    Args:
        real: ``(n, d)``; all of it is used, so its own bias stays.
        generated: ``(m, d)`` with ``m >= 5 (d + 1)``.
        points: subset sizes, at least 2.
        seed: of the subsets.

    Raises:
        ValueError: for too few rows for the smallest subset to have a covariance of full rank.

    Source: Chong and Forsyth, "Effectively Unbiased FID and Inception Score and Where to Find Them", CVPR 2020.

    Examples:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> real, fake = torch.randn(20000, 8, generator=g), torch.randn(500, 8, generator=g)
        >>> abs(frechet_distance_infinity(real, fake)) < frechet_distance(real, fake)
        True
    """
    a, b = _features(real, generated)
    check_number("points", points, low=2, integer=True)
    m, d = b.shape
    if min(len(a), m // 5) <= d:
        raise ValueError(f"{d} features need more than {d} real and {5 * d + 4} generated rows, got {len(a)} and {m}")
    inverse = torch.linspace(5 / m, 1 / m, points, dtype=torch.float64)
    sizes = (1 / inverse).round().long()
    g = generator(spawn_seed(seed, "frechet subsets"))
    values = [gaussian_w2(a, b[torch.randperm(m, generator=g)[: int(n)].to(b.device)]) ** 2 for n in sizes]
    design = torch.stack([torch.ones(points, dtype=torch.float64), 1 / sizes.double()], 1)
    return float(torch.linalg.lstsq(design, torch.tensor(values, dtype=torch.float64)[:, None]).solution[0, 0])


def precision_recall(real: Any, generated: Any, *, k: int = 3) -> PrecisionRecall:
    r"""Improved precision and recall of a generator.

    With :math:`r_k(x)` the distance from :math:`x` to its ``k``-th neighbour in its own sample, the manifold of a
    sample is the union of balls :math:`B(x, r_k(x))`. Precision is the share of generated samples in the manifold
    of the real ones; recall the share of real samples in the manifold of the generated ones.

    Args:
        real: ``(n, d)``.
        generated: ``(m, d)``; equally many as real for numbers comparable with others'.
        k: neighbour, below both ``n`` and ``m``.

    Source: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved Precision and Recall Metric for Assessing
    Generative Models", NeurIPS 2019, eq. 1-3.

    Examples:
        >>> real = [[0.0], [1.0], [2.0], [3.0]]
        >>> precision_recall(real, [[0.0], [0.1], [0.2], [0.3]], k=1)
        PrecisionRecall(precision=1.0, recall=0.25)
    """
    a, b = _features(real, generated)
    inside_real = _counts(a, _radii("real", a, k), b).sampled
    inside_generated = _counts(b, _radii("generated", b, k), a).sampled
    return PrecisionRecall(_share(inside_real > 0), _share(inside_generated > 0))


def density_coverage(real: Any, generated: Any, *, k: int = 5) -> DensityCoverage:
    r"""Density and coverage of a generator; unlike precision and recall not fooled by outliers among either sample.

    .. math:: \text{density} = \frac1{k m} \sum_j \sum_i \mathbb 1[y_j \in B(x_i, r_k(x_i))],\qquad
              \text{coverage} = \frac1n \sum_i \mathbb 1[\exists j: y_j \in B(x_i, r_k(x_i))]

    Balls are around real samples only. For equal laws the density is 1 on average, and the coverage
    :math:`1 - \prod_{i=1}^k \frac{n - i}{n + m - i}`.

    Args:
        real: ``(n, d)``.
        generated: ``(m, d)``.
        k: neighbour, below ``n``.

    Source: Naeem, Oh, Uh, Choi and Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020,
    eq. 5, 6 and lemma 2.

    Examples:
        >>> density_coverage([[0.0], [1.0], [2.0], [3.0]], [[0.0], [0.1]], k=1)
        DensityCoverage(density=2.0, coverage=0.5)
    """
    a, b = _features(real, generated)
    counts = _counts(a, _radii("real", a, k), b)
    return DensityCoverage(float(counts.sampled.double().mean()) / k, _share(counts.met))


def kernel_distance(
    feats1: Any,
    feats2: Any,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    seed: int = 0,
) -> KernelDistance:
    r"""Kernel distance: squared maximum mean discrepancy under a polynomial kernel, averaged over random subsets.

    .. math:: k(a, b) = (\gamma\, a^\top b + c)^{p}

    Unbiased at every sample size, so it may be negative and may be compared between sample sizes.

    Args:
        feats1: ``(n1, d)``.
        feats2: ``(n2, d)``.
        subsets: number of subsets; with ``subset_size`` equal to both sample sizes one is enough.
        subset_size: rows drawn from each side without replacement; by default 1000, or the smaller sample if that
            is less.
        degree: :math:`p`.
        gamma: :math:`\gamma`; by default ``1 / d``.
        coef: :math:`c`.
        seed: of the subsets.

    Raises:
        ValueError: for a subset larger than a sample.

    Source: Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018, section 4.

    Examples:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(300, 4, generator=g), torch.randn(300, 4, generator=g)
        >>> abs(kernel_distance(x, y).mean) < 0.1 < kernel_distance(x, y + 1).mean
        True
    """
    a, b = _features(feats1, feats2)
    check_number("subsets", subsets, low=1, integer=True)
    check_number("degree", degree, low=1, integer=True)
    least = min(len(a), len(b))
    n = min(1000, least) if subset_size is None else int(check_number("subset_size", subset_size, low=2, integer=True))
    if n > least:
        raise ValueError(f"subset_size must be at most the smaller sample, {least} rows, got {n}")
    scale = 1 / a.shape[1] if gamma is None else check_number("gamma", gamma, low=0, open_low=True)
    check_number("coef", coef)
    g = generator(spawn_seed(seed, "kernel subsets"))
    values = []
    for _ in range(int(subsets)):
        u, v = (s[torch.randperm(len(s), generator=g)[:n].to(s.device)] for s in (a, b))
        uu, vv, uv = ((scale * p @ q.T + coef) ** degree for p, q in ((u, u), (v, v), (u, v)))
        within = sum((k.sum() - k.diagonal().sum()) / (n * (n - 1)) for k in (uu, vv))
        values.append(within - 2 * uv.mean())
    found = torch.stack(values)
    return KernelDistance(float(found.mean()), float(found.std(correction=0)))


@dataclass(frozen=True)
class FeatureSpace:
    """A map to features and its name: distances in one space say nothing about those in another.

    Attributes:
        name: what the numbers are reported under.
        function: from a batch of samples to features ``(batch, d)``.
        batch_size: rows mapped at a time.

    Examples:
        >>> space = FeatureSpace("pixels", lambda x: x.flatten(1))
        >>> space(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 16])
    """

    name: str
    function: Callable[[Tensor], Tensor]
    batch_size: int = 500

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Return the features of every sample.

        Raises:
            ValueError: where the function does not return one finite row for each sample.
        """
        out = torch.cat([self.function(part).detach().cpu() for part in x.split(self.batch_size)])
        if out.ndim != 2 or len(out) != len(x):
            raise ValueError(
                f"{self.name} must give one row for each of {len(x)} samples, got shape {tuple(out.shape)}"
            )
        return as_float(f"features of {self.name}", out)


@dataclass(frozen=True)
class GenerationScores:
    """All scores of a generated sample, with the space they were measured in."""

    space: str
    n_real: int
    n_generated: int
    frechet: float
    kernel: float
    kernel_std: float
    precision: float
    recall: float
    density: float
    coverage: float


def generation_scores(real: Any, generated: Any, *, space: str, k: int = 5, seed: int = 0) -> GenerationScores:
    """Measure every score of this module on the features of real and generated samples.

    Args:
        real: ``(n, d)``.
        generated: ``(m, d)``.
        space: name of the feature space.
        k: neighbour of precision, recall, density and coverage.
        seed: of the kernel distance's subsets.

    Examples:
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> scores = generation_scores(x, x, space="plane")
        >>> scores.space, scores.precision, scores.coverage, round(scores.frechet, 6)
        ('plane', 1.0, 1.0, 0.0)
    """
    a, b = _features(real, generated)
    kernel = kernel_distance(a, b, seed=seed)
    pr, dc = precision_recall(a, b, k=k), density_coverage(a, b, k=k)
    return GenerationScores(
        space, len(a), len(b), frechet_distance(a, b), kernel.mean, kernel.std, *pr, *dc
    )  # fmt: skip


class _Counts(NamedTuple):
    sampled: Tensor  # for each sample, the balls it lies in
    met: Tensor  # for each ball, whether a sample lies in it


def _features(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    a, b = as_float("the first features", x, ndim=2), as_float("the second features", y, ndim=2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"both features must have equally many columns, got {a.shape[1]} and {b.shape[1]}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"each side needs at least two samples, got {len(a)} and {len(b)}")
    return a, b.to(a.device)


def _radii(name: str, x: Tensor, k: int) -> Float[Tensor, " n"]:
    check_number("k", k, low=1, integer=True)
    if k >= len(x):
        raise ValueError(f"k must be below the number of {name} samples, {len(x)}, got {k}")
    return nearest_neighbours(x, x, k, "l2", exclude_self=True).distances[:, -1]


def _counts(centres: Tensor, radii: Tensor, x: Tensor) -> _Counts:
    sampled, met = [], centres.new_zeros(len(centres), dtype=torch.bool)
    mean = centres.mean(0)  # distances do not see a common shift; without it their expanded squares do not cancel
    for part in x.split(max(1, _ENTRIES // len(centres))):
        distance = torch.cdist(part - mean, centres - mean, compute_mode="use_mm_for_euclid_dist")
        # The radii are rounded too, and a sample on the border is inside.
        inside = distance <= radii * (1 + 1e-9)
        sampled.append(inside.sum(1))
        met |= inside.any(0)
    return _Counts(torch.cat(sampled), met)


def _share(flags: Bool[Tensor, " n"]) -> float:
    return float(flags.double().mean())
