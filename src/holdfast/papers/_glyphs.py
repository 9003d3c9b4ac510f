"""Procedural glyphs for the large experiments on nested embeddings: many classes, rendered with jitter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.nn.backbones import ResNet
from holdfast.nn.network import Network
from holdfast.representation.funnel_retrieval import AdaptiveRetriever, Neighbours
from holdfast.representation.matryoshka import MatryoshkaPairLoss

__all__ = ["Glyphs", "encoder", "make_glyphs", "pair_experiment", "render", "split", "wall_clock"]

_SIDE, _COMMON, _OWN = 32, 4, 2


@dataclass(frozen=True)
class Glyphs:
    """Renders (n, 1, 32, 32) uint8, classes (n,), superclass per class, and the strokes of every class."""

    x: Tensor
    y: Tensor
    group: Tensor
    strokes: Tensor


def make_glyphs(seed: int, n_super: int, n_sub: int, per_class: int, device: str = "cpu") -> Glyphs:
    """Draw the alphabet and render it: classes of a superclass share four strokes and differ in two."""
    rng = generator(spawn_seed(seed, "alphabet"))
    common = torch.rand(n_super, 1, _COMMON, 2, 2, generator=rng).expand(-1, n_sub, -1, -1, -1)
    own = torch.rand(n_super, n_sub, _OWN, 2, 2, generator=rng)
    strokes = (torch.cat([common, own], 2).flatten(0, 1) * 1.6 - 0.8).contiguous()
    y = torch.arange(n_super * n_sub).repeat_interleave(per_class)
    x = render(strokes, y, spawn_seed(seed, "renders"), device)
    return Glyphs(x, y, torch.arange(n_super * n_sub) // n_sub, strokes)


def render(
    strokes: Float[Tensor, "classes strokes 2 2"], y: Int[Tensor, " n"], seed: int, device: str = "cpu"
) -> Tensor:
    """Render classes ``y`` under random rotation, scale, shift, stroke width and pixel noise, as uint8 images."""
    rng = generator(seed, device)
    axis = torch.linspace(-1, 1, _SIDE, device=device)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, 1, -1, 2)
    strokes = strokes.to(device)
    out = []
    for part in y.to(device).split(2000):
        n = len(part)
        u = torch.rand(n, 5, generator=rng, device=device) * 2 - 1
        angle, scale, shift, width = u[:, 0] * 0.35, 1 + 0.2 * u[:, 1], 0.15 * u[:, 2:4], 0.07 + 0.02 * u[:, 4]
        cos, sin = angle.cos() * scale, angle.sin() * scale
        turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        ends = torch.einsum("nij,nspj->nspi", turn, strokes[part]) + shift[:, None, None]
        a, b = ends[:, :, None, 0], ends[:, :, None, 1]
        along = ((pixels - a) * (b - a)).sum(-1) / (b - a).square().sum(-1).clamp(min=1e-6)
        nearest = a + along.clamp(0, 1)[..., None] * (b - a)
        squared = (pixels - nearest).square().sum(-1).amin(1)
        image = torch.exp(-squared / (2 * width[:, None] ** 2))
        image += 0.1 * torch.randn(image.shape, generator=rng, device=device)
        out.append((image.clamp(0, 1) * 255).to(torch.uint8).view(n, 1, _SIDE, _SIDE).cpu())
    return torch.cat(out)


def split(glyphs: Glyphs, n_test: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hold out the last ``n_test`` renders of every class."""
    per_class = int((glyphs.y == 0).sum())
    test = torch.arange(len(glyphs.y)) % per_class >= per_class - n_test
    return glyphs.x[~test], glyphs.y[~test], glyphs.x[test], glyphs.y[test]


class _Images(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 127.5 - 1


def encoder(d: int) -> nn.Module:
    """Return a small residual network to ``d`` dimensions that reads uint8 images."""
    trunk = ResNet((1, _SIDE, _SIDE), widths=(32, 64, 128, 256), blocks=(1, 1, 1, 1), resolution=16)
    return nn.Sequential(_Images(), trunk, nn.Linear(trunk.out_dim, d))


def _info_nce(a: Tensor, b: Tensor) -> Tensor:
    logits = a @ b.t() / 0.1
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def pair_experiment(glyphs: Glyphs, dims: list[int], seed: int, device: str, steps: int = 1200) -> dict[str, float]:
    """Contrastive two-tower training on pairs of renders of a class, nested and at full length alone."""
    x, y, x_test, y_test = split(glyphs, 20)
    n_classes = len(glyphs.group)
    x = x.view(n_classes, -1, 1, _SIDE, _SIDE)

    def take(classes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(x.shape[1], (len(classes),), generator=rng)
        other = (first + torch.randint(1, x.shape[1], (len(classes),), generator=rng)) % x.shape[1]
        return x[classes, first], x[classes, other]

    out = {}
    for name, lengths in (("pair-mrl", dims), ("pair-full", dims[-1:])):
        with isolated_rng(spawn_seed(seed, name)):
            net = encoder(dims[-1])
        loss = MatryoshkaPairLoss(_info_nce, lengths)
        draws = generator(spawn_seed(seed, name, "pairs"))
        batches = Batches(
            BatchPlan(n_classes, 256, seed=spawn_seed(seed, name, "order")), lambda rows, draws=draws: take(rows, draws)
        )
        train(
            net,
            lambda net, batch, info, loss=loss: loss(net(batch[0]).float(), net(batch[1]).float()),
            batches,
            steps=steps,
            lr=2e-3,
            weight_decay=1e-3,
            schedule="cosine",
            device=device,
            precision="bf16-mixed",
            seed=seed,
        )
        with torch.inference_mode():
            z, z_test = (
                torch.cat([net(part.to(device)).float() for part in images.split(2000)])
                for images in (x.flatten(0, 1), x_test)
            )
            retriever = AdaptiveRetriever(z, dims)
            for m in dims:
                found = retriever.exact(z_test, 1, m).indices[:, 0].cpu()
                out[f"{name}/nn@{m}"] = float((y[found] == y_test).double().mean())
    return out


@torch.inference_mode()
def wall_clock(network: Network, glyphs: Glyphs, n: int, seed: int, n_queries: int = 1000) -> dict[str, float]:
    """Time adaptive against exact retrieval over ``n`` fresh renders, on the network's device."""
    device = next(network.parameters()).device
    y = torch.arange(n + n_queries) % len(glyphs.group)
    parts = []
    for i, labels in enumerate(y.split(50_000)):
        images = render(glyphs.strokes, labels, spawn_seed(seed, i), str(device))
        parts.append(torch.cat([network.features(part.to(device)).float() for part in images.split(2000)]))
    z = torch.cat(parts)
    queries, retriever = z[n:], AdaptiveRetriever(z[:n])
    full = retriever.d

    def clock(search: Callable[[], Neighbours]) -> tuple[float, Tensor]:
        best, found = math.inf, search().indices
        for _ in range(3):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            found = search().indices.cpu()
            best = min(best, time.perf_counter() - start)
        return best, found

    slow, exact = clock(lambda: retriever.exact(queries, 10))
    fast, found = clock(lambda: retriever.search(queries, 16, full, 200, 10))
    labels = y[n:, None]
    return {
        "clock/exact_seconds": slow,
        "clock/adaptive_seconds": fast,
        "clock/speedup": slow / fast,
        "clock/exact_precision10": float((y[exact] == labels).double().mean()),
        "clock/adaptive_precision10": float((y[found] == labels).double().mean()),
    }
