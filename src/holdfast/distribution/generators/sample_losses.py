"""Distances of two samples as losses: batches of sets of points, with gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kernel_loss", "sinkhorn_loss", "sliced_loss"]


def _squared(x: Tensor, y: Tensor) -> Float[Tensor, "batch n m"]:
    cross = x @ y.mT
    return (x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None] - 2 * cross).clamp_min(0)


def sliced_loss(
    x: Float[Tensor, "batch n d"],
    y: Float[Tensor, "batch n d"],
    n_proj: int = 100,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    r"""Squared sliced Wasserstein-2 distance of sets of one size, along ``n_proj`` random lines.

    Examples:
        >>> x = torch.randn(2, 5, 3)
        >>> sliced_loss(x, x).abs().max().item()
        0.0
    """
    lines = torch.randn(x.shape[2], n_proj, generator=generator, device=x.device, dtype=x.dtype)
    lines = lines / lines.norm(dim=0)
    u, v = ((p @ lines).mT.contiguous().sort(-1).values for p in (x, y))
    return (u - v).square().mean((1, 2))


def kernel_loss(x: Float[Tensor, "batch n d"], y: Float[Tensor, "batch m d"]) -> Float[Tensor, " batch"]:
    r"""Squared mean discrepancy (biased, never negative) of a Gaussian kernel at the median distance of ``x``.

    Examples:
        >>> x = torch.randn(2, 5, 3)
        >>> bool((kernel_loss(x, x).abs() < 1e-6).all())
        True
    """
    xx = _squared(x, x)
    n = x.shape[1]
    apart = ~torch.eye(n, dtype=torch.bool, device=x.device)
    median = xx.detach()[:, apart].median(1).values.clamp_min(1e-12)[:, None, None]
    k = [torch.exp(-d / (2 * median)).mean((1, 2)) for d in (xx, _squared(y, y), _squared(x, y))]
    return k[0] + k[1] - 2 * k[2]


def sinkhorn_loss(
    x: Float[Tensor, "batch n d"], y: Float[Tensor, "batch m d"], eps: float = 0.05, iterations: int = 40
) -> Float[Tensor, " batch"]:
    r"""Debiased Sinkhorn divergence with squared cost; it tends to the squared Wasserstein-2 distance as eps falls.

    .. math:: S_\epsilon(x, y) = \mathrm{OT}_\epsilon(x, y) - \tfrac12 \mathrm{OT}_\epsilon(x, x) -
              \tfrac12 \mathrm{OT}_\epsilon(y, y)

    The entropic weight is ``eps`` times the mean squared distance between the sets. Gradients are those of the
    potentials' last step (the envelope theorem), so that memory does not grow with ``iterations``.

    Source: Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS 2019.

    Examples:
        >>> x = torch.randn(1, 8, 2)
        >>> sinkhorn_loss(x, x + 3).round(decimals=2)
        tensor([18.])
    """
    cost = _squared(x, y).detach()
    scale = cost.mean((1, 2)).clamp_min(1e-12)
    # From a coarse scale to the wanted one, and on until the potentials have settled.
    factors = [max(eps, 2.0 * 0.7**k) for k in range(iterations)]

    def potentials(c: Tensor, same: bool) -> tuple[Tensor, Tensor]:
        f, g = c.new_zeros(c.shape[:2]), c.new_zeros(c.shape[0], c.shape[2])
        for factor in factors:
            e = factor * scale
            to_f, to_g = _softmin(c, g, e), _softmin(c.mT, f, e)
            f, g = (f + to_f) / 2, (g + to_g) / 2
            if same:
                g = f
        return f, g

    e = eps * scale
    with torch.no_grad():
        f, g = potentials(cost, False)
        p = potentials(_squared(x, x), True)[0]
        q = potentials(_squared(y, y), True)[0]
    a, b = x.detach(), y.detach()
    forward = _softmin(_squared(x, b), g, e) - _softmin(_squared(x, a), p, e)
    backward = _softmin(_squared(y, a), f, e) - _softmin(_squared(y, b), q, e)
    return forward.mean(1) + backward.mean(1)


def _softmin(cost: Tensor, potential: Tensor, eps: Tensor) -> Tensor:
    e = eps[:, None, None]
    return -eps[:, None] * (torch.logsumexp((potential[:, None] - cost) / e, dim=2) - torch.tensor(cost.shape[2]).log())
