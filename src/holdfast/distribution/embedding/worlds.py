"""Families of laws whose distances are known: what codes of laws are tested on."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator

__all__ = ["GaussianLaws", "PoissonLaws", "make_planar_gaussians", "make_rotated_gaussians"]


class GaussianLaws:
    """Gaussian laws; every draw is new.

    Args:
        mean: (laws, d).
        root: (laws, d, d) with ``root @ root.T`` the covariance.

    Examples:
        >>> laws = GaussianLaws(torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
        >>> laws.draw(torch.tensor([0, 3]), 5, torch.Generator()).shape
        torch.Size([2, 5, 2])
    """

    def __init__(self, mean: Float[Tensor, "laws d"], root: Float[Tensor, "laws d d"]) -> None:
        if mean.ndim != 2 or root.shape != (*mean.shape, mean.shape[1]):
            raise ValueError(f"means (n, d) need roots (n, d, d), got {tuple(mean.shape)} and {tuple(root.shape)}")
        self.mean, self.root = mean, root

    @property
    def covariance(self) -> Float[Tensor, "laws d d"]:
        """Covariance of every law."""
        product = self.root @ self.root.mT
        return (product + product.mT) / 2

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, rows: Int[Tensor, " batch"], size: int, generator: torch.Generator) -> Float[Tensor, "batch size d"]:
        """Return ``size`` new points of each law in ``rows``."""
        rows = rows.to(self.mean.device)
        mean, root = self.mean[rows].to(generator.device), self.root[rows].to(generator.device)
        noise = torch.randn(len(rows), size, mean.shape[1], generator=generator, device=generator.device)
        return mean[:, None] + noise @ root.mT


class PoissonLaws:
    """Poisson laws of given rates, as counts cut at ``largest``; every draw is new.

    Examples:
        >>> PoissonLaws(torch.tensor([0.5, 4.0])).draw(torch.tensor([1]), 10, torch.Generator()).shape
        torch.Size([1, 10, 1])
    """

    def __init__(self, rate: Float[Tensor, " laws"], largest: int = 15) -> None:
        self.rate, self.largest = rate, largest

    def __len__(self) -> int:
        return len(self.rate)

    def draw(self, rows: Int[Tensor, " batch"], size: int, generator: torch.Generator) -> Float[Tensor, "batch size 1"]:
        """Return ``size`` new counts of each law in ``rows``."""
        rate = self.rate[rows.to(self.rate.device)].to(generator.device)
        drawn = torch.poisson(rate[:, None].expand(-1, size), generator=generator)
        return drawn.clamp_max(self.largest).unsqueeze(-1)


def _log_uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.exp(math.log(low) + math.log(high / low) * torch.rand(shape, generator=rng))


def make_planar_gaussians(n: int, *, seed: int) -> GaussianLaws:
    """Return Gaussians of the plane: means uniform on [-1.5, 1.5]^2, principal deviations log-uniform on [0.2, 1.5].

    Examples:
        >>> make_planar_gaussians(3, seed=0).mean.shape
        torch.Size([3, 2])
    """
    check_number("n", n, low=1, integer=True)
    rng = generator(seed)
    mean = 3 * torch.rand(n, 2, generator=rng) - 1.5
    angle = math.pi * torch.rand(n, generator=rng)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], 1)
    return GaussianLaws(mean, turn * _log_uniform((n, 1, 2), 0.2, 1.5, rng))


def make_rotated_gaussians(n: int, features: int = 10, *, seed: int, rotation_seed: int = 0) -> GaussianLaws:
    """Return zero-mean Gaussians: two directions of deviations log-uniform on [0.3, 3], the others 1, then one turn.

    The turn depends on ``rotation_seed`` alone. The mean of a sample tells nothing of its law.

    Examples:
        >>> make_rotated_gaussians(3, seed=0).root.shape
        torch.Size([3, 10, 10])
    """
    check_number("n", n, low=1, integer=True)
    check_number("features", features, low=3, integer=True)
    deviations = torch.ones(n, 1, features)
    deviations[:, :, :2] = _log_uniform((n, 1, 2), 0.3, 3.0, generator(seed))
    q, r = torch.linalg.qr(torch.randn(features, features, generator=generator(rotation_seed)))
    return GaussianLaws(torch.zeros(n, features), (q * r.diagonal().sign()) * deviations)
