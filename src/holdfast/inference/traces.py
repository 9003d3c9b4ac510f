"""Traces: the choices of one run, kept so that the run can be paused, replayed, continued and changed."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from holdfast.core.checks import check_number
from holdfast.inference.distributions import Distribution, as_rng
from holdfast.inference.effects import Effect, Program, Sample, Score
from holdfast.inference.programs import refuse, run, start

__all__ = ["Address", "Choice", "Trace", "check_replayable", "draw_trace", "freeze", "marginal", "trace"]

T = TypeVar("T")
Address = tuple[str | None, int]
"""Name of a choice (``None`` when it has none), and how many choices of that name came before it in the run."""


class Choice:
    """One choice of a run: what it was drawn from, and what came."""

    __slots__ = ("_log_prob", "auxiliary", "dist", "value")

    def __init__(self, dist: Distribution, value: Any, auxiliary: bool = False) -> None:
        self.dist, self.value, self.auxiliary = dist, value, auxiliary
        self._log_prob: float | None = None

    @property
    def log_prob(self) -> float:
        """Log density of the value."""
        if self._log_prob is None:
            self._log_prob = self.dist.log_prob(self.value)
        return self._log_prob

    def __repr__(self) -> str:
        return f"Choice({self.value!r} from {self.dist!r})"


class Trace(Generic[T]):
    """A run of a program up to a score (``stop``) or to its end, with every choice by address.

    A trace does not change. A generator cannot be copied, so a trace is continued by running the program again on its
    choices, unless its own generator is still waiting, which serves the first who continues.

    Attributes:
        program: the program that was run.
        stop: number of scores after which the run pauses; ``None`` for a whole run.
        choices: from address to choice, in order.
        log_weight: sum of the scores so far.
        segment: sum of the scores since the pause before.
        scores: number of scores so far.
        finished: whether the program has returned.
        value: what it returned.
        frozen: addresses that chains leave alone.

    Examples:
        >>> from holdfast.inference import Bernoulli, observe
        >>> def model():
        ...     x = yield Sample(Bernoulli(0.5), "x")
        ...     yield observe(Bernoulli(0.9 if x else 0.1), True)
        ...     return x
        >>> t = draw_trace(model, rng=1)
        >>> t
        Trace(1 choice, log_weight=-2.30259, value=False)
        >>> t["x"]
        False
    """

    __slots__ = (
        "_free",
        "_waiting",
        "choices",
        "finished",
        "frozen",
        "log_weight",
        "program",
        "scores",
        "segment",
        "stop",
        "value",
    )

    def __init__(
        self,
        program: Program[T],
        stop: int | None,
        choices: dict[Address, Choice],
        log_weight: float,
        segment: float,
        scores: int,
        finished: bool,
        value: T | None,
        frozen: frozenset[Address] = frozenset(),
    ) -> None:
        self.program, self.stop, self.choices = program, stop, choices
        self.log_weight, self.segment, self.scores = log_weight, segment, scores
        self.finished, self.value, self.frozen = finished, value, frozen
        self._waiting: Any = None
        self._free: list[Address] | None = None

    @property
    def free(self) -> list[Address]:
        """Addresses that a chain may propose to change."""
        if self._free is None:
            self._free = [a for a, c in self.choices.items() if not c.auxiliary and a not in self.frozen]
        return self._free

    def __getitem__(self, name: str | Address) -> Any:
        """Return the value of a choice by its name (the first of that name) or address."""
        address = (name, 0) if isinstance(name, str) else name
        if address not in self.choices:
            known = ", ".join(map(label, self.choices)) or "none"
            raise KeyError(f"no choice {name!r} in this trace; choices: {known}")
        return self.choices[address].value

    def advance(self, stop: int | None) -> Program[Trace[T]]:
        """Return the program that continues the run to ``stop`` scores, or to its end for ``None``."""

        def program() -> Generator[Effect, Any, Trace[T]]:
            if self.finished:
                yield from ()
                return self._moved_to(stop)
            waiting, self._waiting = self._waiting, None
            return (yield from execute(self.program, stop, self.choices, self, waiting, self.frozen))

        return program

    def _moved_to(self, stop: int | None) -> Trace[T]:
        """Return a finished run at a later pause: nothing more is scored."""
        args = self.program, stop, self.choices, self.log_weight, 0.0, self.scores, True, self.value, self.frozen
        return Trace(*args)

    def __repr__(self) -> str:
        n = len(self.choices)
        state = f"value={self.value!r}" if self.finished else f"paused after {self.scores} score(s)"
        return f"Trace({n} choice{'' if n == 1 else 's'}, log_weight={self.log_weight:g}, {state})"


def label(address: Address) -> str:
    """Return an address as it is printed."""
    name, k = address
    if name is None:
        return f"#{k + 1}"
    return name if k == 0 else f"{name}[{k}]"


def execute(
    p: Program[T],
    stop: int | None,
    known: Mapping[Address, Choice],
    before: Trace[T] | None = None,
    waiting: Any = None,
    frozen: frozenset[Address] = frozenset(),
) -> Generator[Effect, Any, Trace[T]]:
    """Run a program on known choices, and yield those that are not known, up to ``stop`` scores or its end.

    A known value is kept where the distribution now met is of the same kind as the one it was drawn from: a rule that
    reads the same in both directions, as the acceptance ratio needs. With ``before``, the run continues that trace:
    its choices and scores have to come again as they were, and the segment starts after them.
    """
    done = 0 if before is None else before.scores
    counts: dict[str | None, int]
    if waiting is not None and before is not None:
        generator, counts = waiting
        choices, scores, logw, segment, replaying = dict(known), done, before.log_weight, 0.0, False
    else:
        generator, counts, choices = start(p), {}, {}
        scores, logw, segment, replaying = 0, 0.0, 0.0, done > 0
    sent = None
    while True:
        try:
            effect = generator.send(sent)
        except StopIteration as end:
            if replaying:
                raise ValueError(_differs("it ended before the pause that it had reached before")) from None
            if before is not None:
                _check_all_met(known, choices)
            return Trace(p, stop, choices, logw, segment, scores, True, end.value, frozen)
        sent = None
        if isinstance(effect, Sample):
            name = effect.name
            k = counts.get(name, 0)
            counts[name] = k + 1
            address = (name, k)
            old = known.get(address)
            if old is not None and old.dist is effect.dist:
                sent, choices[address] = old.value, old
                continue
            if old is not None and old.dist.kind == effect.dist.kind:
                sent = old.value
            elif replaying:
                raise ValueError(_differs(f"it met the choice {label(address)} from {effect.dist!r}, which was not"))
            else:
                sent = yield effect
            choices[address] = Choice(effect.dist, sent, effect.auxiliary)
        elif isinstance(effect, Score):
            scores += 1
            logw += effect.logw
            segment += effect.logw
            if replaying and scores == done and before is not None:
                if logw != before.log_weight:
                    raise ValueError(_differs(f"its scores add up to {logw}, not to {before.log_weight}"))
                _check_all_met(known, choices)
                replaying, segment = False, 0.0
            if scores == stop:
                paused = Trace(p, stop, choices, logw, segment, scores, False, None, frozen)
                paused._waiting = (generator, counts)
                return paused
        else:
            refuse(effect)


def _differs(how: str) -> str:
    return (
        f"the program is not replayable: run again on the same choices, {how}; a program must draw all randomness by "
        "Sample and keep no state between runs"
    )


def _check_all_met(known: Mapping[Address, Choice], choices: Mapping[Address, Choice]) -> None:
    missed = [label(a) for a in known if a not in choices]
    if missed:
        raise ValueError(_differs(f"it did not meet the choice(s) {', '.join(missed)}"))


def trace(p: Program[T]) -> Program[Trace[T]]:
    """Return the program that runs ``p`` and returns the trace; scores are passed on, so it means ``p`` with a record.

    Examples:
        >>> from holdfast.inference import Bernoulli, run
        >>> def coin():
        ...     return (yield Sample(Bernoulli(0.5), "side"))
        >>> run(trace(coin), rng=0).value.choices
        {('side', 0): Choice(False from Bernoulli(0.5))}
    """

    def program() -> Generator[Effect, Any, Trace[T]]:
        made = yield from execute(p, None, {})
        yield Score(made.log_weight)
        return made

    return program


def marginal(p: Program[Trace[T]]) -> Program[T]:
    """Return the program that forgets the trace and returns its value.

    Examples:
        >>> from holdfast.inference import run, unit
        >>> run(marginal(trace(unit(3)))).value
        3
    """

    def program() -> Generator[Effect, Any, T]:
        made = yield from start(p)
        return made.value  # pyright: ignore[reportReturnType]

    return program


def freeze(t: Trace[T]) -> Trace[T]:
    """Return the trace with its choices so far fixed: chains move only what comes later.

    Examples:
        >>> from holdfast.inference import Bernoulli
        >>> def coin():
        ...     return (yield Sample(Bernoulli(0.5)))
        >>> freeze(draw_trace(coin, rng=0)).free
        []
    """
    args = t.program, t.stop, t.choices, t.log_weight, t.segment, t.scores, t.finished, t.value, frozenset(t.choices)
    out = Trace(*args)
    out._waiting, t._waiting = t._waiting, None
    return out


def draw_trace(p: Program[T], rng: int | np.random.Generator | None = None, attempts: int = 1000) -> Trace[T]:
    """Draw whole runs until one has positive weight.

    Raises:
        ValueError: when none of ``attempts`` runs has, or for ``attempts`` below 1.

    Examples:
        >>> from holdfast.inference import Bernoulli, score
        >>> def hard():
        ...     x = yield Sample(Bernoulli(0.1))
        ...     yield score(1.0 if x else 0.0)
        ...     return x
        >>> draw_trace(hard, rng=0).value
        True
    """
    check_number("attempts", attempts, low=1, integer=True)
    rng = as_rng(rng)
    for _ in range(attempts):
        made = run(trace(p), rng).value
        if made.log_weight > -math.inf:
            return made
    raise ValueError(
        f"none of {attempts} runs has positive weight: the scores rule out (nearly) everything that the program "
        "draws; use softer scores, or raise attempts"
    )


def check_replayable(t: Trace[Any]) -> None:
    """Run a trace's program again on its choices and raise unless choices, densities, scores and value come again.

    Raises:
        ValueError: when anything differs; names what.

    Examples:
        >>> import random
        >>> from holdfast.inference import Bernoulli
        >>> def leaky():
        ...     yield Sample(Bernoulli(0.5), "x" + str(random.random()))
        >>> check_replayable(draw_trace(leaky, rng=0))
        Traceback (most recent call last):
        ...
        ValueError: the program is not replayable: run again on the same choices, it met the choice ...
    """
    again = execute(t.program, t.stop, t.choices)
    try:
        effect = next(again)
    except StopIteration as end:
        new: Trace[Any] = end.value
    else:
        name = effect.name if isinstance(effect, Sample) else None
        raise ValueError(_differs(f"it met the choice {name or '(unnamed)'}, which was not there"))
    _check_all_met(t.choices, new.choices)
    for a, c in t.choices.items():
        if new.choices[a].log_prob != c.log_prob:
            raise ValueError(_differs(f"the distribution of the choice {label(a)} is another"))
    if new.log_weight != t.log_weight:
        raise ValueError(_differs(f"its scores add up to {new.log_weight}, not to {t.log_weight}"))
    if t.finished and not _same(new.value, t.value):
        raise ValueError(_differs(f"it returned {new.value!r}, not {t.value!r}"))


def _same(a: Any, b: Any) -> bool:
    """Compare values where they can be compared; functions and objects without equality pass when of one type."""
    if type(a) is not type(b):
        return False
    if type(a).__eq__ is object.__eq__:
        return True
    try:
        return bool(np.all(np.asarray(a == b)))
    except (TypeError, ValueError, RuntimeError):
        return True
