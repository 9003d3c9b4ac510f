"""The fifteen usual corruptions of images, at five severities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import generator, spawn_seed
from holdfast.data.shifts.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from holdfast.data.shifts.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from holdfast.data.shifts.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from holdfast.data.shifts.corruptions.weather import brightness, fog, frost, snow
from holdfast.data.shifts.layout import map_images

__all__ = ["CORRUPTIONS", "corrupt"]

CORRUPTIONS: Mapping[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""Corruption families by name."""


def corrupt(images: Any, family: str, severity: int, *, seed: int) -> Any:
    """Corrupt images as a camera, the weather or a codec would.

    Families and the order of severities follow the benchmark below; the code, the procedural frost and fog, and
    the lengths, which are shares of the image's side instead of pixels of one image size, are this library's own.
    Do not compare error rates with published ones.

    Args:
        images: (n, H, W), (n, C, H, W) or (n, H, W, C) with sides of at least 8; bytes, or floats in [0, 1].
        family: a key of ``CORRUPTIONS``.
        severity: 1 to 5; 0 returns a copy.
        seed: the same seed gives the same bits.

    Returns:
        Images in the same layout and dtype, floats clipped to [0, 1].

    Raises:
        ValueError: for an unknown family, a severity out of range, images that are too small or out of range.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
    perturbations", ICLR 2019, section 3.

    Examples:
        >>> import numpy as np
        >>> x = np.full((2, 8, 8), 128, np.uint8)
        >>> corrupt(x, "brightness", 5, seed=1)[0, 0, 0], corrupt(x, "contrast", 5, seed=1)[0, 0, 0]
        (np.uint8(255), np.uint8(128))
    """
    check_choice("family", family, list(CORRUPTIONS))
    check_number("severity", severity, low=0, high=5, integer=True)
    function, g = CORRUPTIONS[family], generator(spawn_seed(seed, family))

    def degrade(x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < 8:
            raise ValueError(f"images must have sides of at least 8 pixels, got {tuple(x.shape[-2:])}")
        return function(x, int(severity), g).clamp(0.0, 1.0) if severity and len(x) else x

    return map_images(degrade, images, unit=True)
