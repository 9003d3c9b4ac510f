"""Distributions that a program draws from: sampled, scored, and enumerated when their support is finite."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from holdfast.core.checks import check_number
from holdfast.core.random import isolated_rng, seed_from

__all__ = ["Bernoulli", "Categorical", "Distribution", "Normal", "TorchDistribution", "Uniform", "as_rng"]

_MAX_SEED = 2**31 - 1


def as_rng(rng: int | np.random.Generator | None) -> np.random.Generator:
    """Return a NumPy generator: the one that is given, or a fresh one started at a seed.

    Examples:
        >>> as_rng(3).random() == as_rng(3).random()
        True
    """
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng(seed_from(rng))


class Distribution(ABC):
    """What a choice is drawn from. A subclass gives ``sample`` and ``log_prob``, and ``outcomes`` where it can.

    Attributes:
        kind: where the values live. A chain keeps a value at a site whose distribution changed only if the kind is
            the same; two distributions of one kind have densities with respect to the same measure.
    """

    kind: tuple[Any, ...] = ()

    def __init_subclass__(cls) -> None:
        if not cls.kind:
            cls.kind = (cls.__module__, cls.__qualname__)

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Any:
        """Draw one value."""

    @abstractmethod
    def log_prob(self, value: Any) -> float:
        """Return the log density (or log mass) of a value, ``-inf`` outside the support."""

    def outcomes(self) -> Sequence[tuple[Any, float]] | None:
        """Return every value with its probability when there are finitely many, else ``None``."""
        return None

    def support(self) -> tuple[Any, ...] | None:
        """Return every value of positive probability when there are finitely many, else ``None``."""
        found = self.outcomes()
        return None if found is None else tuple(v for v, p in found if p > 0)


class Categorical(Distribution):
    r"""One of finitely many values, with probabilities in proportion to ``probs``.

    .. math:: P(v_i) = \frac{p_i}{\sum_j p_j}

    Args:
        probs: non-negative numbers, not all zero.
        values: the values; ``0, 1, ...`` when omitted.

    Raises:
        ValueError: for no entry, negative or non-finite ones, a total of zero, or another number of values.

    Examples:
        >>> d = Categorical([3.0, 1.0], ["sun", "rain"])
        >>> d.outcomes()
        [('sun', 0.75), ('rain', 0.25)]
        >>> round(d.log_prob("rain"), 4), d.log_prob("snow")
        (-1.3863, -inf)
    """

    def __init__(self, probs: Sequence[float], values: Sequence[Any] | None = None) -> None:
        p = [float(x) for x in probs]
        if not p or not all(0 <= x < math.inf for x in p):
            raise ValueError(f"probs must be one or more finite non-negative numbers, got {p}")
        if values is not None and len(values) != len(p):
            raise ValueError(f"there are {len(p)} probs but {len(values)} values")
        total = math.fsum(p)
        if not 0 < total < math.inf:
            raise ValueError(f"probs must have a positive finite sum, got {total}")
        self.probs = p if total == 1.0 else [x / total for x in p]
        self.values = range(len(p)) if values is None else list(values)
        self._edges = list(accumulate(self.probs))
        self._edges[-1] = math.inf  # no draw falls off the end, however the sum was rounded
        while self.probs[len(self._edges) - 1] == 0:
            self._edges.pop()
            self._edges[-1] = math.inf
        self.kind = ("range", len(p)) if values is None else ("values", tuple(values))

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[bisect_right(self._edges, rng.random())]

    def log_prob(self, value: Any) -> float:
        try:
            p = self.probs[self.values.index(value)]
        except ValueError:
            return -math.inf
        return math.log(p) if p > 0 else -math.inf

    def outcomes(self) -> list[tuple[Any, float]]:
        return list(zip(self.values, self.probs))

    def __repr__(self) -> str:
        return f"Categorical({len(self.probs)} values)"


@lru_cache(maxsize=4096)
def uniform_index(n: int) -> Categorical:
    """Return the uniform law on ``0, ..., n - 1``.

    Examples:
        >>> uniform_index(4).probs
        [0.25, 0.25, 0.25, 0.25]
    """
    return Categorical([1 / n] * n)


class Bernoulli(Distribution):
    """``True`` with probability ``p``, else ``False``.

    Raises:
        ValueError: for a probability outside [0, 1].

    Examples:
        >>> Bernoulli(0.25).outcomes()
        [(False, 0.75), (True, 0.25)]
    """

    kind = ("bool",)

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.p = float(p)

    def sample(self, rng: np.random.Generator) -> bool:
        return rng.random() < self.p

    def log_prob(self, value: Any) -> float:
        if value not in (True, False):
            return -math.inf
        p = self.p if value else 1 - self.p
        return math.log(p) if p > 0 else -math.inf

    def outcomes(self) -> list[tuple[Any, float]]:
        return [(False, 1 - self.p), (True, self.p)]

    def __repr__(self) -> str:
        return f"Bernoulli({self.p:g})"


class Uniform(Distribution):
    r"""Uniform on an interval, density :math:`1 / (b - a)`.

    Raises:
        ValueError: unless ``low < high``.

    Examples:
        >>> round(Uniform(0, 4).log_prob(1.0), 4), Uniform(0, 4).log_prob(5.0)
        (-1.3863, -inf)
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"a uniform needs finite low < high, got {low} and {high}")
        self.low, self.high = float(low), float(high)
        self.kind = ("interval", self.low, self.high)

    def sample(self, rng: np.random.Generator) -> float:
        return self.low + (self.high - self.low) * rng.random()

    def log_prob(self, value: float) -> float:
        return -math.log(self.high - self.low) if self.low <= value <= self.high else -math.inf

    def __repr__(self) -> str:
        return f"Uniform({self.low:g}, {self.high:g})"


class Normal(Distribution):
    r"""Gaussian with mean :math:`\mu` and standard deviation :math:`\sigma`.

    .. math:: \log p(x) = -\tfrac12 \left(\tfrac{x - \mu}{\sigma}\right)^2 - \log \sigma - \tfrac12 \log 2\pi

    Raises:
        ValueError: for a scale that is not positive, or a mean that is not finite.

    Examples:
        >>> round(Normal(1.0, 2.0).log_prob(1.0), 4)
        -1.6121
    """

    kind = ("real",)

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if not (0 < std < math.inf and -math.inf < mean < math.inf):
            check_number("std", float(std), low=0, high=math.inf, open_low=True, open_high=True)
            check_number("mean", float(mean), low=-math.inf, high=math.inf, open_low=True, open_high=True)
        self.mean, self.std = float(mean), float(std)

    def sample(self, rng: np.random.Generator) -> float:
        return self.mean + self.std * rng.standard_normal()

    def log_prob(self, value: float) -> float:
        z = (value - self.mean) / self.std
        return -0.5 * z * z - math.log(self.std) - 0.9189385332046727

    def __repr__(self) -> str:
        return f"Normal({self.mean:g}, {self.std:g})"


class TorchDistribution(Distribution):
    """Any ``torch.distributions`` object as a choice; numbers come out as Python numbers, the rest as tensors.

    :class:`~holdfast.inference.Sample` wraps by itself. A draw runs under torch's global generator started at a seed
    from ``rng``, and leaves that generator as it was; that costs some tenths of a millisecond, so the classes here are
    the quicker choice in a loop. A number with finitely many values is drawn from their table instead.

    Examples:
        >>> d = TorchDistribution(torch.distributions.Beta(2.0, 2.0))
        >>> 0 < d.sample(as_rng(0)) < 1
        True
        >>> round(d.log_prob(0.5), 4)
        0.4055
        >>> TorchDistribution(torch.distributions.Categorical(torch.ones(2))).outcomes()
        [(0, 0.5), (1, 0.5)]
    """

    def __init__(self, dist: torch.distributions.Distribution) -> None:
        if not isinstance(dist, torch.distributions.Distribution):
            raise TypeError(f"dist must be a torch.distributions object, got {type(dist).__name__}")
        self.dist = dist
        self._scalar = not (dist.batch_shape or dist.event_shape)
        # A distribution without a stated support is of a kind with its own class alone.
        constraint = getattr(dist, "support", None)
        self.kind = (type(dist) if constraint is None else str(constraint), dist.batch_shape, dist.event_shape)
        self._table: Categorical | None = None
        if self._scalar and dist.has_enumerate_support:
            values = dist.enumerate_support()
            probs = dist.log_prob(values).double().softmax(0)  # sum 1 in double precision
            self._table = Categorical(probs.tolist(), values.tolist())

    def sample(self, rng: np.random.Generator) -> Any:
        if self._table is not None:
            return self._table.sample(rng)
        with isolated_rng(int(rng.integers(_MAX_SEED))):
            value = self.dist.sample()
        return value.item() if self._scalar else value

    def log_prob(self, value: Any) -> float:
        if self._table is not None:
            return self._table.log_prob(float(value))
        x = torch.as_tensor(value, dtype=None if isinstance(value, torch.Tensor) else torch.get_default_dtype())
        constraint: Any = getattr(self.dist, "support", None)
        if constraint is not None and not bool(constraint.check(x).all()):
            return -math.inf
        return float(self.dist.log_prob(x).sum())

    def outcomes(self) -> list[tuple[Any, float]] | None:
        return None if self._table is None else self._table.outcomes()

    def __repr__(self) -> str:
        return repr(self.dist)
