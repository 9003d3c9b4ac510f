"""Procedural images in which shape, colour, texture and border all say the class: the large world of rich features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.nn.backbones import ConvNet
from holdfast.nn.network import Network
from holdfast.representation.concatenation import ConcatRepresentation, TwoStageFineTune, concat_heads
from holdfast.representation.multi_head_distillation import DistilledRepresentation, MultiHeadDistillation
from holdfast.representation.probe import LinearProbe
from holdfast.representation.rich import Featurizer, train_episodes
from holdfast.shift.penalties import VRExLoss

__all__ = ["Size", "draw_images", "experiment"]

_SIDE, _CLASSES, _CUES = 32, 4, 4


@dataclass(frozen=True)
class Size:
    """How much data, how long, how wide."""

    source: int = 20_000
    target: int = 500
    test: int = 2000
    steps: int = 1500
    few: int = 100
    fine_tune_steps: int = 200
    episodes: int = 8
    cat: int = 5
    widths: tuple[int, ...] = (16, 32)
    probe_iterations: int = 300


def draw_images(cues: Int[Tensor, "n 4"], rng: torch.Generator) -> Float[Tensor, "n 3 32 32"]:
    """Render shape, colour, texture and border number 0 to 3 of every image, with position, size and pixel noise."""
    n = len(cues)
    axis = torch.linspace(-1, 1, _SIDE)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    centre = 0.25 * (torch.rand(n, 2, 1, 1, generator=rng) * 2 - 1)
    radius = 0.4 + 0.1 * torch.rand(n, 1, 1, generator=rng)
    x, y = u - centre[:, 0], v - centre[:, 1]
    shapes = (
        torch.stack(
            [
                x.square() + y.square() < radius.square(),
                torch.maximum(x.abs(), y.abs()) < 0.9 * radius,
                (y < 0.7 * radius) & (x.abs() < (y + radius) / 1.5),
                torch.minimum(x.abs(), y.abs()) < radius / 3,
            ],
            1,
        )
        & (torch.maximum(x.abs(), y.abs()) < 1.2 * radius)[:, None]
    )
    palette = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.3, 0.9], [0.8, 0.7, 0.1]])
    phase = 6.28 * torch.rand(n, 1, 1, generator=rng)
    textures = torch.stack(
        [
            torch.sin(14 * u + phase),
            torch.sin(14 * v + phase),
            torch.sin(10 * (u + v) + phase),
            torch.sin(14 * u + phase) * torch.sin(14 * v + phase),
        ],
        1,
    )
    edges = torch.stack([v < -0.85, v > 0.85, u < -0.85, u > 0.85])
    own = torch.arange(n)
    image = (0.45 + 0.15 * textures[own, cues[:, 2]])[:, None].expand(-1, 3, -1, -1)
    image = torch.where(shapes[own, cues[:, 0]][:, None], palette[cues[:, 1]][:, :, None, None], image)
    image = torch.where(edges[cues[:, 3]][:, None], torch.ones(()), image)
    return image + 0.15 * torch.randn(image.shape, generator=rng)


def _draw(n: int, agree: Sequence[float], seed: int) -> tuple[Tensor, Tensor]:
    """Images whose cue *c* is the class with probability ``agree[c]``, else any."""
    rng = generator(seed)
    y = torch.randint(_CLASSES, (n,), generator=rng)
    other = torch.randint(_CLASSES, (n, _CUES), generator=rng)
    cues = torch.where(torch.rand(n, _CUES, generator=rng) < torch.tensor(agree), y[:, None], other)
    return draw_images(cues, rng), y


def _network(width: int) -> Network:
    trunk = ConvNet((3, _SIDE, _SIDE), widths=(width, 2 * width, 4 * width), depth=1, resolution=16)
    return Network(trunk, nn.Linear(trunk.out_dim, _CLASSES))


class _Parallel(nn.Module):
    """Several trunks under one joint head, trained in one episode."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(_network(width).encoder for _ in range(n))
        self.head = nn.Linear(sum(cast("ConvNet", t).out_dim for t in self.trunks), _CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([trunk(x) for trunk in self.trunks], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _fit(net: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int, device: str, lr: float = 3e-3) -> nn.Module:
    plan = BatchPlan(len(y), 128, seed=spawn_seed(seed, "order"))
    batches = Batches(plan, lambda rows: (x[rows], y[rows]))
    options = {"lr": lr, "weight_decay": 0.1, "schedule": "cosine", "device": device, "seed": seed}
    train(net, lambda net, batch, info: F.cross_entropy(net(batch[0]), batch[1]), batches, steps=steps, **options)
    return net


@torch.no_grad()
def _features(phi: nn.Module, x: Tensor) -> np.ndarray:
    device = next(phi.parameters()).device
    return torch.cat([phi(part.to(device)).float().cpu() for part in x.split(1000)]).numpy()


def _probe(phi: nn.Module, tasks: Sequence[tuple[Tensor, ...]], iterations: int) -> float:
    scores = []
    for x, y, x_test, y_test in tasks:
        probe = LinearProbe(standardize="zscore", max_iter=iterations, random_state=0).fit(_features(phi, x), y.numpy())
        scores.append(np.mean(probe.predict(_features(phi, x_test)) == y_test.numpy()))
    return float(np.mean(scores))


def _accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(np.mean(_features(net, x).argmax(1) == y.numpy()))


def experiment(seed: int, device: str, size: Size | None = None) -> dict[str, float]:
    """Run the comparison of the small world on images, and invariant training of the top layer."""
    size = Size() if size is None else size
    single, wide = size.widths
    everything = [1.0] * _CUES

    def probe(phi: nn.Module, tasks: Sequence[tuple[Tensor, ...]]) -> float:
        return _probe(phi, tasks, size.probe_iterations)

    x, y = _draw(size.source, everything, spawn_seed(seed, "source"))
    x_test, y_test = _draw(size.test, everything, spawn_seed(seed, "source test"))
    targets = []
    for cue in range(_CUES):
        agree = [float(c == cue) for c in range(_CUES)]
        draws = (_draw(n, agree, spawn_seed(seed, "target", cue, n)) for n in (size.target, size.test))
        targets.append(tuple(part for draw in draws for part in draw))

    def episode(net: nn.Module, own: int) -> None:
        _fit(net, x, y, size.steps, own, device)

    def make(build, name: str) -> Featurizer:
        return train_episodes(build, episode, [spawn_seed(seed, name)])[0]

    seeds = [spawn_seed(seed, "episode", i) for i in range(size.episodes)]
    phi = train_episodes(lambda: _network(single), episode, seeds)
    first, cat = phi[: size.cat], ConcatRepresentation(phi[: size.cat])
    out = {"single/source": float(np.mean([_accuracy(m.model, x_test, y_test) for m in first]))}
    out["cat/source"] = probe(cat, [(x[:2000], y[:2000], x_test, y_test)])
    out["single/target"] = float(np.mean([probe(m, targets) for m in first]))
    out["cat/target"] = probe(cat, targets)
    for n in (1, 2, 4, 8):
        groups = [phi[i : i + n] for i in range(0, len(phi) - n + 1, n)] or [phi]
        out[f"cat@{n}/target"] = float(np.mean([probe(ConcatRepresentation(g), targets) for g in groups]))
    out["wide/target"] = probe(make(lambda: _network(size.cat * single), "wide"), targets)
    out["wide-half/target"] = probe(make(lambda: _network(wide), "wide-half"), targets)
    out["parallel/target"] = probe(make(lambda: _Parallel(size.cat, single), "parallel"), targets)
    with isolated_rng(seed):
        untrained = ConcatRepresentation([Featurizer(_network(single)) for _ in first]).to(device)
    out["untrained/target"] = probe(untrained, targets)

    with isolated_rng(spawn_seed(seed, "student")):
        student = _network(single).encoder
        loss = MultiHeadDistillation(student, first, temperature=4.0)
    plan = BatchPlan(len(y), 128, seed=spawn_seed(seed, "distill"))
    batches = Batches(plan, lambda rows: x[rows])
    distilled = DistilledRepresentation.train_from(
        loss, batches, steps=2 * size.steps, lr=3e-3, device=device, seed=seed
    )
    out["distilled/target"], out["erm-as-distilled/target"] = probe(distilled, targets), out["single/target"]
    return out | _fine_tuned(first, targets, size, seed, device) | _invariant_top(cat, first[0], size, seed)


def _fine_tuned(members, targets, size: Size, seed: int, device: str) -> dict[str, float]:
    scores: dict[str, list[float]] = {"single": [], "joint": [], "two-stage": []}
    for cue, (x_all, y_all, x_test, y_test) in enumerate(targets):
        x, y = x_all[: size.few].to(device), y_all[: size.few].to(device)
        own: list[nn.Module] = []

        def tune(net: nn.Module, index: int, x=x, y=y, own=own, cue=cue) -> None:
            with isolated_rng(spawn_seed(seed, "head", cue, index)):
                cast("nn.Linear", cast("Network", net).head).reset_parameters()
            own.append(_fit(net, x, y, size.fine_tune_steps, spawn_seed(seed, "tune", cue, index), device, lr=1e-3))

        two_stage = TwoStageFineTune(members, tune, seed=seed).fit(x, y)
        scores["two-stage"].append(_accuracy(two_stage, x_test, y_test))
        scores["single"] += [_accuracy(net, x_test, y_test) for net in own]
        free = ConcatRepresentation([Featurizer(m.model) for m in members], freeze=False)
        head = concat_heads([m.head for m in members])
        with isolated_rng(spawn_seed(seed, "joint", cue)):
            head.reset_parameters()
        joint = Network(free, head)
        state = {k: v.clone() for k, v in joint.state_dict().items()}
        joint.requires_grad_(True)
        _fit(joint, x, y, size.fine_tune_steps, spawn_seed(seed, "joint", cue), device, lr=1e-3)
        scores["joint"].append(_accuracy(joint, x_test, y_test))
        # The members are shared with the other comparisons: put them back.
        joint.load_state_dict(state)
        joint.requires_grad_(False).eval()
    return {f"fine-tuned-{k}/target": float(np.mean(v)) for k, v in scores.items()}


def _invariant_top(cat: nn.Module, single: nn.Module, size: Size, seed: int) -> dict[str, float]:
    """Train the top layer on three environments in which all cues but the shape vary in strength, by ERM and V-REx."""
    strengths = (0.95, 0.85, 0.75)
    parts = [_draw(size.test, [0.9, s, s, s], spawn_seed(seed, "environment", i)) for i, s in enumerate(strengths)]
    y = torch.cat([part[1] for part in parts])
    environment = torch.arange(len(parts)).repeat_interleave(size.test)
    x_test, y_test = _draw(size.test, [0.9, 0.0, 0.0, 0.0], spawn_seed(seed, "shifted"))
    out = {}
    for name, phi in (("cat", cat), ("single", single)):
        z, z_test = (torch.from_numpy(_features(phi, images)) for images in (torch.cat([p[0] for p in parts]), x_test))
        mean, std = z.mean(0), z.std(0).clamp(min=1e-6)
        z, z_test = (z - mean) / std, (z_test - mean) / std
        for method, beta in (("erm", 0.0), ("vrex", 100.0)):
            loss = VRExLoss(beta)
            head = nn.Linear(z.shape[1], _CLASSES)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            plan = BatchPlan(len(y), 512, seed=spawn_seed(seed, "top"), groups=environment.numpy(), balanced=True)
            batches = Batches(plan, lambda rows, z=z: (z[rows], y[rows], environment[rows]))

            def risk(head: nn.Module, batch, info, loss=loss) -> Tensor:
                return loss(F.cross_entropy(head(batch[0]), batch[1], reduction="none"), batch[2])

            train(head, risk, batches, steps=300, lr=1e-2, weight_decay=1e-2, device="cpu", seed=seed)
            with torch.no_grad():
                out[f"{name}-{method}/shifted"] = float((head(z_test).argmax(1) == y_test).double().mean())
    return out
