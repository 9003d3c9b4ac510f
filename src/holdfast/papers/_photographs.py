"""CIFAR-10 for the large scale of papers on diffusion, and a judge of what is drawn like it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.data.named import load_named
from holdfast.metrics.generation import frechet_distance
from holdfast.nn.backbones import ResNet
from holdfast.papers._digit_images import digit_images
from holdfast.representation.views import PhotoViews

__all__ = ["PhotoJudge", "Photographs", "photographs"]


@dataclass(frozen=True)
class Photographs:
    """Colour images in [-1, 1] at 32 x 32, and their classes."""

    train: Float[Tensor, "n 3 32 32"]
    train_y: Int[Tensor, " n"]
    test: Float[Tensor, "m 3 32 32"]
    test_y: Int[Tensor, " m"]
    real: bool
    """Whether these are CIFAR-10, or grey digits in three channels for a dry run."""


@cache
def photographs() -> Photographs:
    """Return CIFAR-10 with all of its 50,000 training images, or digits where its files cannot be had."""
    try:
        parts = [load_named("cifar10", part=part, subset=False) for part in ("train", "test")]
    except (OSError, ValueError):
        d = digit_images(32)
        x, x_test = (v.expand(-1, 3, -1, -1) for v in (d.train, d.other))
        return Photographs(x, d.train_y, x_test, d.other_y, False)
    x, x_test = (torch.from_numpy(np.array(p.x)).float() / 127.5 - 1 for p in parts)
    y, y_test = (torch.from_numpy(np.unique(p.y, return_inverse=True)[1].astype(np.int64)) for p in parts)
    return Photographs(x, y, x_test, y_test, True)


class PhotoJudge:
    """Fréchet distance to reference images, in the features of a residual network trained on labelled images.

    The network is the same for every seed of every experiment: a fixed measure, not part of what is measured.
    """

    def __init__(
        self,
        x: Float[Tensor, "n 3 side side"],
        y: Int[Tensor, " n"],
        reference: Float[Tensor, "m 3 side side"] | None = None,
        *,
        steps: int,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        device: str = "cpu",
        precision: str = "32-true",
    ) -> None:
        with isolated_rng(0):
            self.trunk = ResNet(tuple(x.shape[1:]), widths=widths, blocks=(1,) * len(widths), resolution=32)
            network = nn.Sequential(self.trunk, nn.Linear(widths[-1], 10))
        views = PhotoViews(smallest=0.6, jitter=0.0, jitter_rate=0.0, grey_rate=0.0)

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
            return F.cross_entropy(net(views(batch[0], info.generator)).float(), batch[1])

        batches = Batches(BatchPlan(len(x), min(256, len(x)), seed=0), lambda rows: (x[rows], y[rows]))
        train(network, loss, batches, steps=steps, schedule="cosine", device=device, precision=precision, seed=0)
        self.device = device
        self.trunk.requires_grad_(False)
        self.reference = self.features(x if reference is None else reference)

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n d"]:
        """Return the features before the last layer."""
        return torch.cat([self.trunk(part.to(self.device)).float().cpu() for part in x.split(500)])

    def frechet(self, x: Float[Tensor, "n 3 side side"]) -> float:
        """Return the Fréchet distance of images to the reference."""
        return frechet_distance(self.features(x), self.reference)
