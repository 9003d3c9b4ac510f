"""Random search: what a hyper-parameter may be drawn from, and the draws themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.random import spawn_seed

__all__ = ["Choice", "LogUniform", "SearchSpace", "Uniform", "draw", "parse_distribution"]


@dataclass(frozen=True)
class Uniform:
    """Uniform on ``[low, high]``; whole numbers when ``integer``.

    Raises:
        ValueError: when ``low`` exceeds ``high``.

    Examples:
        >>> Uniform(0.0, 1.0).sample(np.random.default_rng(0)) < 1
        True
    """

    low: float
    high: float
    integer: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low}, high={self.high}")

    def sample(self, rng: np.random.Generator) -> float | int:
        """Draw one value."""
        if self.integer:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """``exp(U(log low, log high))``; rounded when ``integer``.

    Raises:
        ValueError: unless ``0 < low <= high``.

    Examples:
        >>> 1e-4 <= LogUniform(1e-4, 1e-2).sample(np.random.default_rng(0)) <= 1e-2
        True
    """

    low: float
    high: float
    integer: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high) and 0 < self.low <= self.high):
            raise ValueError(f"a log scale needs 0 < low <= high, got low={self.low}, high={self.high}")

    def sample(self, rng: np.random.Generator) -> float | int:
        """Draw one value."""
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return round(value) if self.integer else float(value)


@dataclass(frozen=True)
class Choice:
    """Uniform on a list of values.

    Raises:
        ValueError: for an empty list.

    Examples:
        >>> Choice((64,)).sample(np.random.default_rng(0))
        64
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) == 0:
            raise ValueError("a list of values to search over must not be empty")

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw one value."""
        return self.values[int(rng.integers(len(self.values)))]


SearchSpace = Mapping[str, Uniform | LogUniform | Choice]


def parse_distribution(text: Any) -> Uniform | LogUniform | Choice:
    """Read a distribution from a study's file: a list of values, or ``{low, high, log, integer}``.

    Raises:
        ValueError: for anything else, or for bounds in the wrong order.

    Examples:
        >>> parse_distribution([16, 32]), parse_distribution({"low": 1, "high": 100, "log": True})
        (Choice(values=(16, 32)), LogUniform(low=1.0, high=100.0, integer=False))
    """
    if isinstance(text, (list, tuple)):
        return Choice(tuple(text))
    if isinstance(text, Mapping) and {"low", "high"} <= set(text) <= {"low", "high", "log", "integer"}:
        for key in ("low", "high"):
            if isinstance(text[key], bool) or not isinstance(text[key], (int, float)):
                raise ValueError(f"{key} must be a number, got {text[key]!r}")
        kind = LogUniform if text.get("log") else Uniform
        return kind(float(text["low"]), float(text["high"]), bool(text.get("integer", False)))
    raise ValueError(
        "expected a list of values or a mapping with low and high (and optionally log: true, integer: true), "
        f"got {text!r}"
    )


def draw(space: SearchSpace, trial: int, *, method: str, seed: int = 0) -> dict[str, Any]:
    """Return the hyper-parameters of a trial; trial 0 is the method's own defaults, an empty dictionary.

    The draw depends on ``(seed, method, trial)`` alone, so adding trials or methods leaves earlier ones as they are.

    Examples:
        >>> draw({"lr": LogUniform(1e-4, 1e-2)}, 0, method="erm")
        {}
        >>> draw({"lr": Choice((0.1,))}, 3, method="erm")
        {'lr': 0.1}
    """
    if trial == 0:
        return {}
    rng = np.random.default_rng(spawn_seed(seed, "search", method, trial))
    return {name: space[name].sample(rng) for name in sorted(space)}
