"""Particle-marginal Metropolis-Hastings: a chain over parameters, each weighed by the evidence of a particle filter."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

import numpy as np

from holdfast.inference.effects import Effect, Program
from holdfast.inference.mh import MHResult, Proposals, mh
from holdfast.inference.population import collapse
from holdfast.inference.programs import auxiliary, bind, start
from holdfast.inference.smc import smc, stepwise_smc

__all__ = ["pmmh", "with_parameters"]

T = TypeVar("T")
X = TypeVar("X")


def with_parameters(
    prior: Program[T],
    model: Callable[[T], Program[X]],
    n: int,
    steps: int,
    resampler: str = "multinomial",
    ess_threshold: float | None = None,
    *,
    stepwise: bool = False,
) -> Program[tuple[T, X]]:
    """Return "draw parameters, run a collapsed particle filter of the model": it means the joint of both.

    The filter's choices are marked as auxiliary, so chains move the parameters alone and draw the filter again.

    Args:
        prior: program of the parameters.
        model: from parameters to the program of the model.
        n: particles of the filter.
        steps: scores of the model at which the filter resamples.
        resampler: resampler of the filter.
        ess_threshold: its threshold.
        stepwise: score the evidence at every step rather than at the end, for an outer particle filter.

    Examples:
        >>> from functools import partial
        >>> from holdfast.inference import Bernoulli, Sample, enumerate_measure, observe
        >>> def prior():
        ...     return (yield Sample(Bernoulli(0.5), "theta"))
        >>> def model(theta):
        ...     x = yield Sample(Bernoulli(0.8 if theta else 0.4))
        ...     yield observe(Bernoulli(0.5 if x else 0.25), True)
        ...     return x
        >>> joint = enumerate_measure(with_parameters(prior, lambda theta: partial(model, theta), 2, 1))
        >>> {k: round(m, 12) for k, m in sorted(joint.items())}
        {(False, False): 0.075, (False, True): 0.1, (True, False): 0.025, (True, True): 0.2}
    """
    algorithm = stepwise_smc if stepwise else smc

    def program() -> Generator[Effect, Any, tuple[T, X]]:
        theta = yield from start(prior)
        filtered = bind(algorithm(model(theta), n, steps, resampler, ess_threshold), collapse)
        x = yield from auxiliary(filtered)()
        return theta, x

    return program


def pmmh(
    prior: Program[T],
    model: Callable[[T], Program[X]],
    n: int,
    steps: int,
    n_steps: int,
    burn_in: int = 0,
    thin: int = 1,
    rng: int | np.random.Generator | None = None,
    *,
    resampler: str = "multinomial",
    ess_threshold: float | None = None,
    proposals: Proposals | None = None,
) -> MHResult[tuple[T, X]]:
    r"""Run a chain over parameters whose likelihood is a particle filter's estimate of the evidence.

    .. math:: \rho = \frac{\hat Z(\theta')\, p(\theta')\, q(\theta' \to \theta)}
        {\hat Z(\theta)\, p(\theta)\, q(\theta \to \theta')}

    The estimate of the present parameters is kept, not drawn again; the chain then has the exact posterior of
    parameters and states, for any number of particles. More particles make it accept more.

    Args:
        prior: program of the parameters; name its choices to give them kernels.
        model: from parameters to the program of the model.
        n: particles of the filter.
        steps: scores of the model at which the filter resamples.
        n_steps: steps of the chain after the burn-in.
        burn_in: steps that are not kept.
        thin: keep every ``thin``-th step.
        rng: seed or NumPy generator.
        resampler: resampler of the filter.
        ess_threshold: its threshold.
        proposals: kernels by name of the parameter.

    Returns:
        A chain of pairs: parameters, and the value of the model (say, a path) that goes with them.

    Raises:
        ValueError: as :func:`~holdfast.inference.smc` and :func:`~holdfast.inference.mh`.

    References:
        Andrieu, Doucet, Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 72, 2010.

    Examples:
        >>> from functools import partial
        >>> from holdfast.inference import Normal, Sample, observe
        >>> def prior():
        ...     return (yield Sample(Normal(0, 1), "mu"))
        >>> def model(mu):
        ...     x = yield Sample(Normal(mu, 1))
        ...     yield observe(Normal(x, 1), 3.0)
        ...     return x
        >>> chain = pmmh(prior, lambda mu: partial(model, mu), 10, 1, 800, 50, rng=0)
        >>> abs(chain.mean(lambda v: v[0]) - 1.0) < 0.3
        True
    """
    joint = with_parameters(prior, model, n, steps, resampler, ess_threshold)
    return mh(joint, n_steps, burn_in, thin, rng, proposals=proposals)
