"""The four resamplers as programs of finitely many choices, so that what they do can be enumerated."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import accumulate, pairwise

from holdfast.core.checks import check_choice
from holdfast.inference.distributions import Categorical
from holdfast.inference.effects import Effect, Program, Sample

__all__ = ["ANCESTORS", "ancestors"]

Draw = Generator[Effect, int, list[int]]


def _multinomial(w: list[float]) -> Draw:
    choice = Sample(Categorical(w), "ancestor")
    out = []
    for _ in w:
        out.append((yield choice))
    return out


def _stratified(w: list[float]) -> Draw:
    n, low, j = len(w), 0.0, 0
    edges = _edges(w)
    out = []
    for i in range(n):
        # Shares of the stratum [i, i + 1) that ancestors j, j + 1, ... cover.
        members, shares = [], []
        while True:
            high = min(edges[j], i + 1.0)
            if high > low:
                members.append(j)
                shares.append(high - low)
            low = high
            if high == i + 1.0 or j == n - 1:
                break
            j += 1
        out.append((yield Sample(Categorical(shares, members), "ancestor")) if len(members) > 1 else members[0])
    return out


def _systematic(w: list[float]) -> Draw:
    # The ancestors change only where a point i + u passes an edge: u is drawn as one of the gaps between these.
    n, edges = len(w), _edges(w)
    cuts = sorted({0.0, 1.0, *(e % 1.0 for e in edges)})
    gap = 0
    if len(cuts) > 2:
        gap = yield Sample(Categorical([b - a for a, b in pairwise(cuts)]), "offset")
    u, j, out = (cuts[gap] + cuts[gap + 1]) / 2, 0, []
    for i in range(n):
        while edges[j] <= i + u:
            j += 1
        out.append(j)
    return out


def _residual(w: list[float]) -> Draw:
    n, total = len(w), math.fsum(w)
    expected = [n * x / total for x in w]
    sure = [math.floor(e * (1 + 1e-12)) for e in expected]
    out = [i for i, k in enumerate(sure) for _ in range(k)]
    if len(out) < n:
        choice = Sample(Categorical([max(e - k, 0.0) for e, k in zip(expected, sure)]), "ancestor")
        for _ in range(n - len(out)):
            out.append((yield choice))
    return out


def _edges(w: list[float]) -> list[float]:
    """Return cumulative weights scaled to end at exactly n."""
    edges = list(accumulate(w))
    n, total = len(w), edges[-1]
    return [n * (e / total) for e in edges]


ANCESTORS: dict[str, Callable[[list[float]], Draw]] = {
    "multinomial": _multinomial,
    "stratified": _stratified,
    "systematic": _systematic,
    "residual": _residual,
}


def ancestors(logw: Sequence[float], method: str = "multinomial") -> Program[list[int]]:
    r"""Return the program that draws ``n`` ancestors from ``n`` log-weights, not all ``-inf``.

    The laws are those of :func:`~holdfast.inference.resample_indices`. Every draw has finitely many outcomes: the one
    of a stratum is the ancestor itself, and the common offset of the systematic resampler is one of the gaps between
    the points at which an ancestor changes. So
    :math:`E[\#\{k : a_k = i\}] = n w_i / W` can be checked by enumeration.

    Raises:
        ValueError: for no weight, none above 0, or an unknown method.

    Examples:
        >>> from math import log
        >>> from holdfast.inference import enumerate_measure
        >>> law = enumerate_measure(ancestors([log(0.75), log(0.25)], "systematic"), key=tuple)
        >>> {k: round(v, 12) for k, v in law.items()}
        {(0, 0): 0.5, (0, 1): 0.5}
    """
    draw = ANCESTORS[check_choice("method", method, sorted(ANCESTORS))]
    top = max(logw, default=None)
    if top is None:
        raise ValueError("resampling needs at least one particle, got an empty population")
    if not -math.inf < top < math.inf:
        raise ValueError(f"resampling needs a finite positive weight, but the largest log-weight is {top}")
    return lambda: draw([math.exp(x - top) for x in logw])
