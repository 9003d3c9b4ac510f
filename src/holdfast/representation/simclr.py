"""An encoder learned without labels, by telling views of one image from views of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_finite, check_number
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.core.results import TrainResult
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.nn.contrastive import nt_xent

__all__ = ["SimCLR", "Views", "mean_features", "train_simclr"]

Views = Callable[[Tensor, torch.Generator], Tensor]
"""From a batch and a generator to one random view of every sample."""


def mean_features(out: Tensor) -> Float[Tensor, "batch d"]:
    """Return the mean over places of a map (n, d, h, w) or of tokens (n, T, d); vectors (n, d) stay.

    Examples:
        >>> mean_features(torch.ones(2, 3, 4, 4)).shape, mean_features(torch.ones(2, 16, 3)).shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if out.ndim == 4:
        return out.mean(dim=(2, 3))
    if out.ndim == 3:
        return out.mean(dim=1)
    if out.ndim == 2:
        return out
    raise ValueError(f"an encoder gives (n, d, h, w), (n, T, d) or (n, d); got shape {tuple(out.shape)}")


class SimCLR(nn.Module):
    r"""The loss: two views through the encoder and a head, then :func:`holdfast.nn.contrastive.nt_xent`.

    As the ``loss`` of :func:`holdfast.core.training.train` it trains the module (the encoder) and its own head on
    batches of samples; views come from the step's generator. The head is thrown away afterwards.

    Args:
        views: makes one random view of every sample.
        width: of the encoder's features, averaged over places.
        hidden, out: of the head, a perceptron with one hidden layer.
        temperature: of the contrast.
        seed: of the head's weights.

    Raises:
        ValueError: for numbers out of range.

    Source: Chen, Kornblith, Norouzi and Hinton, "A simple framework for contrastive learning of visual
    representations", ICML 2020.

    Examples:
        >>> loss = SimCLR(lambda x, rng: x, width=3)
        >>> info = StepInfo(0, 1, 0, torch.Generator())
        >>> loss(nn.Identity(), torch.randn(4, 3), info).shape
        torch.Size([])
    """

    def __init__(
        self, views: Views, width: int, *, hidden: int = 128, out: int = 64, temperature: float = 0.2, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("hidden", hidden), ("out", out)):
            check_number(name, value, low=1, integer=True)
        check_number("temperature", temperature, low=0, open_low=True)
        self.views, self.temperature = views, temperature
        with isolated_rng(spawn_seed(seed, "simclr head")):
            self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, module: nn.Module, batch: Tensor, info: StepInfo) -> Float[Tensor, ""]:
        """Return the mean loss of a batch of samples."""
        pair = torch.cat([self.views(batch, info.generator), self.views(batch, info.generator)])
        first, second = self.head(mean_features(module(pair))).chunk(2)
        return nt_xent(first, second, self.temperature).mean()


def train_simclr(
    encoder: nn.Module,
    x: Float[Tensor, "n *shape"],
    views: Views,
    *,
    steps: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    hidden: int = 128,
    out: int = 64,
    temperature: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> TrainResult:
    """Train ``encoder`` in place on samples without labels; it ends in evaluation mode.

    Args:
        encoder: from samples to maps (n, d, h, w), tokens (n, T, d) or vectors (n, d).
        x: samples, on the CPU; batches are moved to the device of training.
        views, hidden, out, temperature: see :class:`SimCLR`.
        steps, batch_size, lr, seed: of training. Batches that are left too short at an epoch's end are left out.
        options: passed to :func:`holdfast.core.training.train` (device, precision, schedule, progress, ...).

    Raises:
        ValueError, TypeError: for data that is not floating and finite, or fewer than two samples.

    Examples:
        >>> from holdfast.representation.views import AffineViews
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU())
        >>> x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> train_simclr(net, x, AffineViews(), steps=2, batch_size=16, device="cpu").steps
        2
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    check_finite("x", x)
    if len(x) < 2 or batch_size < 2:
        raise ValueError(f"a contrast needs at least 2 samples in a batch, got {min(len(x), batch_size)}")
    encoder.eval()
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    with torch.no_grad():
        width = mean_features(encoder(x[:2].to(device))).shape[1]
    loss = SimCLR(views, width, hidden=hidden, out=out, temperature=temperature, seed=seed)
    plan = BatchPlan(len(x), batch_size, seed=seed, drop_last=True)
    return train(encoder, loss, Batches(plan, lambda rows: x[rows]), steps=steps, lr=lr, seed=seed, **options)
