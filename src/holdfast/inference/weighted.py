"""Scores gathered into a weight, and importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from holdfast.core.checks import check_number
from holdfast.inference.distributions import as_rng
from holdfast.inference.effects import Effect, Program, Score
from holdfast.inference.log_weights import log_total
from holdfast.inference.programs import Weighted, run, start

__all__ = ["WeightedSamples", "importance", "unweighted", "weighted"]

T = TypeVar("T")


def weighted(p: Program[T]) -> Program[Weighted[T]]:
    """Return the program that keeps the choices of ``p`` and gathers its scores into a weight beside the value.

    Examples:
        >>> from holdfast.inference import score
        >>> def p():
        ...     yield score(0.5)
        ...     return "a"
        >>> run(weighted(p))
        Weighted(value=Weighted(value='a', logw=-0.69...), logw=0.0)
    """

    def program() -> Generator[Effect, Any, Weighted[T]]:
        generator, sent, logw = start(p), None, 0.0
        while True:
            try:
                effect = generator.send(sent)
            except StopIteration as end:
                return Weighted(end.value, logw)
            if isinstance(effect, Score):
                logw += effect.logw
                sent = None
            else:
                sent = yield effect

    return program


def unweighted(p: Program[Weighted[T]]) -> Program[T]:
    """Return the program that scores the weight of a :class:`Weighted` value outward: the inverse of ``weighted``.

    Examples:
        >>> from holdfast.inference import unit
        >>> run(unweighted(unit(Weighted("a", -1.0))))
        Weighted(value='a', logw=-1.0)
    """

    def program() -> Generator[Effect, Any, T]:
        value, logw = yield from start(p)
        yield Score(logw)
        return value

    return program


@dataclass(frozen=True)
class WeightedSamples(Generic[T]):
    """Independent weighted runs.

    Attributes:
        values: one value per run.
        logw: log-weights, (n,).
        log_evidence: log of the mean weight, the unbiased estimate of Z.
        ess: effective sample size, 0 when every weight is 0.
    """

    values: list[T]
    logw: np.ndarray
    log_evidence: float
    ess: float

    @property
    def weights(self) -> np.ndarray:
        """Weights with sum 1; all 0 when every weight is 0."""
        if self.log_evidence == -math.inf:
            return np.zeros_like(self.logw)
        w = np.exp(self.logw - self.logw.max())
        return w / w.sum()

    def mean(self, f: Callable[[T], Any] = lambda x: x) -> Any:
        r"""Return the posterior mean :math:`\sum_i w_i f(x_i) / \sum_i w_i`.

        Raises:
            ValueError: when every weight is 0.
        """
        if self.log_evidence == -math.inf:
            raise ValueError("every weight is 0: no run agrees with what was observed, so there is no mean")
        return sum(w * f(x) for w, x in zip(self.weights.tolist(), self.values) if w > 0)


def importance(p: Program[T], n: int, rng: int | np.random.Generator | None = None) -> WeightedSamples[T]:
    r"""Run a program ``n`` times and weigh each run by its scores.

    .. math:: \hat Z = \frac1n \sum_i w_i, \qquad E[\hat Z] = Z

    Raises:
        ValueError: for fewer than one run.

    Examples:
        >>> from holdfast.inference import Bernoulli, Sample, observe
        >>> def model():
        ...     fair = yield Sample(Bernoulli(0.5))
        ...     for _ in range(3):
        ...         yield observe(Bernoulli(0.5 if fair else 0.9), True)
        ...     return fair
        >>> s = importance(model, 2000, rng=0)
        >>> abs(s.mean() - 0.5**3 / (0.5**3 + 0.9**3)) < 0.02
        True
    """
    check_number("number of particles", n, low=1, integer=True)
    rng = as_rng(rng)
    runs = [run(p, rng) for _ in range(n)]
    logw = [r.logw for r in runs]
    total = log_total(logw)
    ess = 0.0 if total == -math.inf else math.exp(2 * total - log_total([2 * w for w in logw]))
    return WeightedSamples([r.value for r in runs], np.array(logw), total - math.log(n), ess)
