"""Programs put together and run: unit, bind, and one run on random numbers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import numpy as np

from holdfast.inference.distributions import as_rng
from holdfast.inference.effects import Effect, Program, Sample, Score

__all__ = ["Weighted", "auxiliary", "bind", "run", "start", "unit"]

T = TypeVar("T")
U = TypeVar("U")


class Weighted(NamedTuple, Generic[T]):
    """A value and its log-weight."""

    value: T
    logw: float


def start(p: Program[T]) -> Generator[Effect, Any, T]:
    """Start a program and return its generator.

    Raises:
        TypeError: when ``p`` is no callable, or does not return a generator.

    Examples:
        >>> start(lambda: 3)
        Traceback (most recent call last):
        ...
        TypeError: a program must be a callable that returns a generator, but this one returned 3 (int)
    """
    if not callable(p):
        hint = "; pass the function, not its call" if isinstance(p, GeneratorType) else ""
        raise TypeError(f"a program must be a callable that returns a generator, got {type(p).__name__}{hint}")
    made = p()
    if not isinstance(made, GeneratorType):
        raise TypeError(
            f"a program must be a callable that returns a generator, but this one returned {made!r} "
            f"({type(made).__name__})"
        )
    return made


def refuse(effect: Any) -> NoReturn:
    """Raise for what a program yielded instead of an effect."""
    raise TypeError(f"a program yields Sample or Score, got {effect!r} ({type(effect).__name__})")


def unit(value: T) -> Program[T]:
    r"""Return the program with no effect: :math:`m = \delta_x`.

    Examples:
        >>> run(unit(3), rng=0)
        Weighted(value=3, logw=0.0)
    """

    def program() -> Generator[Effect, Any, T]:
        yield from ()
        return value

    return program


class _Chain(Generic[T]):
    """A program followed by stages, kept flat so that long chains are not nested calls."""

    def __init__(self, first: Program[Any], stages: tuple[Callable[[Any], Program[Any]], ...]) -> None:
        self.first, self.stages = first, stages

    def __call__(self) -> Generator[Effect, Any, T]:
        value = yield from start(self.first)
        for stage in self.stages:
            value = yield from start(stage(value))
        return value


def bind(p: Program[T], f: Callable[[T], Program[U]]) -> Program[U]:
    r"""Return "run ``p``, then the program that ``f`` makes of its value".

    .. math:: m(p \gg\!= f)(B) = \int m(p)(dx)\; m(f(x))(B)

    Examples:
        >>> from holdfast.inference import Bernoulli, enumerate_measure
        >>> def coin():
        ...     return (yield Sample(Bernoulli(0.25)))
        >>> enumerate_measure(bind(coin, lambda x: unit(not x)))
        {True: 0.75, False: 0.25}
    """
    if isinstance(p, _Chain):
        return _Chain(p.first, (*p.stages, f))
    return _Chain(p, (f,))


def run(p: Program[T], rng: int | np.random.Generator | None = None) -> Weighted[T]:
    """Run a program once: draw its choices, add up its scores.

    Args:
        p: the program.
        rng: seed or NumPy generator.

    Returns:
        Its value and the sum of its scores.

    Raises:
        TypeError: when the program yields anything but :class:`Sample` and :class:`Score`.

    Examples:
        >>> from holdfast.inference import Normal, observe
        >>> def model():
        ...     x = yield Sample(Normal(0, 1))
        ...     yield observe(Normal(x, 1), 2.0)
        ...     return x
        >>> x, logw = run(model, rng=0)
        >>> logw == Normal(x, 1).log_prob(2.0)
        True
    """
    rng, generator = as_rng(rng), start(p)
    logw, sent = 0.0, None
    while True:
        try:
            effect = generator.send(sent)
        except StopIteration as end:
            return Weighted(end.value, logw)
        if isinstance(effect, Sample):
            sent = effect.dist.sample(rng)
        elif isinstance(effect, Score):
            logw += effect.logw
            sent = None
        else:
            refuse(effect)


def auxiliary(p: Program[T]) -> Program[T]:
    """Return ``p`` with its choices marked as random numbers of an algorithm.

    Chains over the outer program redraw them all at every step: Metropolis-Hastings on an unbiased estimate of the
    density (Andrieu and Roberts, 2009), which still leaves the exact target invariant. Without the mark a chain would
    move one of them at a time, which is valid too.

    Examples:
        >>> from holdfast.inference import Bernoulli
        >>> def coin():
        ...     return (yield Sample(Bernoulli(0.5)))
        >>> next(auxiliary(coin)()).auxiliary
        True
    """

    def program() -> Generator[Effect, Any, T]:
        generator, sent = start(p), None
        while True:
            try:
                effect = generator.send(sent)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Sample):
                effect = Sample(effect.dist, effect.name, auxiliary=True)
            sent = yield effect

    return program
