"""The large set-up of the papers on representation alignment: CIFAR-10, a ResNet-18 learned from views, DiT-S."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.frozen_encoder import FrozenEncoder, encode_all
from holdfast.nn.backbones import ResNet
from holdfast.papers._aligned_digits import World
from holdfast.papers._photographs import PhotoJudge, photographs
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


@cache
def photo_world(tiny: bool = False) -> World:
    """Return the large world: 20,000 photographs for the generator, 20,000 for encoder, probes and judge.

    Patches have 4 x 4 pixels, for the time of it: on one H200 encoder and judge take about three minutes, and 600
    steps with their evaluation 45 seconds, so that three arms take half an hour. ``tiny`` runs the same code in
    seconds on a CPU.
    """
    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    precision = "32-true" if tiny else "bf16-mixed"
    data = photographs()
    rows = torch.randperm(len(data.train), generator=generator(0))[: 400 if tiny else 40_000]
    x, y = data.train[rows], data.train_y[rows]
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
    judge = PhotoJudge(x[half:], y[half:], steps=2 if tiny else 3000, widths=widths, device=device, precision=precision)
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
