"""Denoising networks by name and size, fitted to the shape of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.backbones.mlp import DenoisingMLP
from holdfast.diffusion.backbones.unet import UNet

__all__ = ["NETWORKS", "NETWORK_SIZES", "make_denoising_network"]

NETWORK_SIZES = ("tiny", "small", "base", "large")

NETWORKS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "unet": {
        "tiny": {"base": 8, "mult": (1, 2, 2), "blocks_per_level": 1, "attention": False},
        "small": {"base": 16, "mult": (1, 2, 2), "blocks_per_level": 1, "attention": False},
        "base": {"base": 64, "mult": (1, 2, 2), "blocks_per_level": 2, "attention": True},
        "large": {"base": 128, "mult": (1, 2, 2, 2), "blocks_per_level": 2, "attention": True},
    },
    "dit": {
        "tiny": {"width": 64, "depth": 4, "heads": 4, "tokens": 64},
        "small": {"width": 128, "depth": 6, "heads": 4, "tokens": 64},
        "base": {"width": 384, "depth": 12, "heads": 6, "tokens": 256},
        "large": {"width": 768, "depth": 12, "heads": 12, "tokens": 256},
    },
    "mlp": {
        "tiny": {"width": 32, "depth": 2},
        "small": {"width": 128, "depth": 4},
        "base": {"width": 256, "depth": 6},
        "large": {"width": 512, "depth": 8},
    },
}
"""Every network by name and size. "tiny" and "small" are for a CPU, "base" and "large" for a GPU."""


def make_denoising_network(
    shape: tuple[int, ...],
    *,
    name: Literal["auto", "unet", "dit", "mlp"] = "auto",
    size: str = "small",
    num_classes: int = 0,
    class_dropout: float = 0.1,
    time_scale: float = 1.0,
    patch: int | None = None,
) -> nn.Module:
    """Return a fresh denoising network for data of a shape.

    Weights are drawn from torch's global generator; put the call inside
    :func:`holdfast.core.random.isolated_rng` to fix them.

    Args:
        shape: (d,) of vectors or (C, H, W) of images.
        name: "unet" (square images whose side allows it), "dit" (any image that patches divide), "mlp" (vectors), or
            "auto": "mlp" for vectors; for images "unet" where it fits, else "dit".
        size: "tiny", "small", "base" or "large", see :data:`NETWORKS`.
        num_classes, class_dropout, time_scale: of the network.
        patch: side of a patch of a DiT; by default the smallest that divides the image and gives no more tokens than
            the size is made for.

    Raises:
        ValueError: for a network that does not take such data, a side that levels or patches do not divide.

    Examples:
        >>> make_denoising_network((1, 28, 28), name="dit", size="tiny").grid
        (7, 7)
        >>> make_denoising_network((1, 30, 30), name="unet", size="tiny")
        Traceback (most recent call last):
        ...
        ValueError: a U-Net of size 'tiny' halves the image 2 times, so it needs a square image whose side is a
        multiple of 4, got 30 x 30: resize the images to 28 x 28 or 32 x 32, or take network='dit'
    """
    check_choice("network", name, ["auto", *NETWORKS])
    check_choice("size", size, NETWORK_SIZES)
    options: dict[str, Any] = {
        "num_classes": num_classes, "class_dropout": class_dropout, "time_scale": time_scale
    }  # fmt: skip
    if len(shape) == 1:
        if name not in ("auto", "mlp"):
            raise ValueError(f"network {name!r} takes images, the data are vectors of length {shape[0]}: take 'mlp'")
        return DenoisingMLP(shape[0], **NETWORKS["mlp"][size], **options)
    channels, height, width = shape
    levels = len(NETWORKS["unet"][size]["mult"])
    fits = height == width and height % 2 ** (levels - 1) == 0
    if name == "mlp":
        raise ValueError(f"network 'mlp' takes vectors, the data are images of shape {shape}: take 'unet' or 'dit'")
    if name == "unet" or (name == "auto" and fits and patch is None):
        if patch is not None:
            raise ValueError("patch goes with network='dit'; a U-Net has none")
        if not fits:
            raise ValueError(_unfit(size, height, width, 2 ** (levels - 1), levels - 1))
        return _unet(channels, height, size, options)
    preset = dict(NETWORKS["dit"][size])
    tokens = preset.pop("tokens")
    return DiT(channels, (height, width), patch or _patch(height, width, tokens), **preset, **options)


def _unet(channels: int, side: int, size: str, options: dict[str, Any]) -> UNet:
    preset = dict(NETWORKS["unet"][size])
    attention = preset.pop("attention")
    levels = len(preset["mult"])
    attended = [side // 2**i for i in range(levels) if side // 2**i <= 16] if attention else []
    return UNet(channels, side, **preset, attn_resolutions=attended, resample_blocks=False, **options)


def _unfit(size: str, height: int, width: int, factor: int, halvings: int) -> str:
    low = max(factor, min(height, width) // factor * factor)
    high = low + factor
    near = f"{low} x {low}" if low == min(height, width) else f"{low} x {low} or {high} x {high}"
    return (
        f"a U-Net of size {size!r} halves the image {halvings} times, so it needs a square image whose side is a "
        f"multiple of {factor}, got {height} x {width}: resize the images to {near}, or take network='dit'"
    )


def _patch(height: int, width: int, tokens: int) -> int:
    """The smallest patch that divides both sides and gives at most so many tokens."""
    common = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
    for p in common:
        if (height // p) * (width // p) <= tokens:
            check_number("patch", p, low=1, integer=True)
            if (height // p) * (width // p) >= 4:
                return p
            break
    raise ValueError(
        f"no patch divides {height} x {width} pixels into 4 to {tokens} tokens: resize the images to sides with a "
        "common divisor such as 4 or 8"
    )
