"""Digital corruptions: contrast, elastic, pixelate, JPEG. Planes in [0, 1] in and out; severities 1 to 5."""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from holdfast.data.shifts.corruptions.fields import gaussian_blur, length
from holdfast.data.shifts.geometry import pixel_grid, warp

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate"]

Planes = Float[Tensor, "n c h w"]


def contrast(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Shrink the distance to the channel's mean to a share 0.4, 0.3, 0.2, 0.1, 0.05."""
    share = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + share * (x - mean)


def elastic_transform(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Displace every pixel by a smooth random field with a root mean square of 1 to 5 percent of the side."""
    n, _, h, w = x.shape
    amount = length(x, severity, (0.010, 0.018, 0.026, 0.036, 0.050), (0.30, 0.45, 0.60, 0.80, 1.05))
    field = gaussian_blur(2 * torch.rand(n, 2, h, w, generator=generator) - 1, max(1.0, 0.07 * min(h, w)))
    field = field / field.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return warp(x, pixel_grid(h, w) + amount * field.movedim(1, -1), fill=None)


def pixelate(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Average over blocks so that 0.6, 0.5, 0.4, 0.3, 0.25 of the side's pixels are left, shown at full size."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    rows, columns = (_blocks(side, max(1, round(share * side))) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _blocks(side: int, blocks: int) -> Tensor:
    """Return the (side, side) matrix that gives every pixel the mean over the block its centre is in."""
    edges = torch.linspace(0, side, blocks + 1)
    pixel = torch.arange(side, dtype=torch.float32)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    mean = overlap.clamp_min(0) * (blocks / side)
    return mean[torch.searchsorted(edges[1:], pixel + 0.5, right=True).clamp(max=blocks - 1)]


def jpeg_compression(x: Planes, severity: int, generator: torch.Generator) -> Planes:
    """Save as JPEG of quality 25, 18, 15, 10, 7 and read back; the codec takes one image at a time."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    raw = (x * 255).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
    # One or three channels make one picture; any other number is saved channel by channel.
    pictures = raw if raw.shape[-1] == 3 else raw.transpose(0, 3, 1, 2).reshape(-1, *raw.shape[1:3])
    out = np.empty_like(pictures)
    for i, picture in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        out[i] = np.asarray(Image.open(buffer))
    planes = torch.from_numpy(out).float() / 255
    return planes.movedim(-1, 1) if raw.shape[-1] == 3 else planes.view(x.shape)
