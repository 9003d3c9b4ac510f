"""Rotation, translation and scale of images and vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.data.shifts.layout import map_images, per_sample

__all__ = ["rotate", "rotate_vectors", "scale", "translate", "warp"]


def warp(
    planes: Float[Tensor, "n c h w"], source: Float[Tensor, "n h w 2"], *, fill: float | None = 0.0
) -> Float[Tensor, "n c h w"]:
    """Return the bilinear values of ``planes`` at pixel positions ``source`` (column, row).

    Positions outside the image read ``fill``, or the nearest border pixel where ``fill`` is None.

    Examples:
        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> warp(x, torch.full((1, 1, 1, 2), 0.5)).item()
        1.5
    """
    h, w = planes.shape[-2:]
    size = torch.tensor([w, h], dtype=torch.float32)
    grid = (2 * source + 1) / size - 1
    if fill is None:
        return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return F.grid_sample(planes - fill, grid, padding_mode="zeros", align_corners=False) + fill


def pixel_grid(h: int, w: int) -> Float[Tensor, "h w 2"]:
    """Return the (column, row) of every pixel.

    Examples:
        >>> pixel_grid(1, 2).tolist()
        [[[0.0, 0.0], [1.0, 0.0]]]
    """
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([columns, rows], dim=-1).float()


def _affine(images: Any, matrix: Tensor, shift: Tensor, fill: float) -> Any:
    """Warp by ``source = matrix (p - centre) + centre - shift``; samples with the identity are returned as is."""
    still = (matrix == torch.eye(2, dtype=matrix.dtype)).all(dim=(1, 2)) & (shift == 0).all(dim=1)

    def move(x: Tensor, m: Tensor, t: Tensor, same: Tensor) -> Tensor:
        if bool(same.all()):
            return x
        h, w = x.shape[-2:]
        centre = torch.tensor([(w - 1) / 2, (h - 1) / 2])
        source = torch.einsum("nij,hwj->nhwi", m.float(), pixel_grid(h, w) - centre) + centre
        moved = warp(x, source - t.float()[:, None, None, :], fill=fill)
        return torch.where(same[:, None, None, None], x, moved)

    return map_images(move, images, matrix, shift, still)


def _turn(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine; quarter turns give exact zeros and ones."""
    radians = torch.deg2rad(torch.remainder(degrees, 360.0))
    return torch.cos(radians).round(decimals=14), torch.sin(radians).round(decimals=14)


def rotate(images: Any, degrees: Any, *, fill: float = 0.0) -> Any:
    """Rotate images about their centre, counter-clockwise, with bilinear interpolation.

    Args:
        images: (n, H, W), (n, C, H, W) or (n, H, W, C), bytes or floats.
        degrees: one angle, or one per image.
        fill: value (on the [0, 1] scale for bytes) that comes in at the corners.

    Returns:
        Images in the same layout and dtype. A turn by a multiple of 360 returns the very values.

    Examples:
        >>> x = np.zeros((1, 3, 3), np.uint8); x[0, 1, 2] = 255
        >>> rotate(x, 90)[0].tolist()
        [[0, 255, 0], [0, 0, 0], [0, 0, 0]]
    """
    cos, sin = _turn(per_sample("degrees", degrees, len(images)))
    # Rows count downwards, so a counter-clockwise turn of the image reads the source clockwise.
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=-2)
    return _affine(images, matrix, torch.zeros(len(images), 2), fill)


def translate(images: Any, right: Any, down: Any = 0.0, *, fill: float = 0.0) -> Any:
    """Move the content of images by pixels, with bilinear interpolation for fractions.

    Args:
        images: (n, H, W), (n, C, H, W) or (n, H, W, C), bytes or floats.
        right, down: pixels, one number or one per image.
        fill: value that comes in at the border.

    Examples:
        >>> x = np.zeros((1, 2, 2), np.uint8); x[0, 0, 0] = 255
        >>> translate(x, 1, 1)[0].tolist()
        [[0, 0], [0, 255]]
    """
    n = len(images)
    shift = torch.stack([per_sample("right", right, n), per_sample("down", down, n)], dim=1)
    return _affine(images, torch.eye(2, dtype=torch.float64).expand(n, 2, 2), shift, fill)


def scale(images: Any, factor: Any, *, fill: float = 0.0) -> Any:
    """Enlarge (``factor`` > 1) or shrink the content of images about their centre; the frame stays.

    Raises:
        ValueError: where a factor is not positive.

    Examples:
        >>> x = np.zeros((1, 4, 4)); x[0, 1:3, 1:3] = 1
        >>> float(scale(x, 2.0).mean() > x.mean())
        1.0
    """
    f = per_sample("factor", factor, len(images))
    if bool((f <= 0).any()):
        raise ValueError(f"factor must be positive, got {float(f.min())}")
    matrix = torch.eye(2, dtype=torch.float64) / f[:, None, None]
    return _affine(images, matrix, torch.zeros(len(images), 2), fill)


def rotate_vectors(
    x: Float[np.ndarray, "n d"], degrees: Any, *, plane: tuple[int, int] = (0, 1)
) -> Float[np.ndarray, "n d"]:
    """Rotate vectors in the plane of two of their features, counter-clockwise about the origin.

    Raises:
        ValueError: for a plane that is not two different features.

    Examples:
        >>> rotate_vectors(np.array([[1.0, 0.0]]), 90).round(6).tolist()
        [[0.0, 1.0]]
    """
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n, d), got {x.shape}")
    i, j = plane
    if i == j or not all(0 <= k < x.shape[1] for k in plane):
        raise ValueError(f"plane must name two different features below {x.shape[1]}, got {plane}")
    cos, sin = (v.numpy() for v in _turn(per_sample("degrees", degrees, len(x))))
    out = x.astype(np.result_type(x.dtype, np.float32))
    out[:, i], out[:, j] = cos * x[:, i] - sin * x[:, j], sin * x[:, i] + cos * x[:, j]
    return out
