"""The criterion of validity as a test: does a transformation leave the measure of a program unchanged, exactly?"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from holdfast.core.checks import check_number
from holdfast.inference.effects import Program
from holdfast.inference.enumeration import enumerate_measure

__all__ = ["Report", "check_preserves", "total_variation"]


@dataclass(frozen=True)
class Report:
    """What a program meant before and after a transformation; true when that is the same.

    Attributes:
        preserved: whether every mass agrees to ``atol``.
        difference: largest difference of a mass.
        total_variation: distance of the normalised measures, in [0, 1].
        value: the value where the difference is largest: the counter-example when not preserved.
        before: masses of the program.
        after: masses of the transformed program.
        atol: tolerance.
    """

    preserved: bool
    difference: float
    total_variation: float
    value: Any
    before: dict[Any, float]
    after: dict[Any, float]
    atol: float

    def __bool__(self) -> bool:
        return self.preserved

    def __str__(self) -> str:
        z, z2 = math.fsum(self.before.values()), math.fsum(self.after.values())
        if self.preserved:
            return f"preserved: {len(self.before)} values, evidence {z:g}, largest difference {self.difference:.2g}"
        return (
            f"not preserved: {self.value!r} has mass {self.before.get(self.value, 0.0):g} before and "
            f"{self.after.get(self.value, 0.0):g} after; evidence {z:g} and {z2:g}, total variation of the posteriors "
            f"{self.total_variation:g}"
        )


def total_variation(a: dict[Any, float], b: dict[Any, float]) -> float:
    r"""Return :math:`\frac12 \sum_x |a(x) / a(X) - b(x) / b(X)|`; 1 when one of the measures is zero.

    Examples:
        >>> total_variation({"x": 1.0, "y": 1.0}, {"x": 2.0})
        0.5
    """
    za, zb = math.fsum(a.values()), math.fsum(b.values())
    if za == 0 or zb == 0:
        return float(za != zb)
    return 0.5 * math.fsum(abs(a.get(x, 0.0) / za - b.get(x, 0.0) / zb) for x in {**a, **b})


def check_preserves(
    p: Program[Any],
    transform: Callable[[Program[Any]], Program[Any]],
    atol: float = 1e-10,
    *,
    key: Callable[[Any], Hashable] | None = None,
    max_paths: int = 10**6,
) -> Report:
    r"""Compare what a finite program means before and after a transformation, by enumerating every choice of both.

    .. math:: m(t(p)) = m(p)

    The choices of the algorithm itself are enumerated too, so a pass is a proof for this program, not a test on
    samples. The transformed program may return a value, a :class:`~holdfast.inference.Weighted` or a
    :class:`~holdfast.inference.Population`.

    Args:
        p: a finite program.
        transform: from a program to a program.
        atol: largest difference of a mass that passes.
        key: what a value is counted as, see :func:`~holdfast.inference.enumerate_measure`.
        max_paths: most paths of either program.

    Returns:
        A report that is true when the measure is preserved, and prints the counter-example when it is not.

    Raises:
        ValueError: for a negative tolerance, a choice without finite support, or too many paths.

    References:
        Ścibior et al., "Denotational validation of higher-order Bayesian inference", POPL 2018.

    Examples:
        >>> from holdfast.inference import Bernoulli, Population, Sample, bind, observe, population, resample, smc, unit
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5))
        ...     yield observe(Bernoulli(0.75 if x else 0.25), True)
        ...     return x
        >>> print(check_preserves(model, lambda p: smc(p, 2, 1)))
        preserved: 2 values, evidence 0.5, largest difference ...
        >>> def forgetful(p):
        ...     drop = lambda pop: unit(Population(pop.values, [-math.log(len(pop))] * len(pop)))
        ...     return bind(bind(population(p, 2), resample), drop)
        >>> print(check_preserves(model, forgetful))
        not preserved: False has mass 0.125 before and 0.375 after; evidence 0.5 and 1, total variation ... 0.125
    """
    check_number("atol", atol, low=0)
    before = enumerate_measure(p, max_paths, key=key)
    after = enumerate_measure(transform(p), max_paths, key=key)
    gaps = {x: abs(before.get(x, 0.0) - after.get(x, 0.0)) for x in {**before, **after}}
    worst = max(gaps, key=lambda x: gaps[x], default=None)
    difference = gaps.get(worst, 0.0)
    return Report(difference <= atol, difference, total_variation(before, after), worst, before, after, atol)
