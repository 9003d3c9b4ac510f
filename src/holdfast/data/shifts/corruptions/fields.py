"""Building blocks of the corruptions: blur, fractal noise, lengths that follow the size of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.data.shifts.geometry import pixel_grid, warp

__all__ = ["blur_along", "fractal_noise", "gaussian_blur", "length", "luminance"]


def length(planes: Tensor, severity: int, per_side: Sequence[float], at_least: Sequence[float]) -> float:
    """Return a length in pixels: a share of the short side, but never below the severity's floor.

    The floor keeps the five severities apart on images so small that the share is less than a pixel.

    Examples:
        >>> length(torch.zeros(1, 1, 100, 200), 2, (0.01, 0.05), (1.0, 1.5))
        5.0
    """
    return max(per_side[severity - 1] * min(planes.shape[-2:]), at_least[severity - 1])


def gaussian_blur(planes: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Convolve with a Gaussian of ``sigma`` pixels; the border is repeated.

    Examples:
        >>> bool(torch.allclose(gaussian_blur(torch.ones(1, 1, 8, 8), 2.0), torch.ones(1, 1, 8, 8)))
        True
    """
    radius = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    return separable(planes, taps / taps.sum())


def separable(planes: Tensor, taps: Tensor) -> Tensor:
    """Convolve rows and columns with ``taps``; the border is repeated."""
    radius, channels = len(taps) // 2, planes.shape[1]
    x = F.pad(planes, (radius, radius, radius, radius), mode="replicate")
    x = F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def blur_along(
    planes: Float[Tensor, "n c h w"], degrees: Float[Tensor, " n"], sigma: float
) -> Float[Tensor, "n c h w"]:
    """Average along a line through every pixel, with Gaussian weights of ``sigma`` pixels; one angle per image.

    Examples:
        >>> x = torch.zeros(1, 1, 9, 9); x[..., 4, :] = 1
        >>> bool(torch.allclose(blur_along(x, torch.zeros(1), 2.0), x, atol=1e-5))
        True
    """
    radians = torch.deg2rad(degrees)
    step = torch.stack([torch.cos(radians), torch.sin(radians)], dim=-1)[:, None, None, :]
    grid = pixel_grid(*planes.shape[-2:])
    # Taps at most one pixel apart, and at least four per sigma on small images, to two sigma on either side.
    reach = max(2, math.ceil(2 * sigma))
    positions = torch.linspace(-2 * sigma, 2 * sigma, 2 * reach + 1)
    weights = torch.exp(-0.5 * (positions / sigma) ** 2)
    out = torch.zeros_like(planes)
    for position, weight in zip(positions.tolist(), (weights / weights.sum()).tolist()):
        out += weight * warp(planes, grid + position * step, fill=None)
    return out


def fractal_noise(
    n: int, h: int, w: int, generator: torch.Generator, *, persistence: float, cells: int = 2, ridged: bool = False
) -> Float[Tensor, "n 1 h w"]:
    """Return noise in [0, 1] that sums octaves of smooth random fields, each ``persistence`` times the last.

    ``ridged`` folds every octave about its middle, which turns smooth hills into sharp creases.

    Examples:
        >>> z = fractal_noise(2, 16, 16, torch.Generator().manual_seed(1), persistence=0.5)
        >>> z.shape, float(z.amin()), float(z.amax())
        (torch.Size([2, 1, 16, 16]), 0.0, 1.0)
    """
    total, weight = torch.zeros(n, 1, h, w), 1.0
    while cells < 2 * max(h, w):
        grid = torch.rand(n, 1, cells + 1, cells + 1, generator=generator)
        octave = F.interpolate(grid, size=(h, w), mode="bilinear", align_corners=True)
        total += weight * (1 - (2 * octave - 1).abs() if ridged else octave)
        weight, cells = weight * persistence, 2 * cells
    low, high = total.amin(dim=(1, 2, 3), keepdim=True), total.amax(dim=(1, 2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-12)


def luminance(planes: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Return the perceived brightness: Rec. 601 weights for three channels, the mean otherwise.

    Examples:
        >>> round(luminance(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)).item(), 3)
        0.587
    """
    if planes.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        return (planes * weights).sum(dim=1, keepdim=True)
    return planes.mean(dim=1, keepdim=True)
