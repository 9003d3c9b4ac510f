"""Procedural images of a texture behind a glyph: classes are compositions, so unseen compositions are near outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.random import generator, spawn_seed

__all__ = ["Compositions", "compositions", "far_outliers", "render"]

_SIDE = 32
_N_TEXTURES, _N_GLYPHS = 6, 6


@dataclass(frozen=True)
class Compositions:
    """Images (n, 1, 32, 32) in [0, 1] of the known classes, and of the compositions no class has."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    near: Tensor
    far: Tensor


def _grid(n: int) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-1, 1, _SIDE)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    return u.expand(n, -1, -1), v.expand(n, -1, -1)


def _textures(kind: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n h w"]:
    """Checks, dots, rings, diagonal waves, plasma and bricks, at random scale and phase, in [0, 1]."""
    n = len(kind)
    u, v = _grid(n)
    r = torch.rand(5, n, 1, 1, generator=rng)
    f = math.pi * (2.5 + 1.5 * r[0])
    a, b = u + 2 * r[1], v + 2 * r[2]
    checks = (torch.sin(f * a) * torch.sin(f * b) > 0).float()
    dots = (torch.cos(1.4 * f * a) + torch.cos(1.4 * f * b) > 0.9).float()
    rings = 0.5 + 0.5 * torch.sin(2 * f * ((u - r[3] + 0.5) ** 2 + (v - r[4] + 0.5) ** 2).sqrt())
    waves = 0.5 + 0.5 * torch.sin(f * (a + b) + torch.sin(2 * a))
    plasma = 0.5 + 0.25 * (torch.sin(f * a + 3 * torch.cos(0.6 * f * b)) + torch.cos(0.8 * f * b + 2 * a))
    row = torch.floor(f * b / 1.5)
    joint = (f * a / 2 + 0.5 * (row % 2)) % 1
    bricks = ((joint > 0.15) & ((f * b / 1.5) % 1 > 0.2)).float()
    every = torch.stack([checks, dots, rings, waves, plasma, bricks])
    return every[kind, torch.arange(n)]


def _glyphs(kind: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n h w"]:
    """Disc, square, triangle, cross, ring and bar, turned, shifted and scaled at random: 1 inside, 0 outside."""
    n = len(kind)
    u, v = _grid(n)
    r = torch.rand(4, n, 1, 1, generator=rng)
    angle, size = 0.6 * (r[0] - 0.5), 0.45 + 0.15 * r[1]
    x, y = u - 0.4 * (r[2] - 0.5), v - 0.4 * (r[3] - 0.5)
    x, y = (angle.cos() * x + angle.sin() * y) / size, (angle.cos() * y - angle.sin() * x) / size
    radius, square = (x**2 + y**2).sqrt(), torch.maximum(x.abs(), y.abs())
    triangle = torch.maximum(y - 0.6, x.abs() * 1.7 - (y + 1) * 0.85)
    arms = torch.minimum(x.abs(), y.abs())
    inside = [
        radius - 1,
        square - 0.85,
        triangle,
        torch.maximum(arms - 0.28, square - 1),
        (radius - 0.75).abs() - 0.25,
        torch.maximum(x.abs() - 0.35, y.abs() - 1.1),
    ]
    return torch.sigmoid(-14 * torch.stack(inside)[kind, torch.arange(n)])


def render(texture: Int[Tensor, " n"], glyph: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Paint a bright glyph over a dim texture, with pixel noise."""
    n = len(texture)
    background, mask = _textures(texture, rng), _glyphs(glyph, rng)
    contrast = 0.35 + 0.2 * torch.rand(2, n, 1, 1, generator=rng)
    image = (1 - mask) * background * contrast[0] + mask * (0.4 + contrast[1])
    image = image + 0.05 * torch.randn(image.shape, generator=rng)
    return image.clamp(0, 1).unsqueeze(1)


def far_outliers(n: int, rng: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Equal parts of noise, constant images and stripes."""
    u, v = _grid(n)
    r = torch.rand(4, n, 1, 1, generator=rng)
    noise = torch.rand(n, _SIDE, _SIDE, generator=rng)
    constant = r[0] + 0.02 * torch.randn(n, _SIDE, _SIDE, generator=rng)
    turn = math.pi * r[1]
    stripes = 0.5 + 0.5 * torch.sin((6 + 14 * r[2]) * (u * turn.cos() + v * turn.sin()) + 6 * r[3])
    kinds = torch.stack([noise, constant, stripes])
    return kinds[torch.arange(n) % 3, torch.arange(n)].clamp(0, 1).unsqueeze(1)


def compositions(seed: int, n_classes: int, side: int, n_train: int, n_test: int) -> Compositions:
    """Draw ``n_classes`` of the ``side`` x ``side`` pairs as known classes; the other pairs are near outliers.

    Every texture and every glyph occurs in some known class, so a near outlier is new in its combination alone.
    """
    rng = generator(spawn_seed(seed, "compositions"))
    texture, glyph = torch.randperm(_N_TEXTURES, generator=rng)[:side], torch.randperm(_N_GLYPHS, generator=rng)[:side]
    # Shifted diagonals: the first ``side`` pairs already hold every texture and glyph once.
    place = torch.arange(side * side)
    pair = torch.stack([texture[place % side], glyph[(place % side + place // side) % side]], 1)
    known, unknown = pair[:n_classes], pair[n_classes:]
    y, y_test = torch.arange(n_train) % n_classes, torch.arange(n_test) % n_classes
    new = unknown[torch.arange(n_test) % len(unknown)]
    return Compositions(
        x=render(known[y, 0], known[y, 1], rng),
        y=y,
        x_test=render(known[y_test, 0], known[y_test, 1], rng),
        y_test=y_test,
        near=render(new[:, 0], new[:, 1], rng),
        far=far_outliers(n_test, rng),
    )
