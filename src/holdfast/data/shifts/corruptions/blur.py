"""Blur corruptions: defocus, glass, motion, zoom. Planes in [0, 1] in and out; severities 1 to 5."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.data.shifts.corruptions.fields import blur_along, gaussian_blur, length
from holdfast.data.shifts.geometry import pixel_grid, warp

__all__ = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]

Planes = Float[Tensor, "n c h w"]


def defocus_blur(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Average over a disc, of radius 1.3 to 4.5 percent of the side, with a softened rim."""
    radius = length(x, severity, (0.013, 0.018, 0.027, 0.036, 0.045), (0.6, 0.8, 1.0, 1.25, 1.5))
    reach, fine = math.ceil(radius) + 1, 8
    # The share of every pixel that the disc covers, on a grid of 8 x 8 points per pixel.
    ticks = (torch.arange((2 * reach + 1) * fine) + 0.5) / fine - (reach + 0.5)
    inside = (ticks[:, None] ** 2 + ticks[None, :] ** 2 <= radius**2).float()
    kernel = gaussian_blur(F.avg_pool2d(inside[None, None], fine), 0.4)
    channels = x.shape[1]
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel, groups=channels)


def glass_blur(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Blur, then let every pixel show a randomly displaced place nearby, several times over."""
    sigma = length(x, severity, (0.003, 0.004, 0.0045, 0.005, 0.0067), (0.3, 0.35, 0.4, 0.45, 0.5))
    reach = length(x, severity, (0.0045, 0.007, 0.009, 0.0135, 0.018), (0.6, 0.8, 1.0, 1.3, 1.7))
    grid = pixel_grid(*x.shape[-2:])
    x = gaussian_blur(x, sigma)
    for _ in range(2):
        offset = 2 * torch.rand(len(x), *grid.shape, generator=generator) - 1
        x = warp(x, grid + reach * offset, fill=None)
    return gaussian_blur(x, sigma)


def motion_blur(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Average along a line at a random angle within 45 degrees of the horizontal, one per image."""
    sigma = length(x, severity, (0.013, 0.022, 0.036, 0.054, 0.067), (0.6, 0.8, 1.1, 1.5, 2.0))
    degrees = 90 * torch.rand(len(x), generator=generator) - 45
    return blur_along(x, degrees, sigma)


def zoom_blur(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Average over enlargements from 1 to 1.11, 1.16, 1.21, 1.26, 1.31."""
    most = (1.11, 1.16, 1.21, 1.26, 1.31)[severity - 1]
    h, w = x.shape[-2:]
    centre = torch.tensor([(w - 1) / 2, (h - 1) / 2])
    grid = pixel_grid(h, w) - centre
    zooms = torch.linspace(1.0, most, 12)
    out = torch.zeros_like(x)
    for zoom in zooms.tolist():
        out += warp(x, (grid / zoom + centre).expand(len(x), -1, -1, -1), fill=None)
    return out / len(zooms)
