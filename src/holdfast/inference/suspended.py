"""Programs that pause after each score, so that something can be done to the population between two scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from holdfast.inference.effects import Effect, Program
from holdfast.inference.population import Population
from holdfast.inference.programs import bind, start
from holdfast.inference.traces import Trace, execute

__all__ = ["Suspended", "suspend"]

T = TypeVar("T")
Particles = Population[Trace[T]]


class Suspended(Generic[T]):
    r"""A population of runs that wait after their first :math:`k` scores.

    ``layer`` is the program that takes every particle to its pause. Particles that end before stay in the population
    with a weight factor of 1. Every method returns another suspended program and keeps the meaning: running all pauses
    away gives back the measure of the program.

    Attributes:
        layer: program of the population at the pause.
        pause: number of scores before it.

    References:
        Ścibior et al., "Denotational validation of higher-order Bayesian inference", POPL 2018.

    Examples:
        >>> from functools import partial
        >>> from holdfast.inference import Bernoulli, Sample, enumerate_measure, observe, resample, spawn
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5))
        ...     yield observe(Bernoulli(0.75 if x else 0.25), True)
        ...     return x
        >>> two = suspend(model).hoist_first(lambda q: spawn(q, 2))
        >>> smc = two.hoist_first(lambda q: bind(q, resample)).advance().finish()
        >>> {x: round(m, 12) for x, m in sorted(enumerate_measure(smc).items())}
        {False: 0.125, True: 0.375}
    """

    def __init__(self, layer: Program[Particles[T]], pause: int) -> None:
        self.layer, self.pause = layer, pause

    def advance(self) -> Suspended[T]:
        """Take every particle to the next pause."""
        stop = self.pause + 1
        return Suspended(bind(self.layer, lambda pop: _each(pop, stop)), stop)

    def finish(self) -> Program[Population[T]]:
        """Return the program that takes every particle to its end; later scores become plain weights."""
        return bind(bind(self.layer, lambda pop: _each(pop, None)), _values)

    def hoist_first(self, f: Callable[[Program[Particles[T]]], Program[Particles[T]]]) -> Suspended[T]:
        """Apply a transformation of population programs to everything up to the pause."""
        return Suspended(f(self.layer), self.pause)


def suspend(p: Program[T]) -> Suspended[T]:
    """Return ``p`` as one particle of weight 1 that waits after its first score.

    Examples:
        >>> from holdfast.inference import Score, run
        >>> def p():
        ...     yield Score(-1.0)
        ...     return "end"
        >>> run(suspend(p).layer).value.values
        [Trace(0 choices, log_weight=-1, paused after 1 score(s))]
        >>> run(suspend(p).finish()).value.values
        ['end']
    """

    def layer() -> Generator[Effect, Any, Particles[T]]:
        first = yield from execute(p, 1, {})
        return Population([first], [first.segment])

    return Suspended(layer, 1)


def _each(particles: Particles[T], stop: int | None) -> Program[Particles[T]]:
    """Return the program that continues every particle to ``stop`` scores and multiplies the new scores in."""

    def program() -> Generator[Effect, Any, Particles[T]]:
        moved = []
        for particle in particles.values:
            moved.append((yield from start(particle.advance(stop))))
        # A particle of weight 0 stays one; its trace may hold a -inf that is not part of the segment.
        logw = [-math.inf if w == -math.inf else w + t.segment for w, t in zip(particles.logw, moved)]
        return Population(moved, logw)

    return program


def _values(particles: Particles[T]) -> Program[Population[T]]:
    def program() -> Generator[Effect, Any, Population[T]]:
        yield from ()
        return Population([t.value for t in particles.values], particles.logw)  # pyright: ignore[reportReturnType]

    return program
