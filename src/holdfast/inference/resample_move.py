"""Resample-move: particles are moved by Metropolis-Hastings after they were resampled."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from holdfast.core.checks import check_number
from holdfast.inference.effects import Effect, Program
from holdfast.inference.mh import Proposals, mh_move
from holdfast.inference.population import Population
from holdfast.inference.smc import Stage, smc
from holdfast.inference.traces import Trace
from holdfast.inference.traces import freeze as freeze_trace

__all__ = ["rejuvenation", "resample_move"]

T = TypeVar("T")


def rejuvenation(moves: int, proposals: Proposals | None = None, *, freeze: bool = False) -> Stage[Any]:
    """Return the stage that moves every particle ``moves`` times, each within the program up to its pause.

    Args:
        moves: Metropolis-Hastings steps per particle.
        proposals: kernels by name of the choice.
        freeze: fix the choices so far afterwards, so that later stages move only what is new.

    Raises:
        ValueError: for a negative number of moves.

    Examples:
        >>> rejuvenation(-1)
        Traceback (most recent call last):
        ...
        ValueError: moves must be in [0, inf), got -1
    """
    check_number("moves", moves, low=0, integer=True)

    def stage(particles: Population[Trace[T]]) -> Program[Population[Trace[T]]]:
        def program() -> Generator[Effect, Any, Population[Trace[T]]]:
            out = []
            for t in particles.values:
                t = yield from mh_move(t, proposals, moves)()
                out.append(freeze_trace(t) if freeze else t)
            return Population(out, particles.logw)

        return program

    return stage


def resample_move(
    p: Program[T],
    n: int,
    steps: int,
    moves: int = 1,
    resampler: str = "multinomial",
    ess_threshold: float | None = None,
    proposals: Proposals | None = None,
    *,
    freeze: bool = False,
) -> Program[Population[T]]:
    """Return :func:`~holdfast.inference.smc` with ``moves`` Metropolis-Hastings steps per particle at every step.

    Offspring of one ancestor part ways again. A move leaves the measure of the program up to the pause invariant, so
    the population still means ``p``. One move runs the program up to the pause.

    References:
        Gilks and Berzuini, "Following a moving target", JRSS B 63, 2001; Ścibior et al., POPL 2018.

    Examples:
        >>> from holdfast.inference import Bernoulli, Sample, enumerate_measure, observe
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5))
        ...     yield observe(Bernoulli(0.75 if x else 0.25), True)
        ...     return x
        >>> {x: round(m, 12) for x, m in sorted(enumerate_measure(resample_move(model, 2, 1)).items())}
        {False: 0.125, True: 0.375}
    """
    return smc(p, n, steps, resampler, ess_threshold, rejuvenation(moves, proposals, freeze=freeze))
