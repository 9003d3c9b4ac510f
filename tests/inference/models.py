"""Small programs whose meaning is known."""

from __future__ import annotations

import math
from functools import partial

from hypothesis import strategies as st

from holdfast.inference import Bernoulli, Categorical, Normal, Sample, bind, observe, score, unit

ROWS = ((0.1, 0.4, 0.5), (0.2, 0.6, 0.2), (0.15, 0.7, 0.15))
MEANS = (-1.0, 1.0, 0.0)


def sprinkler():
    rain = yield Sample(Bernoulli(0.3), "rain")
    if rain:
        yield score(0.2)
    wet = yield Sample(Bernoulli(0.1 if rain else 0.4), "sprinkler")
    if wet:
        yield score(0.1)
    return rain


def hmm(ys=(0.9, 0.8, -0.7)):
    x = yield Sample(Categorical([1, 1, 1]))
    path = []
    for y in ys:
        x = yield Sample(Categorical(ROWS[x]))
        yield observe(Normal(MEANS[x], 1), y)
        path.append(x)
    return tuple(path)


def two_steps():
    return hmm((0.9, -0.7))


def hmm_masses(ys):
    """The masses of all paths, by the formula."""
    masses = {}
    for code in range(3 ** (len(ys) + 1)):
        path = [code // 3**k % 3 for k in range(len(ys) + 1)]
        m = 1 / 3
        for a, b, y in zip(path, path[1:], ys):
            m *= ROWS[a][b] * math.exp(-0.5 * (y - MEANS[b]) ** 2) / math.sqrt(2 * math.pi)
        key = tuple(path[1:])
        masses[key] = masses.get(key, 0.0) + m
    return masses


def branching():
    """A number of choices and of scores that depends on the choices."""
    n = 0
    while n < 3 and (yield Sample(Bernoulli(0.6))):
        n += 1
        yield score(0.5 + 0.3 * n)
        if n == 2 and not (yield Sample(Bernoulli(0.3))):
            yield score(0.7)
    return n


def function():
    """A program that returns a function."""
    slope = yield Sample(Categorical([0.2, 0.5, 0.3], [-1, 0, 1]))
    shift = yield Sample(Bernoulli(0.5))
    f = lambda x: slope * x + shift  # noqa: E731
    yield score(1 / (1 + (f(2) - 2) ** 2))
    return f


def table(f):
    return f(0), f(1)


def coin():
    """One choice for tails, five for heads."""
    heads = yield Sample(Bernoulli(0.5))
    if heads:
        for _ in range(4):
            yield Sample(Bernoulli(0.5))
    return heads


weights = st.floats(0.05, 1.0)


def _leaf(value, r):
    yield score(r)
    return value


def _choose(probs, children):
    i = yield Sample(Categorical(probs))
    return (yield from children[i]())


def _then(r, child):
    yield score(r)
    return (yield from child())


def _draw(probs, child, shift):
    i = yield Sample(Categorical(probs))
    x = yield from child()
    return (i + x + shift) % 4


leaves = st.one_of(
    st.integers(0, 3).map(unit),
    st.builds(lambda v, r: partial(_leaf, v, r), st.integers(0, 3), st.one_of(st.just(0.0), weights)),
)


def _grow(depth):
    if depth == 0:
        return leaves
    below = st.deferred(lambda: _grow(depth - 1))
    two = st.lists(weights, min_size=2, max_size=2)
    return st.one_of(
        leaves,
        st.builds(lambda w, a, b: partial(_choose, w, (a, b)), two, below, below),
        st.builds(lambda r, a: partial(_then, r, a), weights, below),
        st.builds(lambda w, a, s: partial(_draw, w, a, s), two, below, st.integers(0, 3)),
        st.builds(lambda a, b: bind(a, lambda x, b=b: unit(x) if x > 1 else b), below, below),
    )


programs = _grow(5)
"""Finite programs of depth at most five with values 0 to 3."""
shallow = _grow(2)
