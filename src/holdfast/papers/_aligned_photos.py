"""The large set-up of the papers on representation alignment: CIFAR-10, a ResNet-18 learned from views, DiT-S."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.data.named import load_named
from holdfast.diffusion.frozen_encoder import FrozenEncoder, encode_all
from holdfast.metrics.generation import frechet_distance
from holdfast.nn.backbones import ResNet
from holdfast.papers._aligned_digits import World
from holdfast.representation.simclr import train_simclr
from holdfast.representation.views import PhotoViews

__all__ = ["photo_world"]

_WIDTHS, _BLOCKS = (64, 128, 256, 512), (2, 2, 2, 2)


class _Map(nn.Module):
    """A residual network's map before its last stage: 8 x 8 of 32 x 32 pixels, fine enough for patches."""

    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = ResNet(shape, widths=widths, blocks=blocks, resolution=shape[-1])
        self.last = blocks[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk.feature_map(x)

    def feature_map(self, x: Tensor) -> Tensor:
        stages = self.trunk.stages[: -self.last]
        return stages(self.trunk.stem(self.trunk.standardize(x)))


class _Early(nn.Module):
    def __init__(self, network: _Map) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.feature_map(x)


class _Judge:
    """Fréchet distance to held-back images, in the features of a supervised residual network."""

    def __init__(self, x: Tensor, y: Tensor, steps: int, widths: tuple[int, ...], device: str, precision: str) -> None:
        with isolated_rng(0):
            self.trunk = ResNet(tuple(x.shape[1:]), widths=widths, blocks=(1,) * len(widths), resolution=32)
            network = nn.Sequential(self.trunk, nn.Linear(widths[-1], 10))
        views = PhotoViews(smallest=0.6, jitter=0.0, jitter_rate=0.0, grey_rate=0.0)

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
            return F.cross_entropy(net(views(batch[0], info.generator)).float(), batch[1])

        batches = Batches(BatchPlan(len(x), 256, seed=0), lambda rows: (x[rows], y[rows]))
        train(network, loss, batches, steps=steps, schedule="cosine", device=device, precision=precision, seed=0)
        self.device = device
        self.trunk.requires_grad_(False)
        self.reference = self.features(x)

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n d"]:
        return torch.cat([self.trunk(part.to(self.device)).float().cpu() for part in x.split(500)])

    def frechet(self, x: Float[Tensor, "n 3 side side"]) -> float:
        return frechet_distance(self.features(x), self.reference)


def _photos(rows: int) -> tuple[Float[Tensor, "n 3 32 32"], Int[Tensor, " n"]]:
    data = load_named("cifar10", part="train", subset=rows <= 10_000)
    labels = np.unique(data.y, return_inverse=True)[1]
    order = torch.randperm(len(labels), generator=generator(0))[:rows]
    return torch.from_numpy(np.asarray(data.x))[order].float() / 127.5 - 1, torch.from_numpy(labels)[order]


@cache
def photo_world(tiny: bool = False) -> World:
    """Return the large world: 20,000 photographs for the generator, 20,000 for encoder, probes and judge.

    Patches have 4 x 4 pixels: with 2 x 2 three arms would not fit into some minutes of one GPU. ``tiny`` runs the
    same code in seconds on a CPU.

    Raises:
        ValueError: where CIFAR-10 cannot be had.
    """
    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    precision = "32-true" if tiny else "bf16-mixed"
    x, y = _photos(400 if tiny else 40_000)
    half = len(x) // 2
    widths = (8, 8, 16, 16) if tiny else _WIDTHS
    encoders = {}
    for name in ("encoder", "random"):
        with isolated_rng(0):
            network = _Map((3, 32, 32), widths, _BLOCKS)
        if name == "encoder":
            train_simclr(
                network,
                x[half:],
                PhotoViews(),
                steps=2 if tiny else 2500,
                batch_size=64 if tiny else 512,
                lr=1e-3,
                schedule="cosine",
                device=device,
                precision=precision,
            )
        encoders[name] = FrozenEncoder(_Early(network.to(device)))
    dtype = torch.float32 if tiny else torch.float16
    judge = _Judge(x[half:], y[half:], 2 if tiny else 3000, widths, device, precision)
    return World(
        x=x[:half],
        other=x[half:],
        other_y=y[half:],
        encoder=encoders["encoder"],
        targets={k: encode_all(e, x[:half], device=device, dtype=dtype) for k, e in encoders.items()},
        distance=judge.frechet,
        network={
            "in_channels": 3,
            "size": 32,
            "patch": 4,
            "width": 32 if tiny else 384,
            "depth": 6 if tiny else 12,
            "heads": 2 if tiny else 6,
        },
        block=3 if tiny else 4,
        steps=6 if tiny else 9000,
        batch_size=16 if tiny else 256,
        lr=1e-3 if tiny else 2e-4,
        ema=0.9 if tiny else 0.999,
        hidden=32 if tiny else 1024,
        probe_rows=50 if tiny else 2000,
        samples=64 if tiny else 5000,
        sampling_steps=2 if tiny else 50,
        train={"device": device, "precision": precision},
    )
