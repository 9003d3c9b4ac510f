"""Weather corruptions: snow, frost, fog, brightness. Planes in [0, 1] in and out; severities 1 to 5."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.data.shifts.corruptions.fields import blur_along, fractal_noise, length, luminance

__all__ = ["brightness", "fog", "frost", "snow"]

Planes = Float[Tensor, "n c h w"]


def snow(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Whiten the scene and add falling flakes, streaked by their motion, at two depths."""
    n, _, h, w = x.shape
    share = (0.04, 0.07, 0.10, 0.13, 0.17)[severity - 1]
    keep = (0.85, 0.75, 0.65, 0.57, 0.48)[severity - 1]
    streak = length(x, severity, (0.012, 0.014, 0.016, 0.018, 0.02), (0.4, 0.45, 0.5, 0.55, 0.6))
    scene = keep * x + (1 - keep) * torch.maximum(x, 0.6 * luminance(x) + 0.4)
    degrees = 45 + 90 * torch.rand(n, generator=generator)
    for cells in (96, 48):
        # Near flakes are about twice as large as far ones; on small images a flake is one pixel.
        rows, columns = min(h, max(4, cells * h // max(h, w))), min(w, max(4, cells * w // max(h, w)))
        u = torch.rand(n, 1, rows, columns, generator=generator)
        flakes = torch.where(u < share / 2, torch.ones_like(u), torch.zeros_like(u))
        flakes = F.interpolate(flakes, size=(h, w), mode="bilinear", align_corners=False)
        scene = scene + blur_along(flakes, degrees, streak)
    return scene


def frost(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Lay ice crystals, grown from creased noise, thicker towards the rim, over a dimmed scene."""
    n, c, h, w = x.shape
    keep = (0.90, 0.80, 0.70, 0.62, 0.55)[severity - 1]
    ice = (0.30, 0.42, 0.54, 0.62, 0.70)[severity - 1]
    crystals = fractal_noise(n, h, w, generator, persistence=0.75, cells=3, ridged=True)
    rows, columns = torch.linspace(-1, 1, h).abs(), torch.linspace(-1, 1, w).abs()
    rim = torch.maximum(rows[:, None], columns[None, :])
    texture = (crystals * (0.6 + 0.6 * rim)).clamp(0, 1)
    tint = torch.tensor([0.85, 0.95, 1.0]).view(1, 3, 1, 1) if c == 3 else torch.ones(1, 1, 1, 1)
    return keep * x + ice * texture * tint


def fog(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Add fractal fog of amount 1.5, 2, 2.5, 2.75, 3 and compress the result back to the scene's range."""
    amount = (1.5, 2.0, 2.5, 2.75, 3.0)[severity - 1]
    roughness = (0.50, 0.50, 0.55, 0.60, 0.65)[severity - 1]
    n, _, h, w = x.shape
    top = x.amax(dim=(1, 2, 3), keepdim=True).clamp_min(0.5)
    mist = fractal_noise(n, h, w, generator, persistence=roughness)
    return (x + amount * mist) * top / (top + amount)


def brightness(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Raise the value of hue, saturation, value by 0.1 to 0.5; black becomes grey."""
    amount = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    value = x.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(max=1.0)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-12), raised)
