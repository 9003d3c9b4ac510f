"""Digits with three drawn factors of different pixel change: a background texture, stroke thickness and slant."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.nn.backbones import ResNet
from holdfast.papers._digit_images import digit_images

__all__ = ["FactorReader", "textured_digits"]

SIZE = 32


def _sheared(x: Float[Tensor, "n 1 side side"], slant: Float[Tensor, " n"]) -> Float[Tensor, "n 1 side side"]:
    one, zero = torch.ones_like(slant), torch.zeros_like(slant)
    theta = torch.stack([torch.stack([one, slant, zero], 1), torch.stack([zero, one, zero], 1)], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def _draw(
    x: Float[Tensor, "n 1 side side"], factors: Int[Tensor, "n 3"], noise: Tensor | float
) -> Float[Tensor, "n 1 side side"]:
    """Draw digits in [0, 1] with the factors, in [-1, 1]."""
    texture, thickness, slant = factors.unbind(1)
    thick, thin = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    soft = torch.where(thickness[:, None, None, None] == 1, thick, 0.5 * (x + thin))
    turned = _sheared(soft, 0.7 * (2 * slant - 1).float())
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    pattern = 0.06 * torch.stack([(-1.0) ** (row + column), (-1.0) ** row])[texture][:, None]
    return (1.7 * turned - 0.85 + pattern + noise).clamp(-1, 1)


def textured_digits(
    rows: slice, seed: int, *, other: bool = False, noise: float = 0.01
) -> tuple[Float[Tensor, "n 1 32 32"], Int[Tensor, "n 3"], Float[Tensor, "3"]]:
    """Return images, their factors (texture, thickness, slant; two values each), and the mean size of each edit."""
    data = digit_images(SIZE)
    x = ((data.other if other else data.train)[rows] + 1) / 2
    rng = generator(seed)
    factors = torch.randint(2, (len(x), 3), generator=rng)
    noisy = noise * torch.randn(x.shape, generator=rng)
    images = _draw(x, factors, noisy)
    norms = []
    for a in range(3):
        flipped = factors.clone()
        flipped[:, a] = 1 - flipped[:, a]
        norms.append((_draw(x, flipped, noisy) - images).flatten(1).norm(dim=1).mean())
    return images, factors, torch.stack(norms)


class FactorReader:
    """A residual network that reads the three factors of an image."""

    def __init__(self, x: Tensor, factors: Tensor, *, steps: int, device: str) -> None:
        with isolated_rng(0):
            trunk = ResNet(tuple(x.shape[1:]), widths=(16, 32, 64), blocks=(1, 1, 1), resolution=SIZE)
            self.network = nn.Sequential(trunk, nn.Linear(64, 3))
        targets = factors.float()

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
            return F.binary_cross_entropy_with_logits(net(batch[0]).float(), batch[1])

        batches = Batches(BatchPlan(len(x), 128, seed=0), lambda rows: (x[rows], targets[rows]))
        train(self.network, loss, batches, steps=steps, lr=2e-3, schedule="cosine", device=device, seed=0)
        self.device = device
        self.network.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "n 1 32 32"]) -> Int[Tensor, "n 3"]:
        return torch.cat([(self.network(part.to(self.device)) > 0).long().cpu() for part in x.split(500)])
