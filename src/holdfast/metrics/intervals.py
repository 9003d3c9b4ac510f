"""How sure a number is: intervals over seeds, over samples, and over both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import generator
from holdfast.metrics._inputs import as_float

__all__ = [
    "Interval",
    "bootstrap_interval",
    "bootstrap_mean",
    "hierarchical_bootstrap",
    "paired_difference",
    "t_interval",
    "wilson_interval",
]

_ENTRIES = 2**23  # resampled indices held at once
Method = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval around an estimate.

    Examples:
        >>> i = Interval(0.8, 0.7, 0.9, 0.95)
        >>> print(i)
        0.800 [0.700, 0.900]
        >>> i.excludes(0.5)
        True
    """

    estimate: float
    low: float
    high: float
    confidence: float = 0.95

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside the interval."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t_interval(values: Any, confidence: float = 0.95) -> Interval:
    r"""Student-t interval of a mean over independent runs: :math:`\bar v \pm t_{n-1}\, s / \sqrt n`.

    One value gives an infinite interval: a single seed says nothing about other seeds.

    Examples:
        >>> print(t_interval([1.0, 2.0, 3.0]))
        2.000 [-0.484, 4.484]
    """
    v = as_float("values", values, ndim=1)
    _check_confidence(confidence)
    mean, n = float(v.mean()), len(v)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, confidence)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(v.std()) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, confidence)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    r"""Wilson score interval of a proportion such as an accuracy; keeps its level near 0 and 1.

    .. math:: \frac{\hat p + z^2/2n \pm z \sqrt{\hat p (1 - \hat p)/n + z^2/4n^2}}{1 + z^2/n}

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Examples:
        >>> print(wilson_interval(10, 10))
        1.000 [0.722, 1.000]
    """
    _check_confidence(confidence)
    check_number("n", n, low=1, integer=True)
    check_number("successes", successes, low=0, high=n, integer=True)
    p, z = successes / n, float(stats.norm.ppf(0.5 + confidence / 2))
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the bound is 0 or 1 exactly; rounding must not move it inside.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Interval(p, low, high, confidence)


def bootstrap_interval(
    statistic: Callable[[Int[Tensor, "resamples m"]], Float[Tensor, " resamples"]],
    n: int,
    *,
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    r"""Bootstrap interval of any statistic of ``n`` samples.

    Args:
        statistic: from row indices ``(resamples, m)`` to one value per resample; called on blocks of resamples, on
            ``arange(n)`` for the estimate, and for ``"bca"`` on the ``n`` sets that leave one sample out.
        n: number of samples.
        seed: of the resampling.
        n_resamples: number of resamples.
        confidence: level of the interval.
        method: ``"percentile"``, or ``"bca"``: corrected for bias and skewness.

    Raises:
        ValueError: where the statistic does not give one finite value per resample.

    Source: Efron, "Better Bootstrap Confidence Intervals", JASA 1987 (``"bca"``: eq. 2.3, 6.6).

    Examples:
        >>> import torch
        >>> x = torch.arange(100.0)
        >>> i = bootstrap_interval(lambda rows: x[rows].median(1).values, 100, seed=0)
        >>> i.low < i.estimate < i.high
        True
    """
    check_number("n", n, low=2, integer=True)
    _check_options(n_resamples, confidence, method)
    rng = generator(seed)
    step = max(1, _ENTRIES // n)
    blocks = []
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        blocks.append(_evaluate(statistic, torch.randint(n, (size, n), generator=rng)))
    estimate = float(_evaluate(statistic, torch.arange(n)[None]))
    jackknife = None
    if method == "bca":
        base = torch.arange(n - 1)
        left_out = torch.arange(n)[:, None]
        jackknife = torch.cat(
            [_evaluate(statistic, base + (base >= left_out[s : s + step])) for s in range(0, n, step)]
        )
    return _interval(torch.cat(blocks), estimate, jackknife, confidence)


def bootstrap_mean(
    values: Any, *, seed: int, n_resamples: int = 2000, confidence: float = 0.95, method: Method = "percentile"
) -> Interval:
    """Bootstrap interval of a mean of per-sample values, e.g. ``prediction == label`` for an accuracy.

    Examples:
        >>> i = bootstrap_mean([0.0, 1.0, 1.0, 1.0] * 25, seed=0)
        >>> i.estimate, 0.6 < i.low < 0.75 < i.high < 0.9
        (0.75, True)
    """
    v = as_float("values", values, ndim=1).cpu()
    return bootstrap_interval(
        lambda rows: v[rows].mean(1),
        len(v),
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
        method=method,
    )


def hierarchical_bootstrap(
    values: Any, *, seed: int, crossed: bool = True, n_resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Percentile interval of a mean over seeds and samples: seeds are drawn anew, then samples.

    Args:
        values: ``(seeds, samples)`` per-sample values.
        seed: of the resampling.
        crossed: ``True``: column ``j`` is the same sample for every seed (one test set), drawn together;
            ``False``: each seed has samples of its own, drawn for each seed apart.
        n_resamples: number of resamples.
        confidence: level of the interval.

    Examples:
        >>> i = hierarchical_bootstrap([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]], seed=0)
        >>> i.estimate
        0.75
    """
    v = as_float("values", values, ndim=2).cpu()
    _check_options(n_resamples, confidence, "percentile")
    runs, n = v.shape
    if runs < 2 or n < 2:
        raise ValueError(f"values must hold at least 2 seeds and 2 samples, got shape {tuple(v.shape)}")
    rng = generator(seed)
    step = max(1, _ENTRIES // (runs * n))
    blocks = []
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        run = torch.randint(runs, (size, runs, 1), generator=rng)
        sample = torch.randint(n, (size, 1 if crossed else runs, n), generator=rng)
        blocks.append(v[run, sample].mean((1, 2)))
    return _interval(torch.cat(blocks), float(v.mean()), None, confidence)


def paired_difference(
    a: Any,
    b: Any,
    *,
    method: Literal["t", "percentile", "bca"] = "t",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of ``a - b`` over pairs.

    Args:
        a: ``(n,)`` one value per seed or per sample; or ``(seeds, samples)``, resampled over both.
        b: the same seeds and samples in the same order.
        method: ``"t"`` for a few seeds; ``"percentile"`` or ``"bca"`` bootstrap for many samples. Matrices take
            ``"percentile"``.
        confidence: level of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Examples:
        >>> print(paired_difference([0.9, 0.8, 0.7], [0.8, 0.7, 0.5]))
        0.133 [-0.010, 0.277]
    """
    check_choice("method", method, ["t", "percentile", "bca"])
    x, y = as_float("a", a), as_float("b", b)
    if x.shape != y.shape or x.ndim not in (1, 2):
        raise ValueError(f"a and b must both be (n,) or (seeds, samples), got {tuple(x.shape)} and {tuple(y.shape)}")
    difference = x - y.to(x.device)
    if difference.ndim == 2:
        if method != "percentile":
            raise ValueError(f"values over seeds and samples take method='percentile', got {method!r}")
        return hierarchical_bootstrap(difference, seed=seed, n_resamples=n_resamples, confidence=confidence)
    if method == "t":
        return t_interval(difference, confidence)
    return bootstrap_mean(difference, seed=seed, n_resamples=n_resamples, confidence=confidence, method=method)


def _check_confidence(confidence: float) -> None:
    check_number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)


def _check_options(n_resamples: int, confidence: float, method: str) -> None:
    check_number("n_resamples", n_resamples, low=100, integer=True)
    _check_confidence(confidence)
    check_choice("method", method, ["percentile", "bca"])


def _evaluate(statistic: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    value = torch.as_tensor(statistic(rows)).detach().double().cpu()
    if tuple(value.shape) != (len(rows),):
        raise ValueError(f"statistic must give one value per resample, ({len(rows)},), got {tuple(value.shape)}")
    if not bool(value.isfinite().all()):
        raise ValueError("statistic is not finite on a resample; resamples can miss a class or a group entirely")
    return value


def _interval(draws: Tensor, estimate: float, jackknife: Tensor | None, confidence: float) -> Interval:
    levels = np.array([0.5 - confidence / 2, 0.5 + confidence / 2])
    v = draws.numpy()
    if jackknife is not None and float(v.max()) > float(v.min()):
        share = (np.sum(v < estimate) + 0.5 * np.sum(v == estimate)) / len(v)
        share = np.clip(share, 0.5 / len(v), 1 - 0.5 / len(v))
        z0, z = stats.norm.ppf(share), stats.norm.ppf(levels)
        d = (jackknife.mean() - jackknife).numpy()
        spread = float(np.sum(d**2)) ** 1.5
        acceleration = float(np.sum(d**3)) / (6 * spread) if spread > 0 else 0.0
        levels = stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))
    low, high = np.quantile(v, levels)
    return Interval(estimate, float(low), float(high), confidence)
