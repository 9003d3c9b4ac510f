"""Lower bounds of a log-likelihood with latent variables, and the weight of their divergence during training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.gaussian import DiagonalGaussian, gaussian_kl, normal

__all__ = [
    "BoundTerms",
    "DiagonalGaussian",
    "KLSchedule",
    "effective_sample_size",
    "elbo",
    "free_bits",
    "gaussian_kl",
    "importance_bound",
    "iwae",
    "mirrored_divergence",
    "normalised_weights",
]


class BoundTerms(NamedTuple):
    """The two terms of an evidence lower bound, for every row.

    Attributes:
        log_likelihood: of the data given the drawn latent, (batch,).
        kl: divergence of the posterior from the prior, (batch, latent); estimated, and (batch, 1), where it has no
            closed form.
    """

    log_likelihood: Float[Tensor, " batch"]
    kl: Float[Tensor, "batch latent"]

    @property
    def bound(self) -> Float[Tensor, " batch"]:
        """The evidence lower bound of every row."""
        return self.log_likelihood - self.kl.sum(-1)


class _Law(Protocol):
    def log_prob(self, z: Tensor, /) -> Tensor: ...


def elbo(
    log_likelihood: Callable[[Tensor], Tensor],
    q: DiagonalGaussian,
    p: DiagonalGaussian | _Law | None = None,
    generator: torch.Generator | None = None,
    *,
    eps: Float[Tensor, "batch latent"] | None = None,
) -> BoundTerms:
    r"""Evidence lower bound from one draw.

    .. math:: \log p(x) \ge E_{q(z)} \log p(x \mid z) - KL(q \,\|\, p)

    The divergence is exact between Gaussians. From any other prior it is estimated by :math:`\log q(z) - \log p(z)` at
    the draw and at its mirror image about the mean of q.

    Args:
        log_likelihood: from latents (batch, latent) to :math:`\log p(x \mid z)`, (batch,).
        q: posterior of every row.
        p: prior, the standard normal by default, or anything with ``log_prob``.
        generator: of the noise.
        eps: the noise itself, where it is shared with something else.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, equation 10.

    Examples:
        >>> q = DiagonalGaussian(torch.zeros(3, 2), torch.zeros(3, 2))
        >>> elbo(lambda z: torch.zeros(len(z)), q).bound
        tensor([0., 0., 0.])
    """
    noise = normal(q.mu.shape, q.mu, generator) if eps is None else eps
    z = q.at(noise)
    if p is None or isinstance(p, DiagonalGaussian):
        kl = q.kl(p)
    else:
        kl = mirrored_divergence(q, p, noise)[:, None]
    return BoundTerms(log_likelihood(z), kl)


def mirrored_divergence(
    q: DiagonalGaussian, p: DiagonalGaussian | _Law, eps: Float[Tensor, "*draws batch latent"]
) -> Float[Tensor, "*draws batch"]:
    r"""Unbiased estimate of KL(q || p), where it has no closed form, from one draw and its mirror image about the mean.

    .. math:: \tfrac12 \sum_{z = \mu \pm s \epsilon} \log q(z) - \log p(z)

    Args:
        q: from which the draws come.
        p: anything with ``log_prob``.
        eps: standard normal noise of the draws.

    Examples:
        >>> q = DiagonalGaussian(torch.zeros(3, 2), torch.zeros(3, 2))
        >>> mirrored_divergence(q, q, torch.ones(3, 2))
        tensor([0., 0., 0.])
    """
    a, b = (q.log_prob(z) - p.log_prob(z) for z in (q.at(eps), q.at(-eps)))
    return 0.5 * (a + b)


def importance_bound(log_weights: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"]:
    r"""Log of the mean weight, :math:`\log \tfrac1K \sum_k w_k`.

    Examples:
        >>> importance_bound(torch.tensor([[0.0], [0.0]]))
        tensor([0.])
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def normalised_weights(log_weights: Float[Tensor, "draws batch"]) -> Float[Tensor, "draws batch"]:
    """Weights that sum to one over the draws.

    Examples:
        >>> normalised_weights(torch.tensor([[0.0], [0.0]])).T
        tensor([[0.5000, 0.5000]])
    """
    return log_weights.softmax(0)


def effective_sample_size(log_weights: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"]:
    r"""Number of draws that the weights are worth, :math:`1 / \sum_k \bar w_k^2`, from 1 to K.

    Examples:
        >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -1e3]]))
        tensor([2., 1.])
    """
    return 1 / normalised_weights(log_weights).square().sum(0)


def iwae(
    log_joint: Callable[[Tensor], Tensor],
    q: DiagonalGaussian,
    k: int,
    generator: torch.Generator | None = None,
    *,
    doubly: bool = False,
) -> Float[Tensor, "draws batch"]:
    r"""Log-weights of K importance draws; :func:`importance_bound` of them is the importance-weighted bound.

    .. math:: \log w_k = \log p(x, z_k) - \log q(z_k), \qquad z_k \sim q, \qquad
              E \log \tfrac1K \sum_k w_k \le \log p(x)

    Args:
        log_joint: from latents (K, batch, latent) to :math:`\log p(x, z)`, (K, batch).
        q: proposal of every row, reparameterised.
        k: number of draws K.
        doubly: let the bound's gradient reach q by the doubly reparameterised estimator, whose signal does not vanish
            for large K. Only the gradient of :func:`importance_bound` is right then, not that of single weights.

    Raises:
        ValueError: for no draws, or a joint density of another shape.

    Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016; Tucker et al., "Doubly
    reparameterized gradient estimators for Monte Carlo objectives", ICLR 2019, equation 8.

    Examples:
        >>> q = DiagonalGaussian(torch.zeros(3, 2), torch.zeros(3, 2))
        >>> importance_bound(iwae(lambda z: q.log_prob(z), q, 5, torch.Generator().manual_seed(0)))
        tensor([0., 0., 0.])
    """
    check_number("k", k, low=1, integer=True)
    z = q.sample(generator, k)
    proposal = q
    if doubly:
        # The chain through z carries the squared weight: the bound's own gradient gives one factor, this hook the
        # other; the score of q is left out because its expectation is already in the second factor.
        proposal = q.detach()
        kept: list[Tensor] = []
        if z.requires_grad:
            z.register_hook(lambda g: g * kept[0])
        log_w = _checked(log_joint(z), k, q) - proposal.log_prob(z)
        kept.append(normalised_weights(log_w.detach())[..., None])
        return log_w
    return _checked(log_joint(z), k, q) - proposal.log_prob(z)


def _checked(value: Tensor, k: int, q: DiagonalGaussian) -> Tensor:
    if value.shape != (k, *q.mu.shape[:-1]):
        raise ValueError(f"log_joint must return shape {(k, *q.mu.shape[:-1])}, got {tuple(value.shape)}")
    return value


def free_bits(kl: Float[Tensor, "batch latent"], floor: float) -> Float[Tensor, " latent"]:
    r"""Mean divergence of every latent, no less than ``floor`` nats: below it, there is nothing to gain.

    Source: Kingma et al., "Improved variational inference with inverse autoregressive flow", NeurIPS 2016, appendix C.

    Examples:
        >>> free_bits(torch.tensor([[0.0, 1.0], [0.0, 3.0]]), 0.5)
        tensor([0.5000, 2.0000])
    """
    check_number("floor", floor, low=0)
    return kl.mean(0).clamp(min=floor)


@dataclass(frozen=True)
class KLSchedule:
    r"""Weight of the divergence as a function of the step, from 0 up to ``target``.

    "linear" rises over ``warmup`` steps and stays. "cyclical" does so anew every ``period`` steps.

    Args:
        kind: "linear" or "cyclical".
        target: the weight :math:`\beta` at the end of a rise.
        warmup: steps of a rise; step ``warmup`` is the first at the target.
        period: steps of a cycle, at least ``warmup``; for "cyclical" only.

    Raises:
        ValueError: for numbers out of range, or a period where none belongs.

    Source: Bowman et al., "Generating sentences from a continuous space", CoNLL 2016; Fu et al., "Cyclical annealing
    schedule: a simple approach to mitigating KL vanishing", NAACL 2019.

    Examples:
        >>> beta = KLSchedule("cyclical", target=2.0, warmup=4, period=8)
        >>> [beta(t) for t in (0, 2, 4, 7, 8, 10)]
        [0.0, 1.0, 2.0, 2.0, 0.0, 1.0]
    """

    kind: Literal["linear", "cyclical"] = "linear"
    target: float = 1.0
    warmup: int = 0
    period: int | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ["linear", "cyclical"])
        check_number("target", self.target, low=0)
        check_number("warmup", self.warmup, low=0, integer=True)
        if (self.kind == "cyclical") != (self.period is not None):
            raise ValueError(f'period belongs to kind="cyclical", got kind={self.kind!r} and period={self.period}')
        if self.period is not None:
            check_number("period", self.period, low=max(1, self.warmup), integer=True)

    def __call__(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""
        t = step % self.period if self.period is not None else step
        return self.target * (min(1.0, t / self.warmup) if self.warmup else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments, to be written to a file; ``KLSchedule(**d)`` reads them."""
        return asdict(self)
