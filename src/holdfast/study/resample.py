"""Intervals of a study: a bootstrap over seeds and samples at once, the same draws for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from holdfast.core.random import spawn_seed

__all__ = ["Bootstrap", "Estimate", "interval"]

Estimate = dict[str, float]


def interval(point: float, draws: Float[np.ndarray, " draws"], level: float = 0.95) -> Estimate:
    """Return a point with the percentile interval of its draws.

    Examples:
        >>> interval(50.0, np.arange(101.0), level=0.5)
        {'mean': 50.0, 'low': 25.0, 'high': 75.0}
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(point), "low": float(low), "high": float(high)}


class Bootstrap:
    r"""Draws of accuracies on the held-out environments, paired over methods.

    With :math:`C_{si}` whether the model of seed :math:`s` is right on sample :math:`i`, a draw is
    :math:`\sum_s w_s \sum_i v_i C_{si}` with multinomial weights :math:`v` over samples and :math:`w` over seeds. The
    seeds' weights, drawn anew for every environment, are stretched around :math:`1/S` by :math:`\sqrt{S/(S-1)}`,
    without which the few seeds of a study would understate their variance by :math:`(S-1)/S`. Weights are shared by
    all methods, so a difference of draws is a draw of the paired difference. Samples on which the same models are
    right are interchangeable; drawing how often each such pattern comes up, and not each sample, is exact and fast.
    The noise of single predictions enters through both weights, so intervals err on the wide side.

    Args:
        correct: per environment and method, ``(seeds, samples)``; methods may differ in their seeds.
        seeds: per method, the seeds behind the rows.
        draws: number of draws.
        seed: of the draws themselves.

    Source: Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007.
    """

    def __init__(
        self,
        correct: Mapping[str, Mapping[str, Bool[np.ndarray, "seeds samples"]]],
        seeds: Mapping[str, Sequence[int]],
        *,
        draws: int = 2000,
        seed: int = 0,
    ) -> None:
        self._seeds = {m: list(s) for m, s in seeds.items()}
        self._n, self._seed = draws, seed
        self._drawn: dict[tuple[str, str], np.ndarray] = {}
        self._means: dict[tuple[str, str], np.ndarray] = {}
        for environment, by_method in correct.items():
            methods = list(by_method)
            stacked = np.concatenate([by_method[m] for m in methods]).astype(bool)
            patterns, counts = _patterns(stacked)
            rng = np.random.default_rng(spawn_seed(seed, "samples", environment))
            weights = rng.multinomial(counts.sum(), counts / counts.sum(), size=draws) / counts.sum()
            accuracy = weights @ patterns.T.astype(np.float64)  # (draws, methods x seeds)
            start = 0
            for method in methods:
                stop = start + len(by_method[method])
                self._drawn[method, environment] = accuracy[:, start:stop]
                self._means[method, environment] = stacked[start:stop].mean(1)
                start = stop

    def point(self, method: str, environment: str, seeds: Sequence[int] | None = None) -> float:
        """Return the mean accuracy over seeds."""
        return float(self._means[method, environment][self._rows(method, seeds)].mean())

    def accuracy(
        self, method: str, environment: str, seeds: Sequence[int] | None = None
    ) -> Float[np.ndarray, " draws"]:
        """Return the draws of a method's mean accuracy on an environment."""
        rows = self._rows(method, seeds)
        used = tuple(self._seeds[method][r] for r in rows)
        return (self._drawn[method, environment][:, rows] * self._seed_weights(used, environment)).sum(1)

    def shared_seeds(self, one: str, two: str) -> list[int]:
        """Return the seeds that both methods finished."""
        return [s for s in self._seeds[one] if s in self._seeds[two]]

    def _rows(self, method: str, seeds: Sequence[int] | None) -> list[int]:
        own = self._seeds[method]
        return list(range(len(own))) if seeds is None else [own.index(s) for s in seeds]

    def _seed_weights(self, seeds: tuple[int, ...], environment: str) -> Float[np.ndarray, "draws seeds"]:
        n = len(seeds)
        if n == 1:
            return np.ones((self._n, 1))
        rng = np.random.default_rng(spawn_seed(self._seed, "seeds", environment, *seeds))
        weights = rng.multinomial(n, np.full(n, 1 / n), size=self._n) / n
        return 1 / n + (weights - 1 / n) * np.sqrt(n / (n - 1))


def _patterns(stacked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct columns of (rows, samples) booleans, and how often each occurs."""
    packed = np.ascontiguousarray(np.packbits(stacked, axis=0).T)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return stacked[:, first], counts
