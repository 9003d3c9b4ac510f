"""Laws of a generator's latent: how to draw from them, and nodes that integrate over them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.gaussian import normal

__all__ = ["Charts", "CircleLatent", "Latent", "Nodes", "NormalLatent", "UniformLatent"]

_REACH = 6.0


class Nodes(NamedTuple):
    """Points of a regular grid over a latent, and what the integral weighs them by.

    Attributes:
        z: (nodes, dim), in the grid's order.
        log_weight: (nodes,).
        grid: nodes along every axis; the first is the charts', of length 1 without.
        closed: along every axis but the charts', whether the last node is next to the first.
    """

    z: Float[Tensor, "nodes dim"]
    log_weight: Float[Tensor, " nodes"]
    grid: tuple[int, ...]
    closed: tuple[bool, ...]

    def step(self, points: Float[Tensor, "nodes d"]) -> Float[Tensor, ""]:
        """Return the largest distance of images of neighbouring nodes, of those the weights do not neglect."""
        laid = points.view(*self.grid, -1)
        kept = (self.log_weight > self.log_weight.max() - 0.5 * (_REACH - 2) ** 2).view(self.grid)
        largest = points.new_zeros(())
        for axis, closed in enumerate(self.closed, start=1):
            n = self.grid[axis]
            rows = torch.arange(n if closed else n - 1, device=points.device)
            there = (rows + 1) % n
            distance = (laid.index_select(axis, there) - laid.index_select(axis, rows)).norm(dim=-1)
            both = kept.index_select(axis, there) & kept.index_select(axis, rows)
            largest = torch.maximum(largest, (distance * both).max())
        return largest


class Latent(nn.Module, ABC):
    """Law of the latent z.

    Attributes:
        dim: length of z as the generator's network reads it.
        intrinsic: dimension of the set that z lives on.
        charts: number of components; one, but for :class:`Charts`.
    """

    dim: int
    intrinsic: int
    charts: int = 1

    @abstractmethod
    def sample(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw latents of the type and on the device of ``like``."""

    @abstractmethod
    def nodes(self, m: int, shift: Float[Tensor, " intrinsic"]) -> Nodes:
        """Return about ``m`` nodes, the grid moved by ``shift``, in [0, 1) of its spacing.

        Over a uniform shift, a weighted sum over the nodes is an unbiased estimate of the integral.
        """

    def extra_repr(self) -> str:
        """Show the dimension."""
        return f"dim={self.dim}, intrinsic={self.intrinsic}"

    def _axis(self, m: int) -> int:
        if self.intrinsic > 2:
            raise ValueError(
                f"a grid covers latents of at most 2 dimensions, got {self.intrinsic}; use 'vae' or 'iwae'"
            )
        check_number("nodes", m, low=4, integer=True)
        return m if self.intrinsic == 1 else max(2, math.isqrt(m))


class NormalLatent(Latent):
    r"""Standard normal latent, :math:`z \sim \mathcal N(0, I)`.

    Nodes are a grid on :math:`[-6, 6]^d` weighed by the density: for smooth integrands its error falls faster than any
    power of the spacing.

    Args:
        dim: length of z.

    Examples:
        >>> nodes = NormalLatent(1).nodes(64, torch.tensor([0.3]))
        >>> round(float((nodes.log_weight.exp() * nodes.z[:, 0] ** 2).sum()), 5)
        1.0
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.intrinsic = int(check_number("dim", dim, low=1, integer=True))

    def sample(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw from N(0, I)."""
        return normal((n, self.dim), like, generator)

    def log_prob(self, z: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any"]:
        """Return the log-density."""
        return -0.5 * z.square().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)

    def nodes(self, m: int, shift: Float[Tensor, " intrinsic"]) -> Nodes:
        """Return a grid weighed by the density."""
        n = self._axis(m)
        spacing = 2 * _REACH / n
        axis = torch.arange(n, dtype=shift.dtype, device=shift.device)
        z = torch.cartesian_prod(*[(axis + u) * spacing - _REACH for u in shift]).view(-1, self.dim)
        grid = (1, *[n] * self.dim)
        return Nodes(z, self.log_prob(z) + self.dim * math.log(spacing), grid, (False,) * self.dim)


class UniformLatent(Latent):
    """Uniform latent on the unit cube.

    Args:
        dim: length of z.

    Examples:
        >>> UniformLatent(2).nodes(16, torch.tensor([0.5, 0.5])).z.mean(0)
        tensor([0.5000, 0.5000])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = self.intrinsic = int(check_number("dim", dim, low=1, integer=True))

    def sample(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw from the cube."""
        device = like.device if generator is None else generator.device
        return torch.rand((n, self.dim), generator=generator, device=device, dtype=like.dtype).to(like.device)

    def nodes(self, m: int, shift: Float[Tensor, " intrinsic"]) -> Nodes:
        """Return a grid of equal weights."""
        n = self._axis(m)
        axis = torch.arange(n, dtype=shift.dtype, device=shift.device)
        z = torch.cartesian_prod(*[(axis + u) / n for u in shift]).view(-1, self.dim)
        weight = z.new_full((len(z),), -self.dim * math.log(n))
        return Nodes(z, weight, (1, *[n] * self.dim), (False,) * self.dim)


class CircleLatent(Latent):
    r"""Uniform latent on the circle, handed to the network as :math:`(\cos a, \sin a)`: for closed curves.

    Examples:
        >>> CircleLatent().nodes(4, torch.tensor([0.0])).z.round(decimals=3)
        tensor([[ 1.,  0.],
                [-0.,  1.],
                [-1., -0.],
                [ 0., -1.]])
    """

    dim, intrinsic = 2, 1

    def sample(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Draw points of the circle."""
        device = like.device if generator is None else generator.device
        return _circle(torch.rand(n, generator=generator, device=device, dtype=like.dtype).to(like.device))

    def nodes(self, m: int, shift: Float[Tensor, " intrinsic"]) -> Nodes:
        """Return equally spaced points of equal weights."""
        n = self._axis(m)
        z = _circle((torch.arange(n, dtype=shift.dtype, device=shift.device) + shift) / n)
        return Nodes(z, z.new_full((n,), -math.log(n)), (1, n), (True,))


class Charts(Latent):
    r"""Several pieces, each with a latent of its own: :math:`k \sim \pi`, then :math:`z_k`; for data in pieces.

    The network reads :math:`z` with the one-hot of k behind it. The weights :math:`\pi` are learned. A single normal
    latent would leave bridges between the pieces.

    Args:
        latent: law of z in every piece.
        charts: number of pieces, at least 2.

    Examples:
        >>> pieces = Charts(NormalLatent(1), 3)
        >>> pieces.sample(5, torch.zeros(1), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 4])
    """

    def __init__(self, latent: Latent, charts: int) -> None:
        super().__init__()
        if latent.charts > 1:
            raise ValueError("charts of charts are charts: give the latent of one piece")
        self.latent, self.charts = latent, int(check_number("charts", charts, low=2, integer=True))
        self.dim, self.intrinsic = latent.dim + self.charts, latent.intrinsic
        self.logits = nn.Parameter(torch.zeros(self.charts))

    @property
    def log_weights(self) -> Float[Tensor, " charts"]:
        """Log of the weight of every piece."""
        return self.logits.log_softmax(0)

    def tag(self, z: Float[Tensor, "*any inner"], chart: int) -> Float[Tensor, "*any dim"]:
        """Return z with the one-hot of a piece behind it."""
        one_hot = nn.functional.one_hot(torch.tensor(chart, device=z.device), self.charts).to(z.dtype)
        return torch.cat([z, one_hot.expand(*z.shape[:-1], -1)], dim=-1)

    @torch.no_grad()
    def sample(self, n: int, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Draw a piece by its weight, then z."""
        device = like.device if generator is None else generator.device
        u = torch.rand(n, generator=generator, device=device, dtype=like.dtype).to(like.device)
        ends = self.log_weights.exp().cumsum(0)[:-1].to(like)
        z = self.latent.sample(n, like, generator)
        return torch.cat([z, nn.functional.one_hot(torch.searchsorted(ends, u), self.charts).to(z.dtype)], dim=-1)

    def nodes(self, m: int, shift: Float[Tensor, " intrinsic"]) -> Nodes:
        """Return the nodes of every piece, ``m`` in each."""
        one = self.latent.nodes(m, shift)
        z = torch.cat([self.tag(one.z, k) for k in range(self.charts)])
        weight = (self.log_weights.to(one.z)[:, None] + one.log_weight).flatten()
        return Nodes(z, weight, (self.charts, *one.grid[1:]), one.closed)


def _circle(u: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    return torch.stack([(2 * math.pi * u).cos(), (2 * math.pi * u).sin()], dim=-1)
