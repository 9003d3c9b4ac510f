"""Transport between mixtures of Gaussians, by transport of whole components."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_finite
from holdfast.metrics.distances.exact import optimal_plan, transport_cost
from holdfast.metrics.distances.gaussian import gaussian_transport

__all__ = ["GaussianComponents", "GaussianMixtureLike", "gmm_plan", "gmm_w2"]


class GaussianMixtureLike(Protocol):
    """A mixture of Gaussians, or a batch of them: ``holdfast.distribution.GaussianMixture`` is one."""

    @property
    def weights(self) -> Tensor:
        """(*batch, K), adding up to 1."""
        ...

    @property
    def means(self) -> Tensor:
        """(*batch, K, d)."""
        ...

    @property
    def covariances(self) -> Tensor:
        """(*batch, K, d, d)."""
        ...


class GaussianComponents(NamedTuple):
    """The components of mixtures: weights (*batch, K), means (*batch, K, d), covariances (*batch, K, d, d)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor


def gmm_w2(p: GaussianMixtureLike, q: GaussianMixtureLike) -> Float[Tensor, "*batch"]:
    r"""Wasserstein-2 distance of mixtures of Gaussians over plans that are mixtures themselves, with gradients.

    .. math:: MW_2^2(p, q) = \min_{\pi \in \Pi(w, v)} \sum_{kl} \pi_{kl}\,
              W_2^2\bigl(\mathcal N(m_k, S_k), \mathcal N(m'_l, S'_l)\bigr)

    It is no smaller than the Wasserstein-2 distance, the same for single Gaussians, and a metric of its own. The
    programme over the components is solved exactly, on the CPU. At distance 0, the gradient is taken as 0.

    Args:
        p, q: anything with ``weights``, ``means`` and ``covariances``, of one batch shape: a
            ``holdfast.distribution.GaussianMixture``, or :class:`GaussianComponents`.

    Raises:
        TypeError: for parts of several types.
        ValueError: for shapes that do not fit, weights off the simplex by more than 1e-4, or covariances that are not
            symmetric positive semi-definite.

    Source: Delon and Desolneux, "A Wasserstein-type Distance in the Space of Gaussian Mixture Models", SIAM J. Imaging
    Sciences 2020, proposition 4.

    Examples:
        >>> two = GaussianComponents(
        ...     torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1, 1)
        ... )
        >>> one = GaussianComponents(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> gmm_w2(two, one)
        tensor(2.)
    """
    cost, a, b, shape = _programme(p, q)
    squared = transport_cost(cost, a, b).clamp_min(0)
    # The root has no slope at 0.
    safe = torch.where(squared > 0, squared, 1)
    return torch.where(squared > 0, safe.sqrt(), 0).reshape(shape)


def gmm_plan(p: GaussianMixtureLike, q: GaussianMixtureLike) -> Float[Tensor, "*batch k l"]:
    """Return how much of each component of ``p`` goes to each of ``q`` under :func:`gmm_w2`.

    With :func:`~holdfast.metrics.gaussian_geodesic` on the pairs, it makes the shortest way between the mixtures.

    Examples:
        >>> two = GaussianComponents(
        ...     torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1, 1)
        ... )
        >>> gmm_plan(two, two)
        tensor([[0.3000, 0.0000],
                [0.0000, 0.7000]])
    """
    cost, a, b, shape = _programme(p, q)
    return optimal_plan(cost, a, b)[0].reshape(*shape, *cost.shape[1:])


def _programme(p: GaussianMixtureLike, q: GaussianMixtureLike) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    """Return the costs (N, K, L) of pairs of components, both weights, and the shape of the batch."""
    for name, m in (("p", p), ("q", q)):
        w = m.weights
        if m.means.ndim < 2 or m.means.shape[:-1] != w.shape or m.covariances.shape[:-1] != m.means.shape:
            raise ValueError(
                f"{name} must have weights (*batch, K), means (*batch, K, d) and covariances (*batch, K, d, d), got "
                f"{tuple(w.shape)}, {tuple(m.means.shape)} and {tuple(m.covariances.shape)}"
            )
        check_finite(f"weights of {name}", w.detach())
        if bool((w < 0).any()) or bool(((w.sum(-1) - 1).abs() > 1e-4).any()):
            raise ValueError(f"weights of {name} must not be negative and add up to 1")
    shape = p.weights.shape[:-1]
    if q.weights.shape[:-1] != shape or p.means.shape[-1] != q.means.shape[-1]:
        raise ValueError(
            f"p and q must be of one batch and dimension, got means {tuple(p.means.shape)} and {tuple(q.means.shape)}"
        )
    cost = gaussian_transport(
        p.means[..., :, None, :],
        p.covariances[..., :, None, :, :],
        q.means[..., None, :, :],
        q.covariances[..., None, :, :, :],
    )
    a, b = (m.weights / m.weights.sum(-1, keepdim=True) for m in (p, q))
    return cost.reshape(-1, *cost.shape[-2:]), a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), shape
