"""Populations of weighted particles: copies, resampling, evidence pushed outward, and collapse to one."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar

from holdfast.core.checks import check_number
from holdfast.inference.ancestors import ancestors
from holdfast.inference.distributions import Categorical
from holdfast.inference.effects import Effect, Program, Sample, Score
from holdfast.inference.log_weights import log_total
from holdfast.inference.programs import start
from holdfast.inference.weighted import weighted

__all__ = ["Population", "collapse", "flatten", "population", "push_evidence", "resample", "spawn"]

T = TypeVar("T")


class Population(Generic[T]):
    r"""Values with log-weights, standing for the measure :math:`\sum_i w_i \delta_{x_i}`.

    Raises:
        ValueError: when there is not one weight per value, or a weight is NaN or ``+inf``.

    Examples:
        >>> pop = Population(["a", "b"], [math.log(3.0), 0.0])
        >>> len(pop), round(pop.log_evidence, 4), round(pop.ess, 4)
        (2, 1.3863, 1.6)
        >>> [round(w, 4) for w in pop.weights]
        [0.75, 0.25]
    """

    __slots__ = ("logw", "values")

    def __init__(self, values: Sequence[T], logw: Sequence[float]) -> None:
        if len(values) != len(logw):
            raise ValueError(f"a population needs one weight per value, got {len(values)} values, {len(logw)} weights")
        if not all(w < math.inf for w in logw):
            raise ValueError(f"log-weights must be below +inf and not NaN, got {list(logw)}")
        self.values, self.logw = list(values), list(logw)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def log_evidence(self) -> float:
        """Log of the total weight, ``-inf`` when every weight is 0."""
        return log_total(self.logw)

    @property
    def weights(self) -> list[float]:
        """Weights with sum 1; all 0 when every weight is 0."""
        total = self.log_evidence
        return [0.0 if total == -math.inf else math.exp(w - total) for w in self.logw]

    @property
    def ess(self) -> float:
        """Effective sample size, 0 when every weight is 0."""
        squares = math.fsum([w * w for w in self.weights])
        return 1 / squares if squares else 0.0

    def __repr__(self) -> str:
        return f"Population({len(self)} values, log_evidence={self.log_evidence:g})"


def population(p: Program[T], n: int) -> Program[Population[T]]:
    """Return ``spawn(n) >> p``: ``n`` independent runs of ``p``, each weight a score times ``1 / n``; it means ``p``.

    Raises:
        ValueError: for fewer than one particle.

    Examples:
        >>> from holdfast.inference import Bernoulli, enumerate_measure, score
        >>> def p():
        ...     x = yield Sample(Bernoulli(0.5))
        ...     yield score(0.25 if x else 0.75)
        ...     return x
        >>> {x: round(m, 12) for x, m in sorted(enumerate_measure(population(p, 2)).items())}
        {False: 0.375, True: 0.125}
    """

    def one() -> Generator[Effect, Any, Population[T]]:
        value, logw = yield from weighted(p)()
        return Population([value], [logw])

    return spawn(one, n)


def spawn(p: Program[Population[T]], n: int) -> Program[Population[T]]:
    """Return the program of ``n`` independent copies of a population, each of weight ``1 / n``.

    Raises:
        ValueError: for fewer than one copy.
        TypeError: when ``p`` does not return a population.

    Examples:
        >>> from holdfast.inference import run, unit
        >>> run(spawn(unit(Population(["a"], [0.0])), 3), rng=0).value
        Population(3 values, log_evidence=0)
    """
    check_number("number of particles", n, low=1, integer=True)

    def program() -> Generator[Effect, Any, Population[T]]:
        values: list[T] = []
        logw: list[float] = []
        for _ in range(n):
            copy = check_population((yield from start(p)))
            values += copy.values
            logw += [w - math.log(n) for w in copy.logw]
        return Population(values, logw)

    return program


def check_population(value: Any) -> Population[Any]:
    """Return ``value`` if it is a population, else raise."""
    if not isinstance(value, Population):
        raise TypeError(f"expected a program that returns a Population, but it returned {value!r}")
    return value


def resample(
    particles: Population[T], method: str = "multinomial", ess_threshold: float | None = None
) -> Program[Population[T]]:
    r"""Return the program that draws ancestors and gives every offspring the same share of the total weight.

    .. math:: E[\#\text{copies of } i] = N w_i / W, \qquad w'_k = W / N

    So the expected measure stays what it was; a population of total weight 0 is returned unchanged. The total is kept:
    it is the estimate of the evidence.

    Args:
        particles: the population.
        method: ``"multinomial"``, ``"stratified"``, ``"systematic"`` or ``"residual"``.
        ess_threshold: resample only when the effective sample size is below this share of ``N``; always when omitted.

    Raises:
        ValueError: for an empty population, an unknown method, or a threshold outside [0, 1].

    Examples:
        >>> from holdfast.inference import run
        >>> pop = Population(["a", "b"], [0.0, -math.inf])
        >>> run(resample(pop), rng=0).value.values
        ['a', 'a']
    """
    if len(particles) == 0:
        raise ValueError("resampling needs at least one particle, got an empty population")
    if ess_threshold is not None:
        check_number("ess_threshold", ess_threshold, low=0, high=1)
    n, total = len(particles), particles.log_evidence

    def program() -> Generator[Effect, Any, Population[T]]:
        if total == -math.inf or (ess_threshold is not None and particles.ess >= ess_threshold * n):
            return particles
        parents = yield from ancestors(particles.logw, method)()
        return Population([particles.values[a] for a in parents], [total - math.log(n)] * n)

    return program


def push_evidence(particles: Population[T]) -> Program[Population[T]]:
    """Return the program that scores the total weight outward and keeps the population with weights of sum 1.

    Do not add the raw weights up afterwards: the evidence is outside now.

    Examples:
        >>> from holdfast.inference import run
        >>> pop, logw = run(push_evidence(Population(["a", "b"], [0.0, 0.0])))
        >>> round(pop.log_evidence, 12), round(logw, 4)
        (0.0, 0.6931)
    """
    total = particles.log_evidence

    def program() -> Generator[Effect, Any, Population[T]]:
        yield Score(total)
        if total == -math.inf:
            return particles
        return Population(particles.values, [w - total for w in particles.logw])

    return program


def collapse(particles: Population[T]) -> Program[T]:
    """Return the program that keeps one value, drawn by weight, and scores the total weight.

    Raises:
        ValueError: for an empty population.

    Examples:
        >>> from holdfast.inference import run
        >>> run(collapse(Population(["a", "b"], [-math.inf, 0.0])), rng=0)
        Weighted(value='b', logw=0.0)
    """
    if len(particles) == 0:
        raise ValueError("collapse needs at least one particle, got an empty population")
    total = particles.log_evidence

    def program() -> Generator[Effect, Any, T]:
        yield Score(total)
        if total == -math.inf or len(particles) == 1:
            return particles.values[0]
        return particles.values[(yield Sample(Categorical(particles.weights), "survivor"))]

    return program


def flatten(nested: Population[Population[T]]) -> Population[T]:
    """Return one population of a population of populations; weights multiply.

    Examples:
        >>> inner = Population(["a", "b"], [0.0, 0.0])
        >>> flatten(Population([inner, inner], [0.0, 0.0]))
        Population(4 values, log_evidence=1.38629)
    """
    pairs = [(x, w + v) for pop, w in zip(nested.values, nested.logw) for x, v in zip(pop.values, pop.logw)]
    return Population([x for x, _ in pairs], [w for _, w in pairs])
