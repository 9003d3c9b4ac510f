"""What the papers on representation alignment share: digits, a frozen encoder, a small transformer, and four measures.

An arm of an experiment is a denoiser trained on the same images in the same order with the same noise; arms differ in
the terms of their objective alone. The encoder and the judge are the same for every seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.results import TrainResult
from holdfast.diffusion.alignment import AlignmentLoss
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.frozen_encoder import FrozenEncoder, encode_all
from holdfast.diffusion.objective import DiffusionObjective, Term, train_diffusion
from holdfast.diffusion.paths import LinearPath
from holdfast.diffusion.samplers.ode import euler
from holdfast.diffusion.schedules import Schedule
from holdfast.metrics.similarity import cknna
from holdfast.papers._digit_images import digit_images, judge
from holdfast.papers.record import Scale
from holdfast.representation.simclr import mean_features, train_simclr
from holdfast.representation.views import AffineViews

__all__ = [
    "World",
    "align",
    "digit_encoder",
    "digit_world",
    "encoder_alignment",
    "fit",
    "frechet",
    "held_out_loss",
    "linear_probe",
    "make_model",
    "measure",
    "probes",
    "states",
]

BLOCK, TIME = 3, 0.3
"""Where representations are compared: the aligned block of the small network, and the time of its noisy input."""


@dataclass(frozen=True)
class World:
    """Images, targets and the settings of one scale.

    ``x`` trains generators. ``other`` is disjoint from it: the encoder learned on it (without labels), probes read
    it, and the held-out loss is taken on it.
    """

    x: Float[Tensor, "n channels side side"]
    other: Float[Tensor, "m channels side side"]
    other_y: Int[Tensor, " m"]
    encoder: FrozenEncoder
    targets: Mapping[str, Float[Tensor, "n tokens dim"]]
    """Tokens of ``x`` by encoder: "encoder" learned, "random" of the same shape with the weights it started from."""
    distance: Callable[[Tensor], float]
    """Fréchet distance of samples to real images."""
    network: Mapping[str, Any]
    """Arguments of :class:`DiT`."""
    block: int = BLOCK
    steps: int = 450
    batch_size: int = 64
    lr: float = 1e-3
    ema: float = 0.99
    hidden: int = 128
    """Of projectors."""
    probe_rows: int = 1000
    """Images a probe is fitted on; twice as many test it."""
    samples: int = 1000
    sampling_steps: int = 16
    train: Mapping[str, Any] = field(default_factory=lambda: {"device": "cpu"})
    """Device and precision of training."""

    @property
    def device(self) -> str:
        """Where networks live."""
        return self.train["device"]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.network["depth"]


class _ConvEncoder(nn.Sequential):
    def __init__(self, channels: int, dim: int = 64) -> None:
        def conv(a: int, b: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

        last = [nn.Conv2d(64, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)]
        super().__init__(*conv(channels, 32, 1), *conv(32, 64, 2), *conv(64, 64, 2), *last)


@cache
def digit_encoder(steps: int, trained: bool = True) -> FrozenEncoder:
    """Return four convolutions to a 4 x 4 grid, learned from affine views of the other half, or as they started."""
    with isolated_rng(0):
        network = _ConvEncoder(1)
    if trained:
        views = AffineViews(rotation=20, scale=0.25, shear=0.2, shift=0.25, fill=-1.0)
        images = digit_images(16).other
        train_simclr(
            network, images, views, steps=steps, batch_size=128, lr=2e-3, schedule="cosine", seed=0, device="cpu"
        )
    return FrozenEncoder(network)


@cache
def digit_world(scale: Scale = "small") -> World:
    """Return the world of 16 x 16 digits; "smoke" has few images and steps."""
    smoke = scale == "smoke"
    data = digit_images(16)
    rows = 600 if smoke else len(data.train)
    x, encoder_steps = data.train[:rows], 10 if smoke else 200
    encoders = {"encoder": digit_encoder(encoder_steps), "random": digit_encoder(encoder_steps, False)}
    world = World(
        x=x,
        other=data.other,
        other_y=data.other_y,
        encoder=encoders["encoder"],
        targets={name: encode_all(e, x) for name, e in encoders.items()},
        distance=judge(16, 20 if smoke else 300).frechet,
        network={"in_channels": 1, "size": 16, "patch": 4, "width": 64, "depth": 6, "heads": 4},
    )
    if smoke:
        return replace(world, steps=6, probe_rows=150, samples=80, sampling_steps=3)
    return world


def make_model(world: World, seed: int, **options: Any) -> Denoiser:
    """Return a fresh denoiser; the same seed gives the same weights."""
    with isolated_rng(spawn_seed(seed, "weights")):
        return Denoiser(DiT(**(dict(world.network) | options)), LinearPath())


def align(world: World, seed: int, target: str = "encoder", weight: Schedule = 0.5, depth: int | None = None) -> Term:
    """Return the term that aligns block ``depth`` with the targets of that name."""
    dim = world.targets[target].shape[-1]
    return AlignmentLoss(
        depth or world.block,
        target,
        width=world.network["width"],
        dim=dim,
        weight=weight,
        hidden=world.hidden,
        seed=spawn_seed(seed, "projector"),
    )


def fit(
    world: World,
    model: Denoiser,
    seed: int,
    *,
    terms: Sequence[Term] = (),
    objective: DiffusionObjective | None = None,
    steps: int | None = None,
    watch: Callable[[nn.Module, int], None] | None = None,
    watch_every: int | None = None,
    **options: Any,
) -> TrainResult:
    """Train an arm. Every arm of a seed sees the same batches and noise.

    ``watch(model, steps done)`` is called every ``watch_every`` steps with the averaged weights in place, and changes
    nothing of the run.
    """
    read = [t for term in [*terms, *(objective.terms if objective is not None else ())] for t in _names(term)]
    hooks: dict[str, Any] = {}
    if watch is not None and watch_every is not None:
        done = count(watch_every, watch_every)

        def score(module: nn.Module) -> float:
            step = next(done)
            watch(module, step)
            return float(step)  # rises, so that the last weights are the ones kept

        hooks = {"validate": score, "validate_every": watch_every}
    return train_diffusion(
        model,
        world.x,
        steps=world.steps if steps is None else steps,
        terms=terms,
        objective=objective,
        extra={name: world.targets[name] for name in read},
        seed=spawn_seed(seed, "training"),
        **({"batch_size": world.batch_size, "lr": world.lr, "ema": world.ema} | dict(world.train) | hooks | options),
    )


def _names(term: Any) -> list[str]:
    return [t for t in getattr(term, "targets", ()) if isinstance(t, str)]


@torch.no_grad()
def states(
    world: World, model: Any, blocks: Sequence[int], t: float, rows: int
) -> dict[int, Float[Tensor, "rows width"]]:
    """Return each block's output averaged over tokens, for the first ``rows`` other images noised to ``t``."""
    rng = generator(spawn_seed(0, "probe noise"))
    x0 = world.other[:rows]
    x = model.path.noise(x0, torch.randn(x0.shape, generator=rng), torch.full((rows,), t))
    found: dict[int, list[Tensor]] = {b: [] for b in blocks}
    for part in x.split(250):
        out = model(part.to(world.device), t, taps=tuple(blocks), stop_at=max(blocks))
        for b, h in out.taps.items():
            found[b].append(mean_features(h).float().cpu())
    return {b: torch.cat(parts) for b, parts in found.items()}


def linear_probe(z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> float:
    """Return the accuracy on the last two thirds of a logistic regression fitted on the first."""
    half = len(z) // 3
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z[:half].numpy(), y[:half].numpy())
    return float(model.score(z[half:].numpy(), y[half:].numpy()))


def probes(world: World, model: nn.Module, blocks: Sequence[int], t: float = TIME) -> dict[int, float]:
    """Return the probe accuracy of each block at time ``t``."""
    rows = min(3 * world.probe_rows, len(world.other))
    return {b: linear_probe(z, world.other_y[:rows]) for b, z in states(world, model, blocks, t, rows).items()}


def encoder_alignment(world: World, model: nn.Module, block: int, t: float = TIME) -> float:
    """Return the nearest-neighbour alignment (CKNNA, k = 10) of a block's averaged tokens with the encoder's."""
    z = states(world, model, [block], t, world.probe_rows)[block]
    return cknna(z, _encoded(world)[: len(z)], k=10)


def _encoded(world: World) -> Tensor:
    images = world.other[: world.probe_rows]
    return torch.cat([world.encoder.encode(part.to(world.device)).mean(dim=1).cpu() for part in images.split(500)])


@torch.no_grad()
def frechet(world: World, model: Any) -> float:
    """Return the Fréchet distance of Euler samples that start from the same noise for every arm and seed."""
    noise = torch.randn((world.samples, *world.x.shape[1:]), generator=generator(spawn_seed(0, "sampling noise")))
    parts = [euler(model, part.to(world.device), steps=world.sampling_steps).x.cpu() for part in noise.split(250)]
    return world.distance(torch.cat(parts).clamp(-1, 1))


@torch.no_grad()
def held_out_loss(world: World, model: Any) -> float:
    """Return the velocity loss on other images, at evenly spread times with fixed noise."""
    n = min(2 * world.probe_rows, len(world.other))
    rng = generator(spawn_seed(0, "held-out noise"))
    x0, t = world.other[:n], (torch.randperm(n, generator=rng) + 0.5) / n
    eps = torch.randn(x0.shape, generator=rng)
    total = 0.0
    for a, e, s in zip(x0.split(250), eps.split(250), t.split(250)):
        a, e, s = a.to(world.device), e.to(world.device), s.to(world.device)
        error = model.predict(model.path.noise(a, e, s), s) - model.path.velocity(a, e, s)
        total += float(error.square().flatten(1).mean(dim=1).sum())
    return total / n


def measure(world: World, model: nn.Module, *, blocks: Sequence[int], distance: bool = True) -> dict[str, float]:
    """Return probes at ``blocks``, alignment of the aligned block, held-out loss and, if wanted, Fréchet distance."""
    out = {f"probe@{b}": accuracy for b, accuracy in probes(world, model, blocks).items()}
    out["cknna"] = encoder_alignment(world, model, world.block)
    out["velocity_loss"] = held_out_loss(world, model)
    if distance:
        out["frechet"] = frechet(world, model)
    return out
