"""The two effects of a program, draw and score, and what a program is."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

import torch

from holdfast.inference.distributions import Distribution, TorchDistribution

__all__ = ["Effect", "Program", "Sample", "Score", "observe", "score"]

T = TypeVar("T")


class Sample:
    """The effect "draw a value": ``x = yield Sample(dist, "x")``.

    Args:
        dist: a :class:`~holdfast.inference.Distribution`, or any ``torch.distributions`` object.
        name: address of the choice, so that a chain finds its value again when the program takes another branch;
            choices of one name (or of none) are counted in the order in which they are met.
        auxiliary: a random number of an algorithm rather than of the model: chains redraw it at every step and never
            propose it by itself (see :func:`~holdfast.inference.auxiliary`).

    Raises:
        TypeError: for anything else.

    Examples:
        >>> from holdfast.inference import Bernoulli
        >>> Sample(Bernoulli(0.5), "rain")
        Sample(Bernoulli(0.5), 'rain')
    """

    __slots__ = ("auxiliary", "dist", "name")

    def __init__(self, dist: Any, name: str | None = None, *, auxiliary: bool = False) -> None:
        if not isinstance(dist, Distribution):
            if not isinstance(dist, torch.distributions.Distribution):
                raise TypeError(
                    f"Sample needs a holdfast.inference or torch.distributions distribution, got {dist!r} "
                    f"({type(dist).__name__})"
                )
            dist = TorchDistribution(dist)
        self.dist: Distribution = dist
        self.name = name
        self.auxiliary = auxiliary

    def __repr__(self) -> str:
        return f"Sample({self.dist!r}{'' if self.name is None else f', {self.name!r}'})"


class Score:
    r"""The effect "multiply the measure by :math:`e^{w}`": ``yield Score(w)``; ``-inf`` rules the run out.

    Raises:
        ValueError: for NaN or ``+inf``.

    Examples:
        >>> Score(-1.0)
        Score(-1)
    """

    __slots__ = ("logw",)

    def __init__(self, logw: float) -> None:
        w = float(logw)
        if not w < math.inf:
            raise ValueError(f"a score must be a log-weight below +inf, got {w}")
        self.logw = w

    def __repr__(self) -> str:
        return f"Score({self.logw:g})"


Effect: TypeAlias = "Sample | Score"
Program: TypeAlias = Callable[[], Generator[Effect, Any, T]]
"""A zero-argument callable that starts a generator: it yields effects, is sent the drawn values, and returns a value.

A model with arguments becomes a program by ``functools.partial``. Every call has to behave the same way on the same
draws: no other source of randomness, no state that outlives the call."""


def score(r: float) -> Score:
    r"""Return the effect that multiplies the measure by :math:`r \ge 0`.

    Raises:
        ValueError: for a negative number or NaN.

    Examples:
        >>> score(1.0), score(0.0)
        (Score(0), Score(-inf))
    """
    if not r >= 0:
        raise ValueError(f"a score must be a non-negative number, got {r}")
    return Score(math.log(r) if r > 0 else -math.inf)


def observe(dist: Any, value: Any) -> Score:
    """Return the effect that conditions on a value seen: the score ``log_prob(value)``.

    Examples:
        >>> from holdfast.inference import Bernoulli
        >>> observe(Bernoulli(1.0), True), observe(Bernoulli(1.0), False)
        (Score(0), Score(-inf))
    """
    return Score(Sample(dist).dist.log_prob(value))
