"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from holdfast.core.checks import check_choice, check_number

__all__ = ["SCHEDULES", "make_schedule"]

SCHEDULES = ("constant", "cosine", "linear", "step")


def _as_steps(name: str, value: float, steps: int) -> int:
    """Read a whole number as steps and a fraction below one as a share of all steps."""
    check_number(name, value, low=0)
    if value < 1:
        return round(value * steps)
    if value != int(value):
        raise ValueError(f"{name} must be a whole number of steps or a fraction below 1, got {value}")
    return int(value)


def make_schedule(
    name: str,
    steps: int,
    *,
    warmup: float = 0,
    floor: float = 0.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the optimizer step :math:`t = 0, 1, ..., T - 1`.

    With :math:`W` warm-up steps the factor is :math:`(t + 1) / W` for :math:`t < W`. After that, with
    :math:`p = (t - W) / (T - W)` and the floor :math:`f`, it is :math:`1` (constant),
    :math:`f + (1 - f)(1 + \\cos \\pi p) / 2` (cosine), :math:`f + (1 - f)(1 - p)` (linear), or
    :math:`\\max(f, \\gamma^k)` after :math:`k` milestones (step).

    Args:
        name: "constant", "cosine", "linear" or "step".
        steps: number of optimizer steps :math:`T`.
        warmup: steps, or a fraction of ``steps`` if below 1.
        floor: smallest factor after warm-up, in [0, 1].
        milestones: for "step": steps, or fractions of ``steps`` if below 1.
        gamma: for "step": factor at each milestone.

    Raises:
        ValueError: for an unknown name, numbers out of range, or "step" without milestones.

    Examples:
        >>> rate = make_schedule("cosine", 100, warmup=10)
        >>> rate(0), rate(9), round(rate(55), 3)
        (0.1, 1.0, 0.5)
    """
    check_choice("schedule", name, SCHEDULES)
    check_number("floor", floor, low=0, high=1)
    check_number("gamma", gamma, low=0, open_low=True)
    start = _as_steps("warmup", warmup, steps)
    if start > steps:
        raise ValueError(f"warmup must not exceed the {steps} steps, got {start}")
    marks = sorted(_as_steps("milestones", m, steps) for m in milestones)
    if name == "step" and not marks:
        raise ValueError('schedule="step" needs milestones, for instance milestones=(0.5, 0.75)')
    span = max(1, steps - start)

    def factor(t: int) -> float:
        if t < start:
            return (t + 1) / start
        if name == "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (t - start) / span)))
        if name == "linear":
            return floor + (1 - floor) * max(0.0, 1 - (t - start) / span)
        if name == "step":
            return max(floor, gamma ** bisect_right(marks, t))
        return 1.0

    return factor
