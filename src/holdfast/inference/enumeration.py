"""What a finite program means, exactly: every path of its choices, with its mass."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from holdfast.core.checks import check_number
from holdfast.inference.effects import Program, Sample, Score
from holdfast.inference.population import Population
from holdfast.inference.programs import Weighted, refuse, start

__all__ = ["enumerate_measure", "enumerate_paths"]


def enumerate_paths(p: Program[Any], max_paths: int = 10**6) -> Iterator[tuple[Any, float]]:
    """Yield the value and the mass of every path of positive mass; the program is run anew for each.

    Raises:
        ValueError: for a choice among infinitely many values, or too many paths.

    Examples:
        >>> from holdfast.inference import Bernoulli
        >>> def two():
        ...     a = yield Sample(Bernoulli(0.5))
        ...     return a + (yield Sample(Bernoulli(0.5)))
        >>> list(enumerate_paths(two))
        [(0, 0.25), (1, 0.25), (1, 0.25), (2, 0.25)]
    """
    check_number("max_paths", max_paths, low=1, integer=True)
    # A path is a linked list (path before, value, probability): siblings share their beginnings.
    pending: list[Any] = [None]
    met = 0
    while pending:
        here, forced = pending.pop(), []
        link = here
        while link is not None:
            forced.append(link)
            link = link[0]
        met += 1
        generator, sent, mass, depth = start(p), None, 1.0, 0
        while mass > 0:
            try:
                effect = generator.send(sent)
            except StopIteration as end:
                yield end.value, mass
                break
            sent = None
            if isinstance(effect, Sample):
                depth += 1
                if forced:
                    _, sent, q = forced.pop()
                    mass *= q
                    continue
                alive = _alive(effect, depth)
                if met + len(pending) + len(alive) - 1 > max_paths:
                    raise ValueError(
                        f"the program has more than {max_paths} paths: {met + len(pending)} were known when "
                        f"{_site(effect, depth)} offered {len(alive)} values; simplify it or raise max_paths"
                    )
                pending.extend((here, v, q) for v, q in reversed(alive[1:]))
                sent, q = alive[0]
                here = (here, sent, q)
                mass *= q
            elif isinstance(effect, Score):
                mass *= math.exp(effect.logw)
            else:
                refuse(effect)


def _site(effect: Sample, depth: int) -> str:
    return f"choice {depth}" + (f" ({effect.name!r})" if effect.name is not None else "")


def _alive(effect: Sample, depth: int) -> list[tuple[Any, float]]:
    outcomes = effect.dist.outcomes()
    if outcomes is None:
        raise ValueError(f"{_site(effect, depth)} draws from {effect.dist!r}, which has no finite support to enumerate")
    return [(v, q) for v, q in outcomes if q > 0]


def atoms(value: Any) -> Iterable[tuple[Any, float]]:
    """Return what a value stands for: itself, one weighted value, or the particles of a population."""
    if isinstance(value, Population):
        return zip(value.values, value.logw)
    return [value if isinstance(value, Weighted) else (value, 0.0)]


def enumerate_measure(
    p: Program[Any], max_paths: int = 10**6, *, key: Callable[[Any], Hashable] | None = None
) -> dict[Any, float]:
    r"""Return the measure that a finite program denotes: from every value to its mass.

    .. math:: m(p)(x) = \sum_{\text{paths to } x} \prod_{\text{choices}} P(v) \prod_{\text{scores}} e^{w}

    A program that returns a :class:`Weighted` or a :class:`Population` denotes the measure on the values inside:
    :math:`E[\sum_i w_i \delta_{x_i}]`. The sum of all masses is the evidence; scores of 0 cut a path short.

    Args:
        p: a program all of whose choices have finitely many outcomes.
        max_paths: most paths that may be met.
        key: what a value is counted as, for values that are not hashable, and for functions: two functions are the
            same value when all their results are, so give their table of results.

    Raises:
        ValueError: for a choice among infinitely many values, or too many paths; names the choice and the count.
        TypeError: for values that are not hashable.

    References:
        Ścibior et al., "Denotational validation of higher-order Bayesian inference", POPL 2018.

    Examples:
        >>> from holdfast.inference import Bernoulli, score
        >>> def lawn():
        ...     rain = yield Sample(Bernoulli(0.3))
        ...     if rain:
        ...         yield score(0.2)
        ...     sprinkler = yield Sample(Bernoulli(0.1 if rain else 0.4))
        ...     if sprinkler:
        ...         yield score(0.1)
        ...     return rain
        >>> {k: round(v, 10) for k, v in enumerate_measure(lawn).items()}
        {False: 0.448, True: 0.0546}
    """
    out: dict[Any, float] = {}
    for value, mass in enumerate_paths(p, max_paths):
        for x, logw in atoms(value):
            if logw == -math.inf:
                continue
            k = x if key is None else key(x)
            try:
                out[k] = out.get(k, 0.0) + mass * math.exp(logw)
            except TypeError as error:
                raise TypeError(
                    f"the value {k!r} ({type(k).__name__}) is not hashable; pass key= to say what it counts as"
                ) from error
    return out
