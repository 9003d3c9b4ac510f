"""Images in any usual layout as float planes (n, C, H, W), and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_finite

__all__ = ["CHANNELS", "as_planes", "map_images", "per_sample"]

CHANNELS = (1, 2, 3, 4)
_CHUNK_VALUES = 2**21

Planes = Float[Tensor, "n channels height width"]


def as_planes(images: Any, *, unit: bool = False) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return ``(planes, restore)``: float32 (n, C, H, W) planes, and the function that undoes the conversion.

    Takes arrays and tensors of shape (n, H, W), (n, C, H, W) or, where the second axis can be no channel axis,
    (n, H, W, C). Bytes are scaled to [0, 1]; ``restore`` rounds and clips them. Floats keep their range, and must
    lie in [0, 1] when ``unit``. Planes may have gained channels: a grey image without a channel axis then comes
    back as (n, C, H, W).

    Raises:
        TypeError: for anything but an array or tensor of bytes or floats.
        ValueError: for another shape, an image with a side below 1, values that are not finite or, with ``unit``,
            outside [0, 1].

    Examples:
        >>> planes, restore = as_planes(np.full((2, 8, 8, 3), 255, np.uint8))
        >>> planes.shape, float(planes.max()), restore(planes).dtype
        (torch.Size([2, 3, 8, 8]), 1.0, dtype('uint8'))
    """
    if not isinstance(images, (np.ndarray, Tensor)):
        raise TypeError(f"images must be an array or a tensor, got {type(images).__name__}")
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise TypeError(f"images must be uint8 or float, got {images.dtype}")
    grey = tensor.ndim == 3
    last = tensor.ndim == 4 and tensor.shape[1] not in CHANNELS and tensor.shape[-1] in CHANNELS
    if not (grey or last or (tensor.ndim == 4 and tensor.shape[1] in CHANNELS)) or 0 in tensor.shape[1:]:
        raise ValueError(
            "images must have shape (n, H, W), (n, C, H, W) or (n, H, W, C) with 1 to 4 channels, "
            f"got {tuple(images.shape)}"
        )
    planes = tensor.unsqueeze(1) if grey else tensor.movedim(-1, 1) if last else tensor
    planes = planes.to(torch.float32).contiguous()
    if tensor.dtype == torch.uint8:
        planes = planes / 255.0
    else:
        check_finite("images", planes)
        if unit and planes.numel() and (float(planes.min()) < 0 or float(planes.max()) > 1):
            raise ValueError(
                "float images must lie in [0, 1], got values in "
                f"[{float(planes.min()):g}, {float(planes.max()):g}]; divide by the largest possible value"
            )

    def restore(out: Tensor) -> Any:
        if tensor.dtype == torch.uint8:
            out = (out * 255.0).round().clamp(0, 255)
        out = out.to(tensor.dtype)
        if last:
            out = out.movedim(1, -1)
        elif grey and out.shape[1] == 1:
            out = out.squeeze(1)
        return out if isinstance(images, Tensor) else out.contiguous().numpy()

    return planes, restore


def per_sample(name: str, value: Any, n: int) -> Tensor:
    """Return a number, or one number per sample, as a float64 tensor of n entries.

    Examples:
        >>> per_sample("degrees", 30, 2)
        tensor([30., 30.], dtype=torch.float64)
    """
    v = torch.as_tensor(np.asarray(value, dtype=np.float64))
    if v.ndim > 1 or (v.ndim == 1 and len(v) != n):
        raise ValueError(f"{name} must be a number or have one entry per sample ({n}), got shape {tuple(v.shape)}")
    check_finite(name, v)
    return v.expand(n) if v.ndim == 0 else v


def map_images(function: Callable[..., Tensor], images: Any, *rows: Tensor, unit: bool = False) -> Any:
    """Apply ``function(planes, *rows)`` to runs of images, and return the results in the images' own layout.

    Only one run at a time is held as floats. Its length depends on the size of an image alone, so draws inside
    ``function`` are reproducible.

    Args:
        function: takes (m, C, H, W) float planes and m entries of each of ``rows``.
        images: see :func:`as_planes`.
        rows: tensors with one entry per image.
        unit: see :func:`as_planes`.

    Examples:
        >>> map_images(lambda x: 1 - x, np.zeros((2, 1, 1), np.uint8)).ravel().tolist()
        [255, 255]
    """
    as_planes(images[:1] if isinstance(images, (np.ndarray, Tensor)) else images)
    if not bool(np.isfinite(float(images.sum()))):
        # Named here with the row among all images, which a run would not know.
        check_finite("images", images if isinstance(images, Tensor) else np.array(images))
    size = max(1, _CHUNK_VALUES // max(1, int(np.prod(images.shape[1:]))))
    pieces = []
    for start in range(0, max(1, len(images)), size):
        run = slice(start, start + size)
        planes, restore = as_planes(images[run], unit=unit)
        pieces.append(restore(function(planes, *(r[run] for r in rows))))
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces) if isinstance(images, Tensor) else np.concatenate(pieces)
