"""Gaussian environments: features that cause no trouble, and features that do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments
from holdfast.data.shifts.pool import check_values, environment_names
from holdfast.data.shifts.spurious import spurious_attribute

__all__ = ["gaussian_environments", "invariant_accuracy", "spurious_accuracy"]


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def invariant_accuracy(noise: float) -> float:
    r"""Return the best accuracy of any classifier of the causal features: ``Phi(1 / noise)``.

    The classes are normal with means at distance 2 and covariance ``noise ** 2`` times the identity; the best
    boundary is half-way. No classifier that holds in every environment does better.

    Examples:
        >>> round(invariant_accuracy(1.0), 4)
        0.8413
    """
    check_number("noise", noise, low=0)
    return 1.0 if noise == 0 else _normal_cdf(1 / noise)


def spurious_accuracy(strength: float, spurious_noise: float) -> float:
    r"""Return the accuracy of the sign of the spurious features where they agree with probability ``strength``.

    ``s * Phi(1 / noise) + (1 - s) * Phi(-1 / noise)``.

    Examples:
        >>> spurious_accuracy(0.9, 0.0), round(spurious_accuracy(0.1, 0.0), 6)
        (0.9, 0.1)
    """
    check_number("strength", strength, low=0, high=1)
    right = invariant_accuracy(spurious_noise)
    return strength * right + (1 - strength) * (1 - right)


def gaussian_environments(
    n_environments: int = 3,
    n_per_environment: int = 1000,
    *,
    n_causal: int = 5,
    n_spurious: int = 5,
    strengths: Sequence[float] | None = None,
    noise: float = 1.0,
    spurious_noise: float = 0.5,
    seed: int,
) -> Environments:
    r"""Draw two balanced classes, features that predict them alike everywhere, and features that do not.

    With ``s = 2 y - 1`` and ``u``, ``v`` unit vectors of equal entries::

        x_causal   = s u + noise * N(0, I)
        a          = s with probability strength_e, else -s
        x_spurious = a v + spurious_noise * N(0, I)

    so ``x_causal`` is worth :func:`invariant_accuracy` in every environment, ``x_spurious`` alone
    :func:`spurious_accuracy`, and below chance where the strength is under one half.

    Args:
        n_environments, n_per_environment: number of environments, and samples in each.
        n_causal, n_spurious: features of the two sorts, at least one causal; causal ones come first.
        strengths: one per environment; from 0.9 down to 0.1 where None.
        noise, spurious_noise: deviations; the means are at distance 2.
        seed: fixes everything drawn.

    Returns:
        Environments named ``strength=0.9`` and so on, with the attribute ``spurious``, the class that the
        spurious features point to.

    Source: in the manner of Rosenfeld et al., "The risks of invariant risk minimization", ICLR 2021, section 3.

    Examples:
        >>> e = gaussian_environments(2, 100, strengths=(1.0, 0.0), seed=1)
        >>> e.names, e.x.shape, (e.attributes["spurious"] == e.y).mean()
        (('strength=1', 'strength=0'), (200, 10), np.float64(0.5))
    """
    check_number("n_environments", n_environments, low=2, integer=True)
    check_number("n_per_environment", n_per_environment, low=2, integer=True)
    check_number("n_causal", n_causal, low=1, integer=True)
    check_number("n_spurious", n_spurious, low=0, integer=True)
    check_number("noise", noise, low=0)
    check_number("spurious_noise", spurious_noise, low=0)
    given = np.linspace(0.9, 0.1, n_environments).round(6).tolist() if strengths is None else list(strengths)
    values = np.array(check_values("strengths", given, low=0, high=1))
    if len(values) != n_environments:
        raise ValueError(f"strengths must have one entry per environment ({n_environments}), got {len(values)}")
    codes = np.repeat(np.arange(n_environments), n_per_environment)
    rng = np.random.default_rng(spawn_seed(seed, "gaussian"))
    y = rng.permuted(np.tile(np.arange(n_per_environment) % 2, (n_environments, 1)), axis=1).ravel()
    a = spurious_attribute(y, 2, values[codes], seed=spawn_seed(seed, "spurious"))

    def features(sign: np.ndarray, d: int, deviation: float) -> np.ndarray:
        mean = (2.0 * sign - 1)[:, None] / math.sqrt(max(d, 1))
        return mean + deviation * rng.standard_normal((len(sign), d))

    x = np.concatenate([features(y, n_causal, noise), features(a, n_spurious, spurious_noise)], axis=1)
    return Environments(
        x=x.astype(np.float32),
        y=y,
        environment=codes,
        names=environment_names("strength", given),
        attributes={"spurious": a},
    )
