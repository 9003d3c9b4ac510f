"""Metropolis-Hastings on traces: one choice is drawn again, the program is run again, the new run is taken or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from holdfast.core.checks import check_number
from holdfast.inference.distributions import Bernoulli, Distribution, as_rng, uniform_index
from holdfast.inference.effects import Effect, Program, Sample
from holdfast.inference.programs import run, start
from holdfast.inference.traces import Choice, Trace, check_replayable, draw_trace, execute, trace

__all__ = ["MHResult", "Proposal", "Proposals", "mh", "mh_move", "mh_propose", "mh_step", "moved"]

T = TypeVar("T")
Proposals = Mapping[str, Callable[[Any], Distribution]]
"""From the name of a choice to a kernel: from the present value to the distribution of the proposed one."""


class Proposal(NamedTuple, Generic[T]):
    """A proposed trace, the logarithm of its acceptance ratio, and how many choices could be picked on either side."""

    trace: Trace[T]
    log_ratio: float
    sites_before: int
    sites_after: int


def mh_propose(t: Trace[T], proposals: Proposals | None = None) -> Program[Proposal[T]]:
    r"""Return the program that proposes a trace: pick one of its ``n`` choices, draw it again, run the program again.

    Choices that the new run meets at an old address keep their values, others are drawn anew. With :math:`w` the weight
    (product of scores), :math:`R` the choices kept, and :math:`n'` choices afterwards,

    .. math:: \rho = \frac{w'\, n}{w\, n'} \prod_{a \in R} \frac{p'_a(x_a)}{p_a(x_a)}

    since the densities of fresh and stale choices cancel against the proposal's. A choice named in ``proposals`` is
    drawn from its kernel :math:`q(x \to \cdot)` instead, which multiplies :math:`\rho` by
    :math:`\frac{p_i(x')\, q(x' \to x)}{p_i(x)\, q(x \to x')}`.

    Raises:
        ValueError: for a trace without a free choice.

    References:
        Wingate, Stuhlmüller, Goodman, "Lightweight implementations of probabilistic programming languages via
        transformational compilation", AISTATS 2011; Ścibior et al., POPL 2018.

    Examples:
        >>> from holdfast.inference import Bernoulli, draw_trace, observe, run
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5), "x")
        ...     yield observe(Bernoulli(0.8 if x else 0.2), True)
        ...     return x
        >>> new = run(mh_propose(draw_trace(model, rng=0)), rng=2).value
        >>> new.trace["x"], round(new.log_ratio, 4), new.sites_after
        (...)
    """
    sites = t.free
    if not sites:
        raise ValueError("Metropolis-Hastings needs a program with at least one free choice, this run made none")

    def program() -> Generator[Effect, Any, Proposal[T]]:
        site = sites[0] if len(sites) == 1 else sites[(yield Sample(uniform_index(len(sites)), "site"))]
        known = {a: c for a, c in t.choices.items() if a != site and not c.auxiliary}
        log_q = 0.0
        if proposals and (kernel := proposals.get(site[0] or "")) is not None:
            old = t.choices[site]
            there = kernel(old.value)
            value = yield Sample(there, site[0])
            if old.dist.log_prob(value) == -math.inf:  # the program need not be run on what its prior rules out
                return Proposal(t, -math.inf, len(sites), len(sites))
            log_q = kernel(value).log_prob(old.value) - there.log_prob(value)
            known[site] = Choice(old.dist, value)
        new = yield from execute(t.program, t.stop, known, frozen=t.frozen)
        after = len(new.free)
        if new.log_weight == -math.inf:
            return Proposal(new, -math.inf, len(sites), after)
        log_ratio = new.log_weight - t.log_weight + math.log(len(sites)) - math.log(after) + log_q
        for a in known:
            was, now = t.choices[a], new.choices.get(a)
            if now is not None and (now.dist is not was.dist or a == site) and now.dist.kind == was.dist.kind:
                log_ratio += now.log_prob - was.log_prob
        return Proposal(new, log_ratio, len(sites), after)

    return program


def mh_move(t: Trace[T], proposals: Proposals | None = None, steps: int = 1) -> Program[Trace[T]]:
    """Return the program of ``steps`` Metropolis-Hastings steps: its choices are those of the algorithm.

    It leaves the measure of the traced program (up to the trace's pause) invariant. A trace of weight 0, and one
    without a free choice, stays as it is.

    Raises:
        ValueError: for a negative number of steps.

    Examples:
        >>> from holdfast.inference import bind, enumerate_measure, marginal, observe, trace
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5))
        ...     yield observe(Bernoulli(0.8 if x else 0.2), True)
        ...     return x
        >>> kept = enumerate_measure(marginal(bind(trace(model), mh_move)))
        >>> {x: round(m, 12) for x, m in sorted(kept.items())}
        {False: 0.1, True: 0.4}
    """
    check_number("steps", steps, low=0, integer=True)

    def program() -> Generator[Effect, Any, Trace[T]]:
        now = t
        for _ in range(steps):
            if now.log_weight == -math.inf or not now.free:
                break
            new = yield from start(mh_propose(now, proposals))
            accept = new.log_ratio >= 0
            if not accept and new.log_ratio > -math.inf:
                accept = yield Sample(Bernoulli(math.exp(new.log_ratio)), "accept")
            if accept:
                now = new.trace
        return now

    return program


def moved(p: Program[T], steps: int = 1, proposals: Proposals | None = None) -> Program[T]:
    """Return the program that runs ``p`` and then moves its trace ``steps`` times: it means ``p``.

    Examples:
        >>> from holdfast.inference import enumerate_measure
        >>> def coin():
        ...     return (yield Sample(Bernoulli(0.25)))
        >>> enumerate_measure(moved(coin, 2))
        {False: 0.75, True: 0.25}
    """

    def program() -> Generator[Effect, Any, T]:
        first = yield from trace(p)()
        last = yield from mh_move(first, proposals, steps)()
        return last.value  # pyright: ignore[reportReturnType]

    return program


def mh_step(
    p: Program[T],
    t: Trace[T],
    rng: int | np.random.Generator | None = None,
    proposals: Proposals | None = None,
) -> Trace[T]:
    """Take one Metropolis-Hastings step from a trace of ``p``.

    Raises:
        ValueError: when the trace is of another program, has weight 0, or has no free choice.

    Examples:
        >>> from holdfast.inference import draw_trace
        >>> def coin():
        ...     return (yield Sample(Bernoulli(0.5)))
        >>> mh_step(coin, draw_trace(coin, rng=0), rng=0).value in (True, False)
        True
    """
    if t.program is not p:
        raise ValueError("the trace is of another program; draw it from this one, by draw_trace")
    if t.log_weight == -math.inf:
        raise ValueError("the trace has weight 0; start from one of positive weight, by draw_trace")
    if not t.free:
        raise ValueError("Metropolis-Hastings needs a program with at least one free choice, this run made none")
    return run(mh_move(t, proposals), rng).value


@dataclass(frozen=True)
class MHResult(Generic[T]):
    """A chain of values.

    Attributes:
        values: the value at each kept step.
        log_weights: log-weight of the run at each kept step.
        acceptance: share of steps, burn-in included, at which the proposal was taken.
        last: trace at the end, from which a chain can go on.
    """

    values: list[T]
    log_weights: np.ndarray
    acceptance: float
    last: Trace[T]

    def mean(self, f: Callable[[T], Any] = lambda x: x) -> Any:
        """Return the mean of ``f`` over the kept values."""
        return sum(map(f, self.values)) / len(self.values)


def mh(
    p: Program[T],
    n_steps: int,
    burn_in: int = 0,
    thin: int = 1,
    rng: int | np.random.Generator | None = None,
    *,
    proposals: Proposals | None = None,
    start_at: Trace[T] | None = None,
) -> MHResult[T]:
    """Run a single-site Metropolis-Hastings chain over the traces of a program.

    Every step runs the whole program. Choices are redrawn from where they came (the prior), unless ``proposals`` gives
    a kernel for their name. For gradients on many continuous choices use a library made for it (Pyro, BlackJAX).

    Args:
        p: the program.
        n_steps: steps after the burn-in.
        burn_in: steps that are not kept.
        thin: keep every ``thin``-th step.
        rng: seed or NumPy generator.
        proposals: kernels by name, e.g. ``{"mu": lambda x: Normal(x, 0.5)}``.
        start_at: trace to go on from; a run of positive weight is drawn when omitted.

    Raises:
        ValueError: for fewer than one step kept, a negative burn-in, a program without a free choice, one that is not
            replayable, or one whose runs all have weight 0.

    Examples:
        >>> from holdfast.inference import Normal, observe
        >>> def model():
        ...     mu = yield Sample(Normal(0, 1), "mu")
        ...     yield observe(Normal(mu, 1), 2.0)
        ...     return mu
        >>> chain = mh(model, 4000, burn_in=100, rng=0, proposals={"mu": lambda x: Normal(x, 1.5)})
        >>> abs(chain.mean() - 1.0) < 0.15
        True
    """
    check_number("n_steps", n_steps, low=1, integer=True)
    check_number("burn_in", burn_in, low=0, integer=True)
    check_number("thin", thin, low=1, high=n_steps, integer=True)
    rng = as_rng(rng)
    now = draw_trace(p, rng) if start_at is None else start_at
    check_replayable(now)
    values: list[T] = []
    log_weights: list[float] = []
    taken = 0
    for step in range(1 - burn_in, n_steps + 1):
        new = mh_step(p, now, rng, proposals)
        taken += new is not now
        now = new
        if step > 0 and step % thin == 0:
            values.append(now.value)  # pyright: ignore[reportArgumentType]
            log_weights.append(now.log_weight)
    return MHResult(values, np.array(log_weights), taken / (burn_in + n_steps), now)
