"""Noise corruptions: Gaussian, shot, impulse. Planes in [0, 1] in and out; severities 1 to 5."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise"]

Planes = Float[Tensor, "n c h w"]


def gaussian_noise(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Add normal noise of deviation 0.08, 0.12, 0.18, 0.26, 0.38."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return x + sigma * torch.randn(x.shape, generator=generator)


def shot_noise(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Count photons: a Poisson number with mean ``x * c`` for full scale c = 60, 25, 12, 5, 3."""
    photons = (60.0, 25.0, 12.0, 5.0, 3.0)[severity - 1]
    return torch.poisson(x * photons, generator=generator) / photons


def impulse_noise(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Set a share 0.03, 0.06, 0.09, 0.17, 0.27 of the values to black or white, half each."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    u = torch.rand(x.shape, generator=generator)
    return torch.where(u < share / 2, torch.zeros_like(x), torch.where(u > 1 - share / 2, torch.ones_like(x), x))
