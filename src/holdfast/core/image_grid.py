"""Many images as one picture."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from holdfast.core.checkpoint import atomic_write
from holdfast.core.checks import check_number

__all__ = ["data_url", "image_grid", "png_bytes", "save_png"]


def image_grid(
    images: Any, *, columns: int | None = None, gap: int = 2, zoom: int = 1
) -> UInt8[np.ndarray, "height width channels"]:
    """Return images side by side, row by row, on a white ground.

    Args:
        images: (n, H, W), (n, C, H, W) or (n, H, W, C) with 1, 3 or 4 channels; integers from 0 to 255, or floats in
            [0, 1].
        columns: images in a row; by default as many as make a square.
        gap: pixels between images, after zooming.
        zoom: whole factor by which pixels are enlarged.

    Raises:
        ValueError: for no images, another shape, or values out of range.

    Examples:
        >>> image_grid(np.zeros((6, 8, 8)), columns=3, gap=1).shape
        (17, 26, 1)
    """
    a = np.asarray(images)
    if a.ndim == 3:
        a = a[..., None]
    elif a.ndim == 4 and a.shape[1] in (1, 3, 4):
        a = a.transpose(0, 2, 3, 1)
    if a.ndim != 4 or a.shape[3] not in (1, 3, 4) or a.size == 0:
        raise ValueError(f"images must be (n, H, W) or have 1, 3 or 4 channels first or last, got {np.shape(images)}")
    if a.dtype.kind == "f":
        if not (a.min() >= -1e-6 and a.max() <= 1 + 1e-6):
            raise ValueError(f"float images must lie in [0, 1], got values from {a.min():g} to {a.max():g}")
        a = np.rint(a.clip(0, 1) * 255)
    a = a.astype(np.uint8)
    check_number("gap", gap, low=0, integer=True)
    zoom = int(check_number("zoom", zoom, low=1, integer=True))
    n, h, w, c = a.shape
    k = math.ceil(math.sqrt(n)) if columns is None else int(check_number("columns", columns, low=1, integer=True))
    k = min(k, n)
    rows = -(-n // k)
    a = a.repeat(zoom, 1).repeat(zoom, 2)
    h, w = h * zoom, w * zoom
    out = np.full((rows * (h + gap), k * (w + gap), c), 255, np.uint8)
    cells = out.reshape(rows, h + gap, k, w + gap, c)
    padded = np.full((rows * k, h, w, c), 255, np.uint8)
    padded[:n] = a
    cells[:, :h, :, :w] = padded.reshape(rows, k, h, w, c).transpose(0, 2, 1, 3, 4)
    return out[: rows * (h + gap) - gap, : k * (w + gap) - gap]


def png_bytes(picture: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """Return a picture as a PNG file's bytes.

    Examples:
        >>> png_bytes(np.zeros((2, 2, 1), np.uint8))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(picture: UInt8[np.ndarray, "height width channels"]) -> str:
    """Return a picture as text that a page shows without another file.

    Examples:
        >>> data_url(np.zeros((2, 2, 1), np.uint8))[:22]
        'data:image/png;base64,'
    """
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode()


def save_png(picture: UInt8[np.ndarray, "height width channels"], path: str | Path) -> Path:
    """Write a picture to ``path``, beside and then in place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(path, lambda f: f.write(png_bytes(picture)))
