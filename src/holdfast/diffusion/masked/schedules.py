r"""Mask schedules: which share of the tokens is still visible at a time, its slope, and its inverse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["CosineMask", "GeometricMask", "LinearMask", "MaskSchedule", "check_mask_schedule"]


class MaskSchedule(ABC):
    r"""Probability :math:`\alpha(t)` that a token is visible at time t in [0, 1]; 1 at time 0, 0 at time 1.

    The forward process hides every token independently: :math:`x_t^l = x_0^l` with probability :math:`\alpha(t)`,
    else the mask symbol. Times and shares are floating tensors of any shape; compute in float64 where the inverse
    has to be accurate.
    """

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Share of visible tokens at time ``t``."""

    @abstractmethod
    def dalpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Derivative of :meth:`alpha`, negative."""

    @abstractmethod
    def alpha_inv(self, a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Time at which the share ``a`` is visible."""


@dataclass(frozen=True)
class LinearMask(MaskSchedule):
    r"""Linear schedule :math:`\alpha(t) = 1 - (1 - \epsilon)\,t`.

    ``eps=1e-3`` is the log-linear noise schedule of MDLM.

    Raises:
        ValueError: for eps outside [0, 1e-3].

    Examples:
        >>> LinearMask().alpha(torch.tensor([0.0, 0.25, 1.0])).tolist()
        [1.0, 0.75, 0.0]
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        check_number("eps", self.eps, low=0, high=1e-3)

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - (1 - self.eps) * t

    def dalpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.full_like(t, self.eps - 1)

    def alpha_inv(self, a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (1 - a) / (1 - self.eps)


@dataclass(frozen=True)
class CosineMask(MaskSchedule):
    r"""Cosine schedule :math:`\alpha(t) = 1 - \cos\bigl(\tfrac\pi2 (1 - t)\bigr)`, which hides fast near the data.

    Examples:
        >>> CosineMask().alpha(torch.tensor([0.0, 1 / 3, 1.0])).round(decimals=3).tolist()
        [1.0, 0.5, 0.0]
    """

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def dalpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))

    def alpha_inv(self, a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # arccos(1 - a) by its half angle: 1 - a loses the small a that late times have.
        return 1 - 4 / math.pi * torch.asin((a / 2).sqrt())


@dataclass(frozen=True)
class GeometricMask(MaskSchedule):
    r"""Geometric noise: :math:`\alpha(t) = e^{-\bar\sigma(t)}`,
    :math:`\bar\sigma(t) = \sigma_{min}^{1-t} \sigma_{max}^{t} - \sigma_{min}`.

    The total noise starts at zero, so that nothing is hidden at time 0.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max, or when more than 1e-3 stays visible at time 1.

    Source: Lou, Meng, Ermon, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution", ICML
    2024 (geometric noise), shifted by its start.

    Examples:
        >>> schedule = GeometricMask()
        >>> bool(schedule.alpha(torch.ones(())) < 1e-3)
        True
    """

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        check_number("sigma_min", self.sigma_min, low=0, open_low=True)
        check_number("sigma_max", self.sigma_max, low=self.sigma_min, open_low=True)
        if math.exp(self.sigma_min - self.sigma_max) > 1e-3:
            raise ValueError(
                f"sigma_max - sigma_min must be at least {math.log(1e3):.3f} so that at most 1e-3 stays visible at "
                f"time 1, got {self.sigma_max - self.sigma_min:g}"
            )

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.exp(-self.sigma_min * torch.expm1(self._rate * t))

    def dalpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return -self.sigma_min * self._rate * torch.exp(self._rate * t) * self.alpha(t)

    def alpha_inv(self, a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.log1p(-a.log() / self.sigma_min) / self._rate


def check_mask_schedule(schedule: MaskSchedule) -> None:
    r"""Raise unless :math:`\alpha` falls strictly from 1 at time 0 to at most 1e-3 at time 1.

    Raises:
        TypeError: for something without ``alpha``, ``dalpha`` and ``alpha_inv``.
        ValueError: for another start or end, or a time at which the schedule does not decrease.

    Examples:
        >>> check_mask_schedule(CosineMask())
    """
    missing = [name for name in ("alpha", "dalpha", "alpha_inv") if not callable(getattr(schedule, name, None))]
    if missing:
        raise TypeError(
            f"schedule must have alpha, dalpha and alpha_inv (see MaskSchedule), got {type(schedule).__name__} "
            f"without {', '.join(missing)}"
        )
    t = torch.linspace(0, 1, 257, dtype=torch.float64)
    a = schedule.alpha(t)
    if abs(float(a[0]) - 1) > 1e-6 or not -1e-9 <= float(a[-1]) <= 1e-3 + 1e-9:
        raise ValueError(
            f"schedule must have alpha(0) = 1 and alpha(1) in [0, 1e-3], got {float(a[0]):g} and {float(a[-1]):g}"
        )
    rising = ~(a.diff() < 0)
    if bool(rising.any()):
        i = int(rising.nonzero()[0])
        raise ValueError(
            f"schedule must strictly decrease, but alpha is {float(a[i]):g} at time {float(t[i]):g} and "
            f"{float(a[i + 1]):g} at {float(t[i + 1]):g}"
        )
