"""Continuous paths from data to noise, and how velocity, noise, data and score turn into each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_number

__all__ = ["PREDICTIONS", "Coefficients", "CosinePath", "LinearPath", "Path", "Posterior", "Prediction", "VPPath"]

Prediction = Literal["velocity", "noise", "data", "score"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


class Coefficients(NamedTuple):
    r"""What a path is at a time: :math:`\alpha_t, \sigma_t` and their derivatives in time."""

    alpha: Float[Tensor, " batch"]
    sigma: Float[Tensor, " batch"]
    dalpha: Float[Tensor, " batch"]
    dsigma: Float[Tensor, " batch"]


class Posterior(NamedTuple):
    r"""The Gaussian :math:`q(x_s \mid x_t, x_0) = N(a\,x_0 + b\,x_t,\; c^2 I)` for :math:`s < t`."""

    data: Float[Tensor, " batch"]
    state: Float[Tensor, " batch"]
    std: Float[Tensor, " batch"]


def _over(c: Tensor, x: Tensor) -> Tensor:
    """One coefficient per sample, shaped to multiply a batch; those that have all axes of the batch stay."""
    c = c.to(x.dtype)
    return c if c.ndim == x.ndim else c.reshape(-1, *[1] * (x.ndim - 1))


class Path(ABC):
    r"""A Gaussian path :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with :math:`\epsilon \sim N(0, I)`.

    ``t_min`` is the time of data and ``t_max`` that of noise; a ``discrete`` path is trained on whole times only.
    Times are one per sample, or have the axes of ``x`` (lengths may be 1), so that parts of a sample may be noised
    differently.

    Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic interpolants", 2023; Ma et al., "SiT", ECCV 2024.
    """

    t_min: float = 0.0
    t_max: float = 1.0
    discrete: bool = False

    @abstractmethod
    def coefficients(self, t: Float[Tensor, " batch"]) -> Coefficients:
        """Return alpha, sigma and their derivatives with respect to ``t``."""

    def check(self, t: Tensor) -> None:
        """Raise ``ValueError`` unless every time lies in ``[t_min, t_max]``."""
        if t.numel() and not bool(((t >= self.t_min) & (t <= self.t_max)).all()):
            bad = t[~((t >= self.t_min) & (t <= self.t_max))]
            raise ValueError(f"t must lie in [{self.t_min:g}, {self.t_max:g}], got {float(bad.flatten()[0]):g}")

    def noise(
        self, x0: Float[Tensor, "batch *shape"], eps: Float[Tensor, "batch *shape"], t: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch *shape"]:
        """Return the noised sample ``alpha_t x0 + sigma_t eps``."""
        self.check(t)
        c = self.coefficients(t)
        return _over(c.alpha, x0) * x0 + _over(c.sigma, x0) * eps

    def velocity(
        self, x0: Float[Tensor, "batch *shape"], eps: Float[Tensor, "batch *shape"], t: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch *shape"]:
        """Return the derivative of the noised sample with respect to time, ``alpha'_t x0 + sigma'_t eps``."""
        c = self.coefficients(t)
        return _over(c.dalpha, x0) * x0 + _over(c.dsigma, x0) * eps

    def snr(self, t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        r"""Return the signal-to-noise ratio :math:`\alpha_t^2 / \sigma_t^2`."""
        c = self.coefficients(t)
        return (c.alpha / c.sigma).square()

    def posterior(self, t: Float[Tensor, " batch"], s: Float[Tensor, " batch"]) -> Posterior:
        r"""Return :math:`q(x_s \mid x_t, x_0)` of the Markov noising process, for ``s < t``.

        With :math:`r = \alpha_t / \alpha_s` and :math:`v = \sigma_t^2 - r^2 \sigma_s^2`, the coefficient of the data
        is :math:`\alpha_s v / \sigma_t^2`, of the state :math:`r \sigma_s^2 / \sigma_t^2`, and the standard
        deviation :math:`\sigma_s \sqrt{v} / \sigma_t`.

        Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, equation 7.
        """
        at, st = self.coefficients(t)[:2]
        a, s_ = self.coefficients(s)[:2]
        r = at / a
        v = (st.square() - (r * s_).square()).clamp(min=0)
        return Posterior(a * v / st.square(), r * s_.square() / st.square(), s_ * v.sqrt() / st)

    def convert(
        self,
        value: Float[Tensor, "batch *shape"],
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        source: Prediction,
        target: Prediction,
    ) -> Float[Tensor, "batch *shape"]:
        r"""Turn one prediction at ``(x, t)`` into another.

        All four are affine in each other given ``x``: with :math:`\hat x_0, \hat\epsilon` the data and the noise,
        the velocity is :math:`\dot\alpha \hat x_0 + \dot\sigma \hat\epsilon` and the score
        :math:`-\hat\epsilon / \sigma`. Data and velocity say nothing of the noise at :math:`\sigma_t = 0`, and the
        noise nothing of the data at :math:`\alpha_t = 0`: there the result is not finite.

        Raises:
            ValueError: for an unknown kind of prediction.

        Examples:
            >>> path, t = LinearPath(), torch.tensor([0.25])
            >>> x0, eps = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
            >>> x = path.noise(x0, eps, t)
            >>> path.convert(path.velocity(x0, eps, t), x, t, "velocity", "data")
            tensor([[2.]])
        """
        check_choice("source", source, PREDICTIONS)
        check_choice("target", target, PREDICTIONS)
        if source == target:
            return value
        alpha, sigma, dalpha, dsigma = (_over(c, x) for c in self.coefficients(t))
        if source == "velocity":
            det = alpha * dsigma - dalpha * sigma
            if target == "data":
                return (dsigma * x - sigma * value) / det
            eps = (alpha * value - dalpha * x) / det
            return eps if target == "noise" else -eps / sigma
        if source == "data":
            eps = (x - alpha * value) / sigma
            x0 = value
        else:
            eps = value if source == "noise" else -sigma * value
            x0 = None
        if target == "noise":
            return eps
        if target == "score":
            return -eps / sigma
        if x0 is None:
            x0 = (x - sigma * eps) / alpha
        return x0 if target == "data" else dalpha * x0 + dsigma * eps


class LinearPath(Path):
    r"""Straight lines from data to noise: :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t`.

    Source: Liu, Gong and Liu, "Flow straight and fast", ICLR 2023; Lipman et al., "Flow matching", ICLR 2023.

    Examples:
        >>> LinearPath().coefficients(torch.tensor([0.25])).sigma
        tensor([0.2500])
    """

    def coefficients(self, t: Float[Tensor, " batch"]) -> Coefficients:
        """Return alpha, sigma and their derivatives."""
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)


class CosinePath(Path):
    r"""A quarter of a circle: :math:`\alpha_t = \cos(\pi t / 2)`, :math:`\sigma_t = \sin(\pi t / 2)`.

    Examples:
        >>> c = CosinePath().coefficients(torch.tensor([0.5]))
        >>> bool(torch.isclose(c.alpha, c.sigma))
        True
    """

    def coefficients(self, t: Float[Tensor, " batch"]) -> Coefficients:
        """Return alpha, sigma and their derivatives."""
        half = math.pi / 2
        c, s = torch.cos(half * t), torch.sin(half * t)
        return Coefficients(c, s, -half * s, half * c)


class VPPath(Path):
    r"""The variance-preserving diffusion with a linear rate :math:`\beta(t) = \beta_0 + t(\beta_1 - \beta_0)`.

    .. math:: \alpha_t = \exp\!\Big(-\tfrac12 \int_0^t \beta\Big), \qquad \sigma_t^2 = 1 - \alpha_t^2

    Raises:
        ValueError: unless ``0 < beta_min <= beta_max``.

    Source: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021.

    Examples:
        >>> VPPath().coefficients(torch.tensor([0.0, 1.0])).sigma.round(decimals=3)
        tensor([0., 1.])
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min = check_number("beta_min", beta_min, low=0, open_low=True)
        self.beta_max = check_number("beta_max", beta_max, low=beta_min)

    def coefficients(self, t: Float[Tensor, " batch"]) -> Coefficients:
        """Return alpha, sigma and their derivatives; the derivative of sigma is infinite at 0."""
        rate = self.beta_min + t * (self.beta_max - self.beta_min)
        integral = self.beta_min * t + 0.5 * t.square() * (self.beta_max - self.beta_min)
        alpha = torch.exp(-0.5 * integral)
        sigma = torch.sqrt(-torch.expm1(-integral))
        dalpha = -0.5 * rate * alpha
        return Coefficients(alpha, sigma, dalpha, -alpha * dalpha / sigma)
