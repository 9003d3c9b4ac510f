"""Laws over priors: what an amortised posterior is trained for."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from holdfast.core.checks import check_number
from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.distribution.mixture import HasLogProb

__all__ = ["BetaMetaPrior", "InverseGammaMetaPrior", "MetaPrior", "MixtureMetaPrior", "WishartMixtureMetaPrior"]

_TINY = 1e-6


class MetaPrior(Protocol):
    """A law over priors of a state in R^D.

    Attributes:
        dim: D.
        n_parameters: parameters of a prior, or ``None`` where priors are mixtures of Gaussians.
    """

    dim: int
    n_parameters: int | None

    def sample(self, n: int, generator: torch.Generator | None = None) -> Any:
        """Draw ``n`` priors: a batch of mixtures, or positive parameters (n, n_parameters)."""
        ...

    def prior(self, phi: Any, /) -> HasLogProb:
        """Return the priors as distributions of states (n, D)."""
        ...

    def draw(self, phi: Any, /, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw one state of every prior."""
        ...


class _OfMixtures:
    n_parameters: int | None = None

    def __init__(self, components: int, dim: int, concentration: float) -> None:
        self.components = int(check_number("components", components, low=1, integer=True))
        self.dim = int(check_number("dim", dim, low=1, integer=True))
        self.concentration = check_number("concentration", concentration, low=0, open_low=True)

    def prior(self, phi: GaussianMixture) -> GaussianMixture:
        return phi

    def draw(self, phi: GaussianMixture, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        return phi.sample(1, generator)[0]

    def _weights(self, n: int, generator: torch.Generator | None) -> Tensor:
        gammas = _gamma(self.concentration, (n, self.components), generator).clamp_min(1e-30)
        return gammas / gammas.sum(-1, keepdim=True)


class MixtureMetaPrior(_OfMixtures):
    r"""Mixtures with :math:`w \sim \mathrm{Dirichlet}(a)`, :math:`\mu_k \sim N(0, s^2 I)`, log-normal scales.

    The standard deviations along the axes of component k are :math:`\exp N(m, v^2)`, its axes a random rotation.

    Examples:
        >>> meta = MixtureMetaPrior(components=3, dim=2)
        >>> phi = meta.sample(5, torch.Generator().manual_seed(0))
        >>> phi, meta.draw(phi).shape
        (GaussianMixture(batch_shape=(5,), n_components=3, dim=2), torch.Size([5, 2]))
    """

    def __init__(
        self,
        components: int,
        dim: int = 1,
        *,
        concentration: float = 1.0,
        mean_scale: float = 2.0,
        log_scale: tuple[float, float] = (-0.5, 0.4),
    ) -> None:
        super().__init__(components, dim, concentration)
        self.mean_scale = check_number("mean_scale", mean_scale, low=0)
        self.log_scale = (float(log_scale[0]), check_number("log_scale[1]", log_scale[1], low=0))

    def sample(self, n: int, generator: torch.Generator | None = None) -> GaussianMixture:
        shape = (n, self.components, self.dim)
        means = self.mean_scale * _normal(shape, generator)
        scales = (self.log_scale[0] + self.log_scale[1] * _normal(shape, generator)).exp()
        if self.dim == 1:
            return GaussianMixture(self._weights(n, generator), means, scales[..., None])
        axes = torch.linalg.qr(_normal((*shape, self.dim), generator)).Q
        covariances = (axes * scales.square()[..., None, :]) @ axes.mT
        return GaussianMixture.from_covariance(self._weights(n, generator), means, covariances)


class WishartMixtureMetaPrior(_OfMixtures):
    r"""Mixtures with weights Dirichlet(1/K), means :math:`N(0, I + 11^\top)`, precisions Wishart(D + 1, 4 I) + 1e-4 I.

    Examples:
        >>> WishartMixtureMetaPrior(2, 3).sample(4, torch.Generator().manual_seed(0))
        GaussianMixture(batch_shape=(4,), n_components=2, dim=3)
    """

    def __init__(self, components: int, dim: int = 1) -> None:
        super().__init__(components, dim, 1 / components)

    def sample(self, n: int, generator: torch.Generator | None = None) -> GaussianMixture:
        shape = (n, self.components, self.dim)
        means = _normal(shape, generator) + _normal((*shape[:2], 1), generator)
        half = 2 * _normal((*shape, self.dim + 1), generator).double()
        precision = half @ half.mT + 1e-4 * torch.eye(self.dim, device=half.device, dtype=half.dtype)
        covariances = torch.linalg.inv(precision)
        factor = torch.linalg.cholesky((covariances + covariances.mT) / 2).to(means.dtype)
        return GaussianMixture(self._weights(n, generator), means, factor)


class InverseGammaMetaPrior:
    r"""Inverse-gamma priors of a variance, with concentration and rate from Gamma laws (shape, rate).

    ``phi`` is (n, 2): concentration and rate. The state is kept within [1e-6, 1e6], and parameters above 1e-3.

    Examples:
        >>> meta = InverseGammaMetaPrior()
        >>> meta.draw(meta.sample(4, torch.Generator().manual_seed(0))).shape
        torch.Size([4, 1])
    """

    dim = 1
    n_parameters: int | None = 2

    def __init__(self, concentration: tuple[float, float] = (1.0, 1.0), rate: tuple[float, float] = (1.0, 1.0)) -> None:
        self.concentration, self.rate = _shape_rate("concentration", concentration), _shape_rate("rate", rate)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        parts = [_gamma(a, (n,), generator) / b for a, b in (self.concentration, self.rate)]
        return torch.stack(parts, -1).clamp_min(1e-3)

    def prior(self, phi: Float[Tensor, "n 2"]) -> td.Distribution:
        return td.Independent(td.InverseGamma(phi[:, :1], phi[:, 1:]), 1)

    def draw(self, phi: Float[Tensor, "n 2"], generator: torch.Generator | None = None) -> Float[Tensor, "n 1"]:
        gammas = _standard_gamma(phi[:, :1], generator)
        return (phi[:, 1:] / gammas.clamp_min(1e-30)).clamp(_TINY, 1 / _TINY)


class BetaMetaPrior:
    """Beta priors of a share in (0, 1), whose two parameters are 1/2 plus Gamma(shape, rate) draws.

    Examples:
        >>> meta = BetaMetaPrior()
        >>> x = meta.draw(meta.sample(100, torch.Generator().manual_seed(0)))
        >>> bool(((x > 0) & (x < 1)).all())
        True
    """

    dim = 1
    n_parameters: int | None = 2

    def __init__(self, gamma: tuple[float, float] = (2.0, 0.5)) -> None:
        self.gamma = _shape_rate("gamma", gamma)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        return 0.5 + _gamma(self.gamma[0], (n, 2), generator) / self.gamma[1]

    def prior(self, phi: Float[Tensor, "n 2"]) -> td.Distribution:
        return td.Independent(td.Beta(phi[:, :1], phi[:, 1:]), 1)

    def draw(self, phi: Float[Tensor, "n 2"], generator: torch.Generator | None = None) -> Float[Tensor, "n 1"]:
        a, b = _standard_gamma(phi, generator).clamp_min(1e-30).split(1, -1)
        return (a / (a + b)).clamp(_TINY, 1 - _TINY)


def _shape_rate(name: str, pair: tuple[float, float]) -> tuple[float, float]:
    a, b = (check_number(name, v, low=0, open_low=True) for v in pair)
    return a, b


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=_device(generator))


def _gamma(shape: float, size: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    if not math.isfinite(shape):
        raise ValueError(f"a Gamma law needs a finite shape, got {shape}")
    return _standard_gamma(torch.full(size, shape, device=_device(generator)), generator)


def _standard_gamma(shape: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw Gamma(shape, 1); torch.distributions cannot be given a generator."""
    return torch._standard_gamma(shape, generator=generator)  # type: ignore[attr-defined]
