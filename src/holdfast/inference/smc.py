"""Sequential Monte Carlo as a composition: spawn, then resample and advance, then finish."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from holdfast.core.checks import check_choice, check_number
from holdfast.inference.ancestors import ANCESTORS
from holdfast.inference.effects import Program
from holdfast.inference.population import Population, push_evidence, resample, spawn
from holdfast.inference.programs import bind
from holdfast.inference.suspended import Suspended, suspend
from holdfast.inference.traces import Trace

__all__ = ["smc", "stepwise_smc"]

T = TypeVar("T")
Stage = Callable[[Population[Trace[T]]], Program[Population[Trace[T]]]]


def smc(
    p: Program[T],
    n: int,
    steps: int,
    resampler: str = "multinomial",
    ess_threshold: float | None = None,
    rejuvenate: Stage[T] | None = None,
) -> Program[Population[T]]:
    r"""Return the program that runs ``n`` particles of ``p`` and resamples them at each of its first ``steps`` scores.

    .. math:: \mathrm{SMC}(k, n) = \mathrm{finish} \circ (\mathrm{advance} \circ
        \mathrm{hoist}(\mathrm{resample}))^k \circ \mathrm{hoist}(\mathrm{spawn}_n \gg)

    Its population means ``p``; the total weight is an unbiased estimate of the evidence. Later scores are plain
    weights, and particles that end early take part with a factor of 1. A particle that has siblings is continued by
    running the program again, so a run costs :math:`O(n k^2)` effects at worst; for long state-space models see
    :func:`~holdfast.inference.smc_state_space`.

    Args:
        p: the program.
        n: number of particles.
        steps: number of scores to resample at.
        resampler: ``"multinomial"``, ``"stratified"``, ``"systematic"`` or ``"residual"``.
        ess_threshold: resample only below this share of ``n``; at every step when omitted.
        rejuvenate: what is done to the population after each resampling step, see
            :func:`~holdfast.inference.rejuvenation`.

    Raises:
        ValueError: for fewer than one particle, a negative number of steps, an unknown resampler or a bad threshold.

    Examples:
        >>> from holdfast.inference import Normal, Sample, observe, run
        >>> def walk(ys=(0.5, 1.0, 1.5)):
        ...     x = 0.0
        ...     for y in ys:
        ...         x = yield Sample(Normal(x, 1))
        ...         yield observe(Normal(x, 1), y)
        ...     return x
        >>> run(smc(walk, 100, 3), rng=0).value
        Population(100 values, log_evidence=-4...)
    """
    return _compose(p, n, steps, resampler, ess_threshold, rejuvenate, push=False).finish()


def stepwise_smc(
    p: Program[T],
    n: int,
    steps: int,
    resampler: str = "multinomial",
    ess_threshold: float | None = None,
) -> Program[Population[T]]:
    """Return :func:`smc` with the evidence of every step scored as soon as it is known.

    So an outer algorithm can pause between the steps. What is left in the population is the weight since the last
    step: follow with :func:`~holdfast.inference.collapse` or :func:`~holdfast.inference.push_evidence`.

    Examples:
        >>> from holdfast.inference import Bernoulli, Sample, collapse, enumerate_measure, observe
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5))
        ...     yield observe(Bernoulli(0.75 if x else 0.25), True)
        ...     return x
        >>> exact = enumerate_measure(bind(stepwise_smc(model, 2, 1), collapse))
        >>> {x: round(m, 12) for x, m in sorted(exact.items())}
        {False: 0.125, True: 0.375}
    """
    return _compose(p, n, steps, resampler, ess_threshold, None, push=True).finish()


def _compose(
    p: Program[T],
    n: int,
    steps: int,
    resampler: str,
    ess_threshold: float | None,
    rejuvenate: Stage[T] | None,
    push: bool,
) -> Suspended[T]:
    check_number("steps", steps, low=0, integer=True)
    check_number("number of particles", n, low=1, integer=True)
    check_choice("resampler", resampler, sorted(ANCESTORS))
    if ess_threshold is not None:
        check_number("ess_threshold", ess_threshold, low=0, high=1)
    stages: list[Stage[T]] = [lambda pop: resample(pop, resampler, ess_threshold)]
    stages += [push_evidence] if push else []
    stages += [] if rejuvenate is None else [rejuvenate]
    s = suspend(p).hoist_first(lambda q: spawn(q, n))
    for _ in range(steps):
        for stage in stages:
            s = s.hoist_first(lambda q, stage=stage: bind(q, stage))
        s = s.advance()
    return s
