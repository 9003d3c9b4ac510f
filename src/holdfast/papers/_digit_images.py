"""Small real images for the papers on diffusion: 10,000 digits at 16 x 16, and a judge of what is drawn like them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.data.named.images import resize
from holdfast.metrics.generation import frechet_distance

__all__ = ["DigitImages", "DigitJudge", "digit_images", "judge"]

_SPLIT_SEED = 20


@dataclass(frozen=True)
class DigitImages:
    """Two halves of a set of grey images in [-1, 1]: one for generators, the other for encoders and as reference."""

    train: Float[Tensor, "n 1 side side"]
    train_y: Int[Tensor, " n"]
    other: Float[Tensor, "m 1 side side"]
    other_y: Int[Tensor, " m"]
    real: bool
    """Whether these are the 10,000 test digits of MNIST, or the 1,797 that come with scikit-learn."""


@cache
def digit_images(size: int = 16) -> DigitImages:
    """Return MNIST's test digits, or scikit-learn's where those cannot be had, at ``size`` x ``size``."""
    try:
        from holdfast.data.named import load_named

        data = load_named("mnist", part="test")
        x, y, real = np.asarray(data.x), np.asarray(data.y).astype(np.int64), True
    except (OSError, ValueError):
        raw, y = load_digits(return_X_y=True)
        x, real = np.rint(raw.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8), False
    small = torch.from_numpy(resize(x, size).astype(np.float32)) / 127.5 - 1
    labels = torch.from_numpy(y.astype(np.int64))
    order = torch.randperm(len(small), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    first, second = order.chunk(2)
    return DigitImages(small[first], labels[first], small[second], labels[second], real)


class DigitJudge:
    """Fréchet distance to the other half of the digits, in 64 features of a classifier trained on that half.

    The classifier is the same for every seed of every experiment: a fixed measure, not part of what is measured.
    """

    def __init__(self, size: int, steps: int) -> None:
        data = digit_images(size)
        with isolated_rng(0):
            self.network = nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1),
                nn.GroupNorm(4, 32),
                nn.SiLU(),
                nn.Conv2d(32, 48, 3, stride=2, padding=1),
                nn.GroupNorm(4, 48),
                nn.SiLU(),
                nn.Conv2d(48, 64, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(64 * (size // 4) ** 2, 64),
            )
            head = nn.Sequential(nn.SiLU(), nn.Linear(64, 10))
        whole = nn.Sequential(self.network, head)

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
            return F.cross_entropy(net(batch[0]), batch[1])

        plan = BatchPlan(len(data.other), 128, seed=0)
        batches = Batches(plan, lambda rows: (data.other[rows], data.other_y[rows]))
        train(whole, loss, batches, steps=steps, lr=2e-3, schedule="cosine", device="cpu", seed=0)
        self.size, self.classifier = size, whole.requires_grad_(False)
        self.reference = self.features(data.other)

    @cached_property
    def accuracy(self) -> float:
        """Share of the first half that the classifier names rightly."""
        data = digit_images(self.size)
        with torch.no_grad():
            return float((self.classifier(data.train).argmax(1) == data.train_y).float().mean())

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n 1 side side"]) -> Float[Tensor, "n 64"]:
        """Return the classifier's 64 features."""
        return torch.cat([self.network(part.cpu().float()) for part in x.split(1000)])

    def frechet(self, x: Float[Tensor, "n 1 side side"]) -> float:
        """Return the Fréchet distance of images to the other half of the digits."""
        return frechet_distance(self.features(x), self.reference)


@cache
def judge(size: int = 16, steps: int = 300) -> DigitJudge:
    """Return the judge of this process, trained at its first use; fewer ``steps`` serve dry runs."""
    return DigitJudge(size, steps)
