"""Weights that change over training: pure functions of the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.core.checks import check_number

__all__ = ["ExponentialDecay", "Schedule", "weight_at"]

Schedule = float | Callable[[int], float]
"""A constant weight, or a function of the optimizer steps done so far."""


def weight_at(schedule: Schedule, step: int) -> float:
    """Return the weight at ``step``.

    Examples:
        >>> weight_at(0.5, 100), weight_at(ExponentialDecay(1.0, 50), 100)
        (0.5, 0.25)
    """
    return float(schedule(step)) if callable(schedule) else float(schedule)


@dataclass(frozen=True)
class ExponentialDecay:
    r"""A weight that halves every ``half_life`` steps, :math:`c_k = c_0\, 2^{-\max(0, \min(k, K) - k_0) / H}`.

    Args:
        start: :math:`c_0`, at least 0.
        half_life: :math:`H` in steps; infinity keeps the weight.
        until: :math:`K`, the step after which it stays; ``None`` for never.
        after: :math:`k_0`, steps before it begins to fall.

    Raises:
        ValueError: for a negative weight or a half life that is not positive.

    Source: Liu et al., "Efficient generative model training via embedded representation warmup", 2025.

    Examples:
        >>> ExponentialDecay(6.0, half_life=50_000)(100_000)
        1.5
    """

    start: float
    half_life: float
    until: int | None = None
    after: int = 0

    def __post_init__(self) -> None:
        check_number("start", self.start, low=0)
        check_number("half_life", self.half_life, low=0, open_low=True)
        check_number("after", self.after, low=0, integer=True)
        if self.until is not None:
            check_number("until", self.until, low=self.after, integer=True)

    def __call__(self, step: int) -> float:
        """Return the weight after ``step`` optimizer steps."""
        k = step if self.until is None else min(step, self.until)
        return self.start * 2.0 ** (-max(0, k - self.after) / self.half_life)
