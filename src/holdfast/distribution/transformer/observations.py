"""What is seen of a state: observation models with a sampler and the density of the same law."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.distribution.mixture import LOG_2PI, cholesky, normal_log_prob

__all__ = [
    "BearingObservation",
    "LinearObservation",
    "ObservationModel",
    "OutlierObservation",
    "RangeObservation",
    "TwoLevelObservation",
    "VarianceObservation",
]


class ObservationModel(Protocol):
    """The law p(z | x) of one observation; several are independent given the state.

    Attributes:
        dim: numbers p of an observation.
    """

    dim: int

    def sample(
        self, x: Float[Tensor, "*batch dim"], m: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch m p"]:
        """Draw ``m`` observations of every state."""
        ...

    def log_prob(self, z: Float[Tensor, "*batch m p"], x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch m"]:
        """Return the log-density of every observation; the batches are broadcast."""
        ...

    def in_support(self, z: Float[Tensor, "*batch m p"]) -> Bool[Tensor, "*batch m"]:
        """Say which observations are possible at all."""
        ...


class _Anywhere:
    def in_support(self, z: Tensor) -> Tensor:
        return torch.isfinite(z).all(-1)


class LinearObservation(_Anywhere):
    r""":math:`z = H x + \varepsilon`, :math:`\varepsilon \sim N(0, R)`; H (p, D) and R (p, p).

    Examples:
        >>> sensor = LinearObservation(torch.eye(1), torch.eye(1))
        >>> sensor.log_prob(torch.zeros(4, 2, 1), torch.zeros(4, 1)).shape
        torch.Size([4, 2])
    """

    def __init__(self, H: Float[Tensor, "p dim"], R: Float[Tensor, "p p"]) -> None:
        if H.ndim != 2 or R.shape != (H.shape[0], H.shape[0]):
            raise ValueError(f"H must be (p, D) and R (p, p), got {tuple(H.shape)} and {tuple(R.shape)}")
        self.H, self.R, self.dim = H, R, H.shape[0]
        self._root = cholesky("R", R)

    def sample(self, x: Tensor, m: int, generator: torch.Generator | None = None) -> Tensor:
        eps = _normal((*x.shape[:-1], m, self.dim), x, generator)
        return (x @ self.H.to(x).mT)[..., None, :] + eps @ self._root.to(x).mT

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        return normal_log_prob(z - (x @ self.H.to(x).mT)[..., None, :], self._root.to(x))


class OutlierObservation(_Anywhere):
    r"""The state with noise, :math:`z = x + s\varepsilon`, with probability c, else a number from U(-w, w).

    Examples:
        >>> sensor = OutlierObservation(scale=0.3, correct=0.8, width=10.0)
        >>> round(sensor.moment_matched_variance, 2)
        6.74
    """

    dim = 1

    def __init__(self, scale: float = 0.3, correct: float = 0.8, width: float = 10.0) -> None:
        self.scale = check_number("scale", scale, low=0, open_low=True)
        self.correct = check_number("correct", correct, low=0, high=1)
        self.width = check_number("width", width, low=0, open_low=True)

    @property
    def moment_matched_variance(self) -> float:
        """The variance of z around a state at 0."""
        return self.correct * self.scale**2 + (1 - self.correct) * self.width**2 / 3

    def sample(self, x: Tensor, m: int, generator: torch.Generator | None = None) -> Tensor:
        shape = (*x.shape[:-1], m, 1)
        good = x[..., None, :] + self.scale * _normal(shape, x, generator)
        wild = self.width * (2 * _uniform(shape, x, generator) - 1)
        return torch.where(_uniform(shape, x, generator) < self.correct, good, wild)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        good = math.log(self.correct or 1e-300) + _log_normal(z - x[..., None, :], self.scale)
        inside = z.abs() <= self.width
        wild = torch.where(inside, math.log((1 - self.correct) / (2 * self.width) + 1e-300), -math.inf)
        return torch.logaddexp(good, wild.to(good.dtype))[..., 0]


class VarianceObservation(_Anywhere):
    """A centred Gaussian whose variance is the state.

    Examples:
        >>> VarianceObservation().sample(torch.ones(3, 1), 5).shape
        torch.Size([3, 5, 1])
    """

    dim = 1

    def sample(self, x: Tensor, m: int, generator: torch.Generator | None = None) -> Tensor:
        return x[..., None, :].sqrt() * _normal((*x.shape[:-1], m, 1), x, generator)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        v = x[..., None, :]
        return -0.5 * (z.square() / v + v.log() + LOG_2PI)[..., 0]


class TwoLevelObservation:
    r"""Outcome 0 or 1 of a two-level system with :math:`H = x \sigma_x + (1 - x) \sigma_z`, read at about a time.

    It starts in state 0 and is found there (z = 1) with probability :math:`1 - (x/\omega)^2\, E \sin^2 \omega t`,
    :math:`\omega^2 = x^2 + (1 - x)^2`. The reading is at :math:`t \sim N(t_0, s^2)`, for which the mean is
    :math:`(1 - e^{-2 \omega^2 s^2} \cos 2 \omega t_0) / 2`.

    Examples:
        >>> TwoLevelObservation().probability(torch.tensor([[0.0]]))
        tensor([[1.]])
    """

    dim = 1

    def __init__(self, time: float = 1.0, spread: float = 0.05) -> None:
        self.time = check_number("time", time, low=0)
        self.spread = check_number("spread", spread, low=0)

    def probability(self, x: Tensor) -> Tensor:
        """Return the probability of z = 1 for states (*B, 1)."""
        square = x.square() + (1 - x).square()
        swing = (1 - (-2 * square * self.spread**2).exp() * (2 * square.sqrt() * self.time).cos()) / 2
        return 1 - x.square() / square * swing

    def sample(self, x: Tensor, m: int, generator: torch.Generator | None = None) -> Tensor:
        u = _uniform((*x.shape[:-1], m, 1), x, generator)
        return (u < self.probability(x)[..., None, :]).to(x.dtype)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        p = self.probability(x)[..., None, :].clamp(1e-7, 1 - 1e-7)
        return (z * p.log() + (1 - z) * (-p).log1p())[..., 0]

    def in_support(self, z: Tensor) -> Tensor:
        return ((z == 0) | (z == 1)).all(-1)


class RangeObservation:
    r"""Distance r to the origin with clutter, read on a scale of [0, 20].

    .. math:: 0.7\, N(r, (0.1 (r + 1))^2) + 0.2\, \mathrm{Exp}(1) + 0.1\, U(0, 20), \text{ clamped to } [0, 20]

    The readings 0 and 20 have positive mass; there ``log_prob`` is the logarithm of the mass.

    Args:
        dims: the two dimensions of the state that are the position.

    Examples:
        >>> z = RangeObservation().sample(torch.zeros(2, 4), 3)
        >>> bool(((z >= 0) & (z <= 20)).all())
        True
    """

    dim = 1
    top = 20.0

    def __init__(self, dims: tuple[int, int] = (0, 2)) -> None:
        self.dims = list(dims)

    def sample(self, x: Tensor, m: int, generator: torch.Generator | None = None) -> Tensor:
        r = x[..., self.dims].norm(dim=-1)[..., None]
        shape = (*x.shape[:-1], m)
        near = r + 0.1 * (r + 1) * _normal(shape, x, generator)
        early = -torch.log1p(-_uniform(shape, x, generator))
        flat = self.top * _uniform(shape, x, generator)
        u = _uniform(shape, x, generator)
        z = torch.where(u < 0.7, near, torch.where(u < 0.9, early, flat))
        return z.clamp(0, self.top)[..., None]

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        r = x[..., self.dims].norm(dim=-1)[..., None]
        z, s = z[..., 0], 0.1 * (r + 1)
        density = 0.7 * _log_normal(z - r, s).exp() + 0.2 * (-z).exp() + 0.1 / self.top
        low = 0.7 * torch.special.ndtr(-r / s)
        high = 0.7 * torch.special.ndtr((r - self.top) / s) + 0.2 * math.exp(-self.top)
        mass = torch.where(z <= 0, low, torch.where(z >= self.top, high, density))
        return mass.clamp_min(1e-37).log()

    def in_support(self, z: Tensor) -> Tensor:
        return ((z >= 0) & (z <= self.top)).all(-1)


class BearingObservation:
    """Angle atan2(first, second) of the position with Gaussian noise, wrapped to [-pi, pi].

    Examples:
        >>> BearingObservation().sample(torch.ones(2, 4), 3).shape
        torch.Size([2, 3, 1])
    """

    dim = 1

    def __init__(self, dims: tuple[int, int] = (0, 2), scale: float = 0.1) -> None:
        self.dims = list(dims)
        self.scale = check_number("scale", scale, low=0, high=1, open_low=True)

    def _angle(self, x: Tensor) -> Tensor:
        a, b = self.dims
        return torch.atan2(x[..., a], x[..., b])[..., None]

    def sample(self, x: Tensor, m: int, generator: torch.Generator | None = None) -> Tensor:
        z = self._angle(x) + self.scale * _normal((*x.shape[:-1], m), x, generator)
        return wrap(z)[..., None]

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        gap = wrap(z[..., 0] - self._angle(x))
        turns = 2 * math.pi * torch.arange(-1, 2, device=gap.device, dtype=gap.dtype)
        return torch.logsumexp(_log_normal(gap[..., None] + turns, self.scale), -1)

    def in_support(self, z: Tensor) -> Tensor:
        return (z.abs() <= math.pi + 1e-5).all(-1)


def wrap(angle: Tensor) -> Tensor:
    """Bring angles to [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _log_normal(gap: Tensor, scale: Tensor | float) -> Tensor:
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return -0.5 * ((gap / scale).square() + LOG_2PI) - log_scale


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
