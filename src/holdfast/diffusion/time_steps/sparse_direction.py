"""A direction of few entries that tells attributes, and along which codes are moved."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_finite, check_number
from holdfast.core.random import spawn_seed
from holdfast.core.training import StepInfo, TrainResult, train

__all__ = ["SparseDirection", "project_mass"]


def project_mass(scores: Float[Tensor, "*batch dim"], mass: float) -> Float[Tensor, "*batch dim"]:
    r"""Return the nearest point with entries in [0, 1] that sum to at most ``mass``.

    .. math:: \mathrm{clip}(s - v, 0, 1) \quad\text{with the least } v \ge 0 \text{ such that the sum fits}

    Examples:
        >>> project_mass(torch.tensor([0.9, 0.5, 0.2]), 1.0).round(decimals=4)
        tensor([0.7000, 0.3000, 0.0000])
    """
    low = torch.zeros_like(scores[..., :1])
    high = scores.amax(-1, keepdim=True).clamp_min(0)
    for _ in range(50):
        middle = (low + high) / 2
        much = (scores - middle).clamp(0, 1).sum(-1, keepdim=True) > mass
        low, high = torch.where(much, middle, low), torch.where(much, high, middle)
    fits = scores.clamp(0, 1).sum(-1, keepdim=True) <= mass
    return torch.where(fits, scores, scores - high).clamp(0, 1)


class SparseDirection(nn.Module):
    r"""Logistic classifiers on a code, each with at most ``support`` entries, found by probabilistic masks.

    Entry d is kept with probability :math:`s_d`; masks are drawn by the relaxed (Gumbel) sigmoid, so that weights and
    probabilities learn together, and :math:`\sum_d s_d` is held under a density that falls from 1 to
    ``support / dim`` as a cube between 10 % and 40 % of the steps:

    .. math:: \rho + (1 - \rho)\Bigl(1 - \frac{p - 0.1}{0.3}\Bigr)^3

    Args:
        dim: entries of the code.
        support: entries that each direction keeps in the end.
        attributes: how many directions.

    Raises:
        ValueError: for a support above ``dim``, targets that are not 0 or 1, or lengths that differ.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
    section 6 (manipulation); masks of Zhou et al., "Effective sparsification of neural networks with global sparsity
    constraint", CVPR 2021.

    Examples:
        >>> z = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
        >>> directions = SparseDirection(32, support=2)
        >>> _ = directions.fit(z, z[:, 3] + z[:, 7] > 0, steps=300)
        >>> directions.mask()[0].nonzero().flatten().tolist()
        [3, 7]
    """

    def __init__(self, dim: int, support: int = 16, attributes: int = 1) -> None:
        super().__init__()
        self.dim = int(check_number("dim", dim, low=1, integer=True))
        self.support = int(check_number("support", support, low=1, high=dim, integer=True))
        self.attributes = int(check_number("attributes", attributes, low=1, integer=True))
        self.weight = nn.Parameter(torch.zeros(self.attributes, self.dim))
        self.bias = nn.Parameter(torch.zeros(self.attributes))
        self.scores = nn.Parameter(torch.ones(self.attributes, self.dim))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("std", torch.ones(self.dim))

    def density(self, part: float) -> float:
        """Return the largest mean probability when ``part`` of the steps are done."""
        target = self.support / self.dim
        return target + (1 - target) * (1 - min(max((part - 0.1) / 0.3, 0.0), 1.0)) ** 3

    def mask(self) -> Bool[Tensor, "attributes dim"]:
        """Return the ``support`` most probable entries of every direction."""
        out = torch.zeros_like(self.scores, dtype=torch.bool)
        return out.scatter_(1, self.scores.detach().topk(self.support, dim=1).indices, True)

    def direction(self) -> Float[Tensor, "attributes dim"]:
        """Return the directions in the units of the code, of norm one and zero outside the mask."""
        return F.normalize(self.weight.detach() * self.mask() * self.std, dim=1)

    def forward(self, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n attributes"]:
        """Return the logits of the attributes, from the kept entries alone."""
        return (z - self.mean) / self.std @ (self.weight * self.mask()).T + self.bias

    def move(self, z: Float[Tensor, "n dim"], amount: float, attribute: int = 0) -> Float[Tensor, "n dim"]:
        """Return codes moved by ``amount`` along one direction."""
        attribute = int(check_number("attribute", attribute, low=0, high=self.attributes - 1, integer=True))
        return z + amount * self.direction()[attribute]

    def fit(
        self,
        z: Float[Tensor, "n dim"],
        targets: Tensor,
        *,
        steps: int = 1000,
        batch_size: int = 128,
        lr: float = 0.01,
        device: str = "cpu",
        seed: int = 0,
    ) -> TrainResult:
        """Fit weights and masks to binary targets, (n,) or (n, attributes)."""
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"codes must have shape (n, {self.dim}), got {tuple(z.shape)}")
        check_finite("codes", z)
        y = targets.float().reshape(len(targets), -1)
        if y.shape != (len(z), self.attributes):
            raise ValueError(
                f"targets must have shape ({len(z)}, {self.attributes}) for these codes, got {tuple(targets.shape)}"
            )
        if not bool(((y == 0) | (y == 1)).all()):
            raise ValueError("targets must be 0 or 1")
        self.mean.copy_(z.mean(0))
        self.std.copy_(z.std(0, unbiased=False).clamp_min(1e-8))
        x = ((z - z.mean(0)) / z.std(0, unbiased=False).clamp_min(1e-8)).detach()

        def loss(module: Any, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
            part = info.step / max(1, info.total - 1)
            with torch.no_grad():
                self.scores.copy_(project_mass(self.scores, self.density(part) * self.dim))
            draw = torch.rand(self.scores.shape, generator=info.generator, device=self.scores.device)
            u, s = draw.clamp(1e-6, 1 - 1e-6), self.scores.clamp(1e-6, 1 - 1e-6)
            logit = s.logit() + u.logit()
            m = torch.sigmoid(logit / (1 - 0.9 * part))
            return F.binary_cross_entropy_with_logits(batch[0] @ (self.weight * m).T + self.bias, batch[1])

        batches = Batches(BatchPlan(len(x), batch_size, seed=spawn_seed(seed, "order")), lambda r: (x[r], y[r]))
        return train(
            self, loss, batches, steps=steps, optimizer="adam", lr=lr, device=device, seed=spawn_seed(seed, "steps")
        )
