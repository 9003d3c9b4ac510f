"""A paper, its claims, and the verdict that seeds give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

__all__ = ["SCALES", "Claim", "Interval", "Paper", "Scale", "Values", "Verdict", "mean_interval"]

Scale = Literal["smoke", "small", "gpu"]
SCALES: tuple[Scale, ...] = ("smoke", "small", "gpu")
Verdict = Literal["held", "not held", "undecided"]
Values = Mapping[str, float]
"""What one seed of an experiment measured: ``"method/metric" -> value``."""


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Student-t interval of a mean over independent seeds.

    .. math:: \bar v \pm t_{n-1,\,(1+c)/2}\; s / \sqrt n

    Raises:
        ValueError: with no values, or a value that is not finite.

    Examples:
        >>> i = mean_interval([1.0, 2.0, 3.0])
        >>> round(i.mean, 3), round(i.low, 3), round(i.high, 3)
        (2.0, -0.484, 4.484)
    """
    from holdfast.metrics import t_interval

    v = np.asarray(values, dtype=float)
    if v.size == 0:
        raise ValueError("an interval needs at least one value, got none")
    if not np.isfinite(v).all():
        raise ValueError(f"values must be finite, got {v.tolist()}")
    i = t_interval(v, confidence)
    return Interval(i.estimate, i.low, i.high)


@dataclass(frozen=True)
class Claim:
    """A falsifiable inequality on a statistic that every seed of an experiment yields.

    With only a threshold, the claim is *held* when the whole confidence interval of the seeds' mean lies on the
    right side of it, *not held* when the whole interval lies on the wrong side, and *undecided* otherwise. With
    ``null``, the rule "mean at least the threshold, and the interval excludes ``null``" decides *held* instead.

    Attributes:
        key: short unique name, e.g. ``"short-prefix"``.
        statement: one sentence a reader understands without the code.
        statistic: from one seed's values to the number that is bounded (paired differences go in here).
        at_least: lower bound of the statistic; give exactly one of ``at_least`` and ``at_most``.
        at_most: upper bound of the statistic.
        null: value that the interval has to exclude, for claims on the mean.
        note: why a claim did not hold, written after the seeds were run; shown beside the verdict.

    Examples:
        >>> c = Claim("gain", "the method gains two points", lambda v: v["ours/acc"] - v["erm/acc"], at_least=0.02)
        >>> c.verdict([0.05, 0.06, 0.055])
        'held'
        >>> c.verdict([0.00, 0.05])
        'undecided'
    """

    key: str
    statement: str
    statistic: Callable[[Values], float]
    at_least: float | None = None
    at_most: float | None = None
    null: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"claim {self.key!r} needs exactly one of at_least and at_most")

    @property
    def threshold(self) -> str:
        """The inequality, as it is printed."""
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return bound if self.null is None else f"{bound}, CI excludes {self.null:g}"

    def verdict(self, values: Sequence[float], confidence: float = 0.95) -> Verdict:
        """Judge the claim from one statistic per seed."""
        i = mean_interval(values, confidence)
        sign = 1.0 if self.at_least is not None else -1.0
        bound = sign * (self.at_least if self.at_least is not None else self.at_most or 0.0)
        mean, low, high = sign * i.mean, *sorted((sign * i.low, sign * i.high))
        if self.null is None:
            held = low >= bound
        else:
            held = mean >= bound and low > sign * self.null
        if held:
            return "held"
        return "not held" if high < bound else "undecided"


@dataclass(frozen=True)
class Paper:
    """A paper: its bibliographic facts, the parts it gave the library, and the claims that test it.

    ``experiment(scale, seed)`` runs everything that the claims need once and returns flat ``"method/metric"``
    values, control rows included; it must give the same bits for the same seed.
    """

    number: int
    title: str
    arxiv: str
    year: int
    first_author: str
    venue: str = ""
    code: str = ""
    summary: str = ""
    keywords: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    experiment: Callable[[Scale, int], dict[str, float]] | None = None
    claims: tuple[Claim, ...] = field(default=())
    seeds: int = 5
    """Seeds that the evidence asks for when nothing else is said."""

    @property
    def state(self) -> Literal["built", "planned"]:
        """``"built"`` when the paper's experiment can be run, else ``"planned"``."""
        return "built" if self.experiment is not None and self.claims else "planned"

    @property
    def url(self) -> str:
        """Address of the abstract."""
        return f"https://arxiv.org/abs/{self.arxiv}"
