"""A generator with noise, its likelihood in several ways, and samples without the noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number
from holdfast.distribution.singular.latents import Charts, Latent, NormalLatent
from holdfast.distribution.variational import DiagonalGaussian, elbo, importance_bound, iwae

__all__ = ["LatentGaussianGenerator", "LikelihoodMethod"]

LikelihoodMethod = Literal["quadrature", "iwae", "is", "exact"]

_ENTRIES = 2**24
_DOUBLY = 10
_FINE = 4096


class LatentGaussianGenerator(nn.Module):
    r"""Law of :math:`X = f(Z) + \sigma \varepsilon`; what it stands for is :math:`Q_f`, the law of f(Z) without noise.

    .. math:: p_{f,\sigma}(x) = \int \phi_\sigma\bigl(x - f(z)\bigr)\, dP_Z(z)

    The deviation is learned through its logarithm, between two bounds that it nears smoothly. Data are centred and
    divided by one number, which :meth:`standardise` sets; the bounds and ``sigma_init`` are in its units. Everything
    that goes in or comes out is in the units of the data.

    Args:
        f: network from latents (n, dim) to points (n, ...).
        latent: law of the latent.
        sigma_init: deviation before training, in units of the data's scale; start large, or encoders collapse.
        sigma_min, sigma_max: bounds.
        per_dim: number of coordinates, for a deviation of each; ``None`` for one of all. On constant coordinates it
            falls to ``sigma_min`` whatever the perturbation, so that should be about half of the perturbation.

    Raises:
        ValueError: for bounds that do not leave room for ``sigma_init``.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023, section 2.

    Examples:
        >>> line = LatentGaussianGenerator(nn.Linear(1, 3), NormalLatent(1))
        >>> x = line.sample(5, torch.Generator().manual_seed(0))
        >>> x.shape, bool((line.log_prob(x, "quadrature", 512) - line.log_prob(x, "exact")).abs().max() < 1e-3)
        (torch.Size([5, 3]), True)
    """

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        f: nn.Module,
        latent: Latent,
        sigma_init: float = 1.0,
        sigma_min: float = 1e-3,
        sigma_max: float = 10.0,
        *,
        per_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_number("sigma_min", sigma_min, low=0, open_low=True)
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {sigma_min:g} and {sigma_max:g}")
        if not sigma_min < sigma_init < sigma_max:
            raise ValueError(f"sigma_init must be in ({sigma_min:g}, {sigma_max:g}), got {sigma_init:g}")
        self.f, self.latent = f, latent
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        n = 1 if per_dim is None else int(check_number("per_dim", per_dim, low=1, integer=True))
        self.raw = nn.Parameter(torch.full((n,), self._to_raw(math.log(sigma_init))))
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def _to_raw(self, log_sigma: float) -> float:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        above = math.exp(log_sigma - low)
        return low + math.log((above - 1) / (1 - above * math.exp(low - high)))

    @property
    def log_sigma(self) -> Float[Tensor, " one_or_d"]:
        """Log-deviation in units of the data's scale; the identity of ``raw`` but near the bounds."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return low + F.softplus(self.raw - low) - F.softplus(self.raw - high)

    @property
    def sigma(self) -> float:
        """Deviation of the noise in the units of the data; the root mean square of several."""
        return float(self.log_sigma.detach().double().exp().square().mean().sqrt() * self.scale)

    @torch.no_grad()
    def standardise(self, location: Float[Tensor, "*shape"], scale: float) -> None:
        """Set the centre and the one scale of the data."""
        check_number("scale", scale, low=0, open_low=True)
        self.location = location.detach().flatten().to(self.raw)
        self.scale = torch.as_tensor(scale).to(self.raw)

    def inner(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Return points centred and in units of the scale."""
        centre = self.location if self.location.ndim == 0 else self.location.view(x.shape[1:])
        return (x - centre) / self.scale

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, *, with_noise: bool = False
    ) -> Float[Tensor, "n *shape"]:
        """Draw from the law of f(Z), or with noise from that of the data as they were perturbed.

        Args:
            n: number of points.
            generator: of all draws.
            with_noise: add the noise; it is not part of the estimate.
        """
        check_number("n", n, low=1, integer=True)
        z = self.latent.sample(n, self.raw, generator)
        x = torch.cat([self.f(part) for part in z.split(4096)])
        if with_noise:
            device = x.device if generator is None else generator.device
            eps = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
            x = x + self._spread(x) * eps
        centre = self.location if self.location.ndim == 0 else self.location.view(x.shape[1:])
        return centre + self.scale * x

    def _spread(self, x: Tensor) -> Tensor:
        sigma = self.log_sigma.exp()
        return sigma if len(sigma) == 1 else sigma.view(x.shape[1:])

    def log_likelihood(
        self, x: Float[Tensor, "n *shape"], z: Float[Tensor, "*draws n dim"]
    ) -> Float[Tensor, "*draws n"]:
        r"""Return :math:`\log \phi_\sigma(x - f(z))` of standardised points."""
        out = self.f(z.reshape(-1, z.shape[-1])).flatten(1).view(*z.shape[:-1], -1)
        return self._log_phi(x.flatten(1), out)

    def _log_phi(self, x: Tensor, mean: Tensor, *, pairs: bool = False) -> Tensor:
        """Log-density of points around means: of each pair where ``pairs``, else one by one."""
        log_sigma = self.log_sigma
        d = x.shape[-1]
        if len(log_sigma) not in (1, d):
            raise ValueError(f"per_dim={len(log_sigma)} does not fit points of {d} coordinates")
        x, mean = (t * (-log_sigma).exp() for t in (x, mean))
        if pairs:  # without products, which cancel digits where the deviation is small
            squared = torch.cdist(x, mean, compute_mode="donot_use_mm_for_euclid_dist").square()
        else:
            squared = (x - mean).square().sum(-1)
        constant = log_sigma.sum() * (d / len(log_sigma)) + 0.5 * d * math.log(2 * math.pi)
        return -0.5 * squared - constant

    # -- the integral, three ways ----------------------------------------------------------------------------------

    def quadrature(
        self, x: Float[Tensor, "n *shape"], nodes: int, shift: Float[Tensor, " intrinsic"]
    ) -> Float[Tensor, " n"]:
        """Return the log-density of standardised points, summed over a grid of latents."""
        grid = self.latent.nodes(nodes, shift)
        mean = self.f(grid.z).flatten(1)
        parts = [self._log_phi(part, mean, pairs=True) for part in x.flatten(1).split(max(1, _ENTRIES // len(mean)))]
        return torch.cat([(p + grid.log_weight).logsumexp(1) for p in parts])

    @torch.no_grad()
    def resolution(self, nodes: int) -> float:
        """Return the deviation over twice the largest step of the grid's image: below 1, the grid is too coarse."""
        shift = torch.full((self.latent.intrinsic,), 0.5, dtype=self.raw.dtype, device=self.raw.device)
        # Chords of a coarse grid cut corners: the slope is that of a fine one.
        grid = self.latent.nodes(max(nodes, _FINE), shift)
        coarser = (math.prod(grid.grid[1:]) / nodes) ** (1 / self.latent.intrinsic)
        step = coarser * float(grid.step(self.f(grid.z).flatten(1)))
        return float(self.log_sigma.min().exp()) / (2 * step) if step > 0 else math.inf

    def bound(
        self,
        x: Float[Tensor, "n *shape"],
        encoder: nn.Module,
        draws: int = 1,
        generator: torch.Generator | None = None,
        *,
        doubly: bool = False,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "draws n"] | None]:
        """Return the lower bound of the log-density of standardised points, and the log-weights of several draws.

        With several charts the bounds of their densities are added up; the log-weights are those of the largest.
        """
        prior = self.latent.latent if isinstance(self.latent, Charts) else self.latent
        if not isinstance(prior, NormalLatent):
            raise ValueError(
                f"a Gaussian encoder needs a normal latent, got {type(prior).__name__}; use 'quadrature' with this one"
            )
        check_number("draws", draws, low=1, integer=True)
        if not isinstance(self.latent, Charts):
            return self._bound(x, encoder(x), prior, lambda z: z, draws, generator, doubly)
        bounds, weights = [], []
        for k in range(self.latent.charts):
            tag = self.latent.tag(x.new_zeros(len(x), 0), k)
            one, log_w = self._bound(x, encoder(x, tag), prior, self._tagged(k), draws, generator, doubly)
            bounds.append(one + self.latent.log_weights[k])
            weights.append(log_w)
        stacked = torch.stack(bounds)
        if weights[0] is None:
            return stacked.logsumexp(0), None
        largest = stacked.argmax(0)
        return stacked.logsumexp(0), torch.stack(weights)[largest, :, torch.arange(len(x), device=x.device)].T

    def _tagged(self, chart: int) -> Callable[[Tensor], Tensor]:
        charts = cast("Charts", self.latent)
        return lambda z: charts.tag(z, chart)

    def _bound(
        self,
        x: Tensor,
        q: DiagonalGaussian,
        prior: NormalLatent,
        tag: Callable[[Tensor], Tensor],
        draws: int,
        generator: torch.Generator | None,
        doubly: bool,
    ) -> tuple[Tensor, Tensor | None]:
        if q.mu.shape[-1] != prior.dim:
            raise ValueError(f"the encoder must give {prior.dim} means and log-variances, got {q.mu.shape[-1]}")
        if draws == 1:
            return elbo(lambda z: self.log_likelihood(x, tag(z)), q, generator=generator).bound, None
        log_w = iwae(lambda z: self.log_likelihood(x, tag(z)) + prior.log_prob(z), q, draws, generator, doubly=doubly)
        return importance_bound(log_w), log_w

    # -- for users: the units of the data --------------------------------------------------------------------------

    def elbo(
        self,
        x: Float[Tensor, "n *shape"],
        encoder: nn.Module,
        K: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        r"""Lower bound of the log-density of every point, from K draws of the encoder.

        With one draw the divergence is exact, :math:`E_q \log \phi_\sigma(x - f(z)) - KL(q \,\|\, P_Z)`; with several
        it is the importance-weighted bound, whose gradient is doubly reparameterised from K = 11 on.
        """
        bound, _ = self.bound(self.inner(x), encoder, K, generator, doubly=K > _DOUBLY)
        return bound - self._unit(x)

    def log_weights(
        self,
        x: Float[Tensor, "n *shape"],
        encoder: nn.Module,
        K: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "K n"]:
        """Return the log-weights of K draws of the encoder, for
        :func:`holdfast.distribution.variational.effective_sample_size`."""
        check_number("K", K, low=2, integer=True)
        _, log_w = self.bound(self.inner(x), encoder, K, generator)
        return cast("Tensor", log_w) - self._unit(x)

    @torch.no_grad()
    def log_prob(
        self,
        x: Float[Tensor, "n *shape"],
        method: LikelihoodMethod = "quadrature",
        K: int = 512,
        *,
        encoder: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        r"""Log-density of every point under the noisy law. Densities of data perturbed differently do not compare.

        Args:
            x: points.
            method: "quadrature", a sum over K nodes, for latents of at most two dimensions; "iwae", the lower bound
                from K draws of the encoder; "is", K draws, half from the encoder and half from the prior, whose weights
                are bounded where the encoder is too narrow (all from the prior without one); "exact", for f an
                ``nn.Linear`` and a normal latent.
            K: nodes or draws.
            encoder: posterior that proposes the draws.
            generator: of the draws.

        Raises:
            ValueError: for a method that this latent, network or missing encoder does not allow.

        Warns:
            UserWarning: where the nodes lie too far apart for the deviation.
        """
        check_choice("method", method, ["quadrature", "iwae", "is", "exact"])
        inner = self.inner(x)
        if method == "exact":
            return self._exact(inner) - self._unit(x)
        if method == "iwae":
            if encoder is None:
                raise ValueError("method='iwae' needs encoder, which proposes the draws")
            return self.bound(inner, encoder, K, generator)[0] - self._unit(x)
        if method == "is":
            return self._importance(inner, K, encoder, generator) - self._unit(x)
        if (ratio := self.resolution(K)) < 1:
            warnings.warn(
                f"{K} nodes lie too far apart for the deviation {self.sigma:.3g}: take about "
                f"{math.ceil(K / ratio**self.latent.intrinsic)}",
                UserWarning,
                stacklevel=2,
            )
        shift = torch.full((self.latent.intrinsic,), 0.5, dtype=inner.dtype, device=inner.device)
        return self.quadrature(inner, K, shift) - self._unit(x)

    def _unit(self, x: Tensor) -> Tensor:
        return math.prod(x.shape[1:]) * self.scale.log()

    def _exact(self, x: Tensor) -> Tensor:
        if not isinstance(self.f, nn.Linear) or not isinstance(self.latent, NormalLatent):
            raise ValueError("method='exact' needs f to be an nn.Linear and a normal latent")
        f = self.f
        mean = x.new_zeros(f.out_features) if f.bias is None else f.bias.to(x)
        noise = (2 * self.log_sigma).exp().to(x).expand(f.out_features)
        return LowRankMultivariateNormal(mean, f.weight.to(x), noise).log_prob(x)

    def _importance(self, x: Tensor, K: int, encoder: nn.Module | None, generator: torch.Generator | None) -> Tensor:
        check_number("K", K, low=2, integer=True)
        if encoder is None:
            z = self.latent.sample(K * len(x), x, generator).view(K, len(x), -1)
            return importance_bound(self.log_likelihood(x, z))
        if not isinstance(self.latent, NormalLatent):
            raise ValueError("method='is' with an encoder needs one chart and a normal latent")
        q, half = encoder(x), K // 2
        near = q.sample(generator, K - half)
        far = self.latent.sample(half * len(x), x, generator).view(half, len(x), -1)
        z = torch.cat([near, far])
        # Draws of both kinds are weighed by the mixture they come from together (deterministic mixture weights).
        share = torch.tensor([(K - half) / K, half / K], dtype=x.dtype, device=x.device).log()
        prior = self.latent.log_prob(z)
        proposal = torch.logaddexp(share[0] + q.log_prob(z), share[1] + prior)
        return importance_bound(self.log_likelihood(x, z) + prior - proposal)
