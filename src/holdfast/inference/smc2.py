"""Particle filters of particle filters: parameters outside, states inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from holdfast.inference.effects import Program
from holdfast.inference.mh import Proposals
from holdfast.inference.pmmh import with_parameters
from holdfast.inference.population import Population
from holdfast.inference.resample_move import resample_move

__all__ = ["smc2"]

T = TypeVar("T")
X = TypeVar("X")


def smc2(
    prior: Program[T],
    model: Callable[[T], Program[X]],
    n_parameters: int,
    n: int,
    steps: int,
    moves: int = 1,
    resampler: str = "multinomial",
    ess_threshold: float | None = 0.5,
    proposals: Proposals | None = None,
) -> Program[Population[tuple[T, X]]]:
    """Return the program of SMC²: resample-move over parameters outside, a particle filter of the states inside.

    The inner filter scores its evidence at every observation; the outer population pauses there, is resampled when its
    effective sample size is low, and moves parameters by particle-marginal steps. The population means the joint of
    parameters and states, and its total weight estimates the evidence of the model.

    Args:
        prior: program of the parameters.
        model: from parameters to the program of the model.
        n_parameters: outer particles.
        n: inner particles, for each outer one.
        steps: scores of the model at which both levels pause.
        moves: particle-marginal steps per outer particle and pause; each runs an inner filter up to the pause.
        resampler: resampler of both levels.
        ess_threshold: of the outer level; the inner one resamples at every step.
        proposals: kernels by name of the parameter.

    Raises:
        ValueError: as :func:`~holdfast.inference.smc`.

    References:
        Chopin, Jacob, Papaspiliopoulos, "SMC²: an efficient algorithm for sequential analysis of state space models",
        JRSS B 75, 2013.

    Examples:
        >>> from functools import partial
        >>> from holdfast.inference import Normal, Sample, observe, run
        >>> def prior():
        ...     return (yield Sample(Normal(0, 1), "mu"))
        >>> def model(mu):
        ...     x = yield Sample(Normal(mu, 1))
        ...     yield observe(Normal(x, 1), 3.0)
        ...     return x
        >>> pop = run(smc2(prior, lambda mu: partial(model, mu), 200, 5, 1), rng=0).value
        >>> abs(sum(w * v[0] for w, v in zip(pop.weights, pop.values)) - 1.0) < 0.4
        True
    """
    joint = with_parameters(prior, model, n, steps, resampler, stepwise=True)
    return resample_move(joint, n_parameters, steps, moves, resampler, ess_threshold, proposals)
