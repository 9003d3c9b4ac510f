"""Metropolis-Hastings-Green kernels: any proposal between any spaces whose ratio with its reverse is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import numpy as np

from holdfast.core.checks import check_number
from holdfast.inference.distributions import Bernoulli, as_rng
from holdfast.inference.effects import Effect, Program, Sample
from holdfast.inference.programs import run

__all__ = ["Kernel", "green_kernel"]

X = TypeVar("X")


class Kernel(Generic[X]):
    r"""A reversible kernel: propose ``y`` from ``x``, take it with probability :math:`\min(1, \rho(x, y))`.

    Made by :func:`green_kernel`.
    """

    def __init__(
        self,
        target_logdensity: Callable[[X], float],
        propose: Callable[[X], Generator[Effect, Any, X]],
        log_ratio: Callable[[X, X], float],
    ) -> None:
        self.target_logdensity, self.propose, self.log_ratio = target_logdensity, propose, log_ratio

    def log_rho(self, x: X, y: X) -> float:
        r"""Return :math:`\log \rho(x, y)`; ``-inf`` where the move could not be undone.

        Raises:
            ValueError: when ``x`` has density 0, or a number is NaN or ``+inf``.
        """
        return self._log_rho(self._density(x), x, y)

    def _density(self, x: X) -> float:
        here = float(self.target_logdensity(x))
        if not -math.inf < here < math.inf:
            raise ValueError(f"the chain is at {x!r}, whose log-density is {here}: start where it is finite")
        return here

    def _log_rho(self, here: float, x: X, y: X) -> float:
        there = float(self.target_logdensity(y))
        if there == -math.inf:
            return -math.inf
        ratio = float(self.log_ratio(x, y))
        if not (there < math.inf and ratio < math.inf):
            raise ValueError(
                f"{x!r} to {y!r}: log-density {there} and log-ratio {ratio} must be below +inf and not NaN"
            )
        return there - here + ratio

    def acceptance(self, x: X, y: X) -> float:
        """Return the probability that a proposed move from ``x`` to ``y`` is taken."""
        return math.exp(min(0.0, self.log_rho(x, y)))

    def move(self, x: X) -> Program[X]:
        """Return one step as a program, so that it can be enumerated and composed."""

        def program() -> Generator[Effect, Any, X]:
            here = self._density(x)
            y = yield from self.propose(x)
            log_rho = self._log_rho(here, x, y)
            if log_rho >= 0:
                return y
            if log_rho > -math.inf and (yield Sample(Bernoulli(math.exp(log_rho)), "accept")):
                return y
            return x

        return program

    def step(self, x: X, rng: int | np.random.Generator | None = None) -> X:
        """Take one step."""
        return run(self.move(x), rng).value

    def chain(self, x: X, n_steps: int, rng: int | np.random.Generator | None = None) -> list[X]:
        """Return the states after each of ``n_steps`` steps.

        Raises:
            ValueError: for fewer than one step.
        """
        check_number("n_steps", n_steps, low=1, integer=True)
        rng = as_rng(rng)
        out = []
        for _ in range(n_steps):
            x = self.step(x, rng)
            out.append(x)
        return out


def green_kernel(
    target_logdensity: Callable[[X], float],
    propose: Callable[[X], Generator[Effect, Any, X]],
    log_ratio: Callable[[X, X], float],
) -> Kernel[X]:
    r"""Return the Metropolis-Hastings-Green kernel of a target :math:`a` and a proposal :math:`\psi`.

    With :math:`k(dx, dy) = a(dx)\, \psi(x)(dy)` and its mirror image :math:`k_{sw}`, the move is taken with probability

    .. math:: \min(1, \rho(x, y)), \qquad \rho = \frac{dk_{sw}}{dk}(x, y)
        = \frac{\pi(y)}{\pi(x)} \cdot \frac{\psi(y)(dx)}{\psi(x)(dy)}

    and the kernel is reversible for :math:`a`, on any space: real vectors, spaces of varying dimension, functions.

    Args:
        target_logdensity: log density of the target, up to a constant, with respect to one reference measure.
        propose: a generator function of the present state that yields :class:`Sample` and returns the proposal.
        log_ratio: ``log_ratio(x, y)`` is the logarithm of the second fraction: reverse over forward proposal density,
            times the Jacobian where the proposal maps its draws; ``-inf`` where the reverse is impossible.

    References:
        Green, "Reversible jump Markov chain Monte Carlo", Biometrika 82, 1995; Ścibior et al., POPL 2018, for spaces
        that contain functions.

    Examples:
        A walk on the positive numbers by random factors; the Jacobian of ``x -> x exp(u)`` is ``y / x``.

        >>> from holdfast.inference import Normal
        >>> def scaled(x):
        ...     return x * math.exp((yield Sample(Normal(0.0, 1.0))))
        >>> kernel = green_kernel(lambda x: -x, scaled, lambda x, y: math.log(y / x))
        >>> kernel.acceptance(1.0, 0.5)
        0.82...
        >>> draws = kernel.chain(1.0, 4000, rng=0)
        >>> abs(sum(draws) / 4000 - 1.0) < 0.2
        True
    """
    return Kernel(target_logdensity, propose, log_ratio)
