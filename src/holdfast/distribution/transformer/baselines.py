"""What an amortised posterior is held against: Kalman updates, particle filters, variational fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator as make_generator
from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.distribution.mixture import LOG_2PI
from holdfast.distribution.transformer.embedding import component_vectors, mixture_of_vectors
from holdfast.distribution.transformer.observations import ObservationModel
from holdfast.inference import FilterResult, smc_state_space

__all__ = ["extended_kalman", "kalman_moment_matched", "kernel_log_prob", "particle_filter", "svi_mixture"]


def kalman_moment_matched(
    prior: GaussianMixture, H: Float[Tensor, "p dim"], R: Float[Tensor, "p p"], z: Float[Tensor, "batch p"]
) -> GaussianMixture:
    """Return the Kalman update of the Gaussian with the moments of the prior.

    Examples:
        >>> prior = GaussianMixture(torch.tensor([[0.5, 0.5]]), torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2, 1, 1))
        >>> kalman_moment_matched(prior, torch.eye(1), torch.eye(1), torch.tensor([[3.0]])).mean
        tensor([[2.]])
    """
    return prior.moment_match().linear_gaussian_update(H, R, z)


def extended_kalman(
    prior: GaussianMixture,
    h: Callable[[Float[Tensor, "dim"]], Float[Tensor, "p"]],
    R: Float[Tensor, "*batch p p"],
    z: Float[Tensor, "batch p"],
    residual: Callable[[Tensor, Tensor], Tensor] = torch.sub,
) -> GaussianMixture:
    r"""Return the update of a Gaussian under :math:`z = h(x) + N(0, R)`, h linear around the prior's mean.

    Args:
        prior: (B,) mixtures; their Gaussian with the same moments is used.
        h: of one state, differentiable.
        R: noise.
        z: observations.
        residual: difference of an observation and its prediction, for angles.

    Examples:
        >>> prior = GaussianMixture.gaussian(torch.ones(1, 1), torch.eye(1))
        >>> extended_kalman(prior, torch.square, torch.eye(1), torch.tensor([[1.0]])).covariances.flatten()
        tensor([0.2000])
    """
    gaussian = prior.moment_match()
    mean = gaussian.means[..., 0, :]
    H = torch.func.vmap(torch.func.jacrev(h))(mean)
    gap = residual(z, torch.func.vmap(h)(mean))
    return gaussian.linear_gaussian_update(H, R, gap + (H @ mean[..., None])[..., 0])


def particle_filter(
    x0: GaussianMixture,
    A: Float[Tensor, "dim dim"],
    Q: Float[Tensor, "dim dim"],
    sensors: Mapping[str, ObservationModel],
    obs_series: Mapping[str, Float[Tensor, "batch time m p"]],
    n: int,
    b: Float[Tensor, "dim"] | None = None,
    generator: torch.Generator | None = None,
    *,
    store: bool = True,
) -> FilterResult:
    """Run the bootstrap filter on what a :class:`MixtureFilter` runs on: ``x0`` is before the first observation.

    Examples:
        >>> from holdfast.distribution.transformer import OutlierObservation
        >>> x0, eye = GaussianMixture.gaussian(torch.zeros(4, 1), torch.eye(1)), torch.eye(1)
        >>> found = particle_filter(x0, eye, eye, {"z": OutlierObservation()}, {"z": torch.zeros(4, 3, 1, 1)}, 50)
        >>> found.mean().shape
        torch.Size([4, 3, 1])
    """
    root = torch.linalg.cholesky_ex(Q)[0] if bool(torch.linalg.eigvalsh(Q)[0] > 0) else _root(Q)
    names, sizes = list(obs_series), [z.shape[2:] for z in obs_series.values()]
    joined = torch.cat([z.flatten(2) for z in obs_series.values()], -1)

    def move(x: Tensor, _: int, g: torch.Generator | None) -> Tensor:
        eps = torch.randn(x.shape, generator=g, device=x.device, dtype=x.dtype)
        moved = x @ A.mT + eps @ root.mT
        return moved if b is None else moved + b

    def loglik(y: Tensor, x: Tensor, _: int) -> Tensor:
        parts = y.split([math.prod(s) for s in sizes], -1)
        each = [sensors[k].log_prob(p.unflatten(-1, tuple(s)), x).sum(-1) for k, p, s in zip(names, parts, sizes)]
        return torch.stack(each).sum(0)

    def init(batch: int, count: int, g: torch.Generator | None) -> Tensor:
        return move(x0.sample(count, g).transpose(0, 1), 0, g)

    return smc_state_space(init, move, loglik, joined, n, generator=generator, store=store)


def _root(Q: Tensor) -> Tensor:
    """A square root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(Q)
    return vectors * values.clamp_min(0).sqrt()


def kernel_log_prob(
    found: FilterResult, x: Float[Tensor, "batch time dim"], bandwidth: float
) -> Float[Tensor, "batch time"]:
    """Return the log-density of states under weighted particles with a Gaussian kernel.

    Examples:
        >>> from holdfast.distribution.transformer import OutlierObservation
        >>> x0, eye = GaussianMixture.gaussian(torch.zeros(4, 1), torch.eye(1)), torch.eye(1)
        >>> found = particle_filter(x0, eye, eye, {"z": OutlierObservation()}, {"z": torch.zeros(4, 3, 1, 1)}, 50)
        >>> kernel_log_prob(found, torch.zeros(4, 3, 1), 0.3).shape
        torch.Size([4, 3])
    """
    check_number("bandwidth", bandwidth, low=0, open_low=True)
    gap = (x[:, :, None] - found.particles) / bandwidth
    each = -0.5 * (gap.square() + LOG_2PI).sum(-1) - x.shape[-1] * math.log(bandwidth)
    return torch.logsumexp(each + found.weights.clamp_min(1e-300).log(), -1).to(x.dtype)


def svi_mixture(
    log_joint: Callable[[Float[Tensor, "sample batch dim"]], Float[Tensor, "sample batch"]],
    start: GaussianMixture,
    *,
    steps: int = 200,
    lr: float = 0.05,
    draws: int = 8,
    generator: torch.Generator | None = None,
) -> GaussianMixture:
    r"""Fit mixtures to one posterior each by Adam on the reparameterised bound, component by component.

    .. math:: \sum_k w_k\, E_{N_k}[\log p(x, z) - \log q(x)]

    Args:
        log_joint: of states (S, B, D).
        start: (B,) mixtures to start from, usually the priors.
        steps, lr: of Adam.
        draws: of every component at a step.
        generator: random state.

    Source: Hoffman et al., "Stochastic variational inference", JMLR 2013; Morningstar, Vikram et al., "Automatic
    differentiation variational inference with mixtures", AISTATS 2021, for the stratified bound.

    Examples:
        >>> start = GaussianMixture.gaussian(torch.zeros(1, 1), torch.eye(1))
        >>> target = torch.distributions.Normal(2.0, 0.5)
        >>> found = svi_mixture(lambda x: target.log_prob(x).sum(-1), start, generator=torch.Generator().manual_seed(0))
        >>> round(float(found.mean), 1)
        2.0
    """
    generator = make_generator(0, start.means.device) if generator is None else generator
    K, d = start.n_components, start.dim
    v = component_vectors(start.detach()).clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=lr)
    for _ in range(steps):
        q = mixture_of_vectors(v, d)
        eps = torch.randn(draws, *q.means.shape, generator=generator, device=v.device, dtype=v.dtype)
        x = (q.means + (q.scale_tril @ eps[..., None])[..., 0]).movedim(-2, 1).flatten(0, 1)
        gain = (log_joint(x) - q.log_prob(x)).unflatten(0, (draws, K)).mean(0)
        optimizer.zero_grad()
        (-(q.weights.movedim(-1, 0) * gain).sum()).backward()
        optimizer.step()
    return mixture_of_vectors(v.detach(), d)
