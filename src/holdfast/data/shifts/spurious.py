"""Attributes that go along with the label for no good reason: colour, background, an extra feature."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.data.shifts.layout import map_images

__all__ = ["append_feature", "paint_background", "palette", "spurious_attribute", "tint"]


def palette(n: int) -> Float[np.ndarray, "n 3"]:
    """Return n saturated colours (RGB in [0, 1]) at equal steps of hue, starting at red; two are red and green.

    Examples:
        >>> palette(2).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    check_number("n", n, low=1, integer=True)
    if n == 2:
        return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return np.array([colorsys.hsv_to_rgb(i / n, 1.0, 1.0) for i in range(n)])


def spurious_attribute(
    labels: Int64[np.ndarray, "n"], n_values: int, strength: Any, *, seed: int
) -> Int64[np.ndarray, "n"]:
    r"""Draw ``a`` with ``P(a = y) = strength``, all other values being equally likely.

    ``strength = 1 / n_values`` makes the attribute independent of the label. For two balanced classes the
    correlation of the two is ``2 * strength - 1``.

    Args:
        labels: (n,) codes in [0, n_values).
        n_values: number of values, at least 2.
        strength: probability of agreement, one number or one per sample.
        seed: fixes the draw.

    Raises:
        ValueError: for a strength outside [0, 1] or labels out of range.

    Source: Arjovsky et al., "Invariant risk minimization", 2019, section 5.2 (coloured digits).

    Examples:
        >>> spurious_attribute(np.array([0, 1, 1]), 2, 1.0, seed=1).tolist()
        [0, 1, 1]
    """
    check_number("n_values", n_values, low=2, integer=True)
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or (labels.size and (labels.min() < 0 or labels.max() >= n_values)):
        raise ValueError(f"labels must be integers in [0, {n_values})")
    p = np.broadcast_to(np.asarray(strength, dtype=np.float64), labels.shape)
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"strength must be in [0, 1], got values in [{p.min():g}, {p.max():g}]")
    # A stream of its own: labels or inputs drawn from the same seed elsewhere stay independent of it.
    rng = np.random.default_rng(spawn_seed(seed, "spurious attribute"))
    agree = rng.random(labels.shape) < p
    other = (labels + rng.integers(1, n_values, labels.shape)) % n_values
    return np.where(agree, labels, other).astype(np.int64)


def _three_channels(planes: Tensor) -> Tensor:
    if planes.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {planes.shape[1]}")
    return planes.expand(-1, 3, -1, -1) if planes.shape[1] == 1 else planes


def _colours(colours: Any, n: int) -> Tensor:
    c = torch.as_tensor(np.asarray(colours), dtype=torch.float32)
    if c.shape != (n, 3) or (c.numel() and (float(c.min()) < 0 or float(c.max()) > 1)):
        raise ValueError(f"colours must be one RGB triple in [0, 1] per image, shape ({n}, 3), got {tuple(c.shape)}")
    return c[:, :, None, None]


def tint(images: Any, colours: Float[np.ndarray, "n 3"], *, amount: float = 1.0) -> Any:
    """Give every image its colour: ``(1 - amount) * x + amount * brightness * colour``.

    Args:
        images: (n, H, W), (n, C, H, W) or (n, H, W, C), grey or RGB. Grey images gain the colour channels:
            (n, H, W) comes back as (n, 3, H, W).
        colours: one RGB triple per image.
        amount: 1 paints in the one colour, 0 leaves the image.

    Examples:
        >>> tint(np.full((1, 8, 8), 200, np.uint8), palette(2)[[1]])[0, :, 0, 0].tolist()
        [0, 200, 0]
    """
    check_number("amount", amount, low=0, high=1)

    def paint(planes: Tensor, colour: Tensor) -> Tensor:
        x = _three_channels(planes)
        painted = amount * planes.amax(dim=1, keepdim=True) * colour
        return painted if amount == 1 else painted + (1 - amount) * x

    return map_images(paint, images, _colours(colours, len(images)))


def paint_background(images: Any, colours: Float[np.ndarray, "n 3"], *, softness: float = 0.25) -> Any:
    """Replace the background of every image by its colour and leave the object.

    What looks like the border is background: with ``d`` the largest difference of a pixel's channels to the
    median of the image's border, the pixel keeps a share ``min(1, d / softness)`` and the colour takes the rest.

    Args:
        images: grey or RGB images as in :func:`tint`; bytes, or floats in [0, 1].
        colours: one RGB triple per image.
        softness: difference to the border at which a pixel belongs wholly to the object.

    Examples:
        >>> x = np.zeros((1, 8, 8), np.uint8); x[0, 4, 4] = 255
        >>> y = paint_background(x, palette(2)[[0]])
        >>> y[0, :, 0, 0].tolist(), y[0, :, 4, 4].tolist()
        ([255, 0, 0], [255, 255, 255])
    """
    check_number("softness", softness, low=0, open_low=True)

    def paint(planes: Tensor, colour: Tensor) -> Tensor:
        x = _three_channels(planes)
        rim = torch.cat([planes[:, :, 0], planes[:, :, -1], planes[:, :, 1:-1, 0], planes[:, :, 1:-1, -1]], dim=2)
        background = rim.median(dim=2).values[:, :, None, None]
        keep = ((planes - background).abs().amax(dim=1, keepdim=True) / softness).clamp(max=1.0)
        return keep * x + (1 - keep) * colour

    return map_images(paint, images, _colours(colours, len(images)), unit=True)


def append_feature(
    x: Float[np.ndarray, "n d"],
    attribute: Int64[np.ndarray, "n"],
    n_values: int,
    *,
    noise: float,
    scale: float = 1.0,
    seed: int,
) -> np.ndarray:
    """Append the attribute to vectors as further features: a sign for two values, one indicator per value else.

    Args:
        x: (n, d) vectors.
        attribute: codes in [0, n_values).
        n_values: number of values.
        noise: deviation of the normal noise on every new feature, before ``scale``.
        scale: factor of the new features.
        seed: fixes the noise.

    Examples:
        >>> append_feature(np.zeros((2, 1)), np.array([0, 1]), 2, noise=0.0, seed=1).tolist()
        [[0.0, -1.0], [0.0, 1.0]]
    """
    check_number("noise", noise, low=0)
    x, attribute = np.asarray(x), np.asarray(attribute)
    new = 2.0 * attribute[:, None] - 1 if n_values == 2 else 2.0 * np.eye(n_values)[attribute] - 1
    new = scale * (new + noise * np.random.default_rng(spawn_seed(seed, "appended feature")).standard_normal(new.shape))
    dtype = np.result_type(x.dtype, np.float32)
    return np.concatenate([x.astype(dtype), new.astype(dtype)], axis=1)
