"""Random views of images, made on whole batches from a generator: what contrastive learning compares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_number

__all__ = ["AffineViews", "PhotoViews"]


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng, device=rng.device)


def _sample(x: Tensor, matrix: Tensor, fill: float) -> Tensor:
    """Read each image at ``matrix`` (n, 2, 3) times its coordinates in [-1, 1]; outside it is ``fill``."""
    grid = F.affine_grid(matrix.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x - fill, grid, padding_mode="zeros", align_corners=False) + fill


@dataclass(frozen=True)
class AffineViews:
    """Turn, scale, shear and shift every image at random: views for drawn or written shapes.

    Args:
        rotation: degrees to either side.
        scale: relative change of size to either side.
        shear: horizontal shear to either side.
        shift: share of half the side, to either side of both axes.
        fill: value of what comes in at the border.

    Raises:
        ValueError: for a negative amount, or a scale of 1 or more.

    Examples:
        >>> views = AffineViews(fill=-1.0)
        >>> views(torch.zeros(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """

    rotation: float = 20.0
    scale: float = 0.25
    shear: float = 0.2
    shift: float = 0.25
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_number("rotation", self.rotation, low=0)
        check_number("scale", self.scale, low=0, high=1, open_high=True)
        check_number("shear", self.shear, low=0)
        check_number("shift", self.shift, low=0)

    def __call__(self, x: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Return one view of each image."""
        n = len(x)
        angle = _uniform(n, -self.rotation, self.rotation, generator) * (math.pi / 180)
        size = 1 / (1 + _uniform(n, -self.scale, self.scale, generator))
        shear = _uniform(n, -self.shear, self.shear, generator)
        shift = _uniform(2 * n, -self.shift, self.shift, generator).view(n, 2)
        cos, sin = angle.cos() * size, angle.sin() * size
        matrix = torch.stack(
            [
                torch.stack([cos, cos * shear - sin, shift[:, 0]], dim=1),
                torch.stack([sin, sin * shear + cos, shift[:, 1]], dim=1),
            ],
            dim=1,
        )
        return _sample(x, matrix, self.fill)


@dataclass(frozen=True)
class PhotoViews:
    """Crop, mirror, recolour and bleach every image at random: views for photographs in [-1, 1].

    Args:
        smallest: least share of the area that a crop keeps.
        jitter: relative change of brightness, contrast and saturation to either side.
        jitter_rate: share of images that are recoloured.
        grey_rate: share of images that lose their colour.
        mirror: swap left and right of half of the images.

    Raises:
        ValueError: for a share outside [0, 1].

    Source: Chen, Kornblith, Norouzi and Hinton, "A simple framework for contrastive learning of visual
    representations", ICML 2020, appendix A.

    Examples:
        >>> PhotoViews()(torch.zeros(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """

    smallest: float = 0.2
    jitter: float = 0.4
    jitter_rate: float = 0.8
    grey_rate: float = 0.2
    mirror: bool = True

    def __post_init__(self) -> None:
        for name in ("smallest", "jitter", "jitter_rate", "grey_rate"):
            check_number(name, getattr(self, name), low=0, high=1)

    def __call__(self, x: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Return one view of each image."""
        n, rng = len(x), generator
        area = _uniform(n, self.smallest, 1, rng)
        stretch = _uniform(n, math.log(3 / 4), math.log(4 / 3), rng).mul(0.5).exp()
        width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
        right, down = ((1 - s) * _uniform(n, -1, 1, rng) for s in (width, height))
        if self.mirror:
            width = torch.where(_uniform(n, 0, 1, rng) < 0.5, -width, width)
        none = torch.zeros_like(width)
        matrix = torch.stack(
            [torch.stack([width, none, right], dim=1), torch.stack([none, height, down], dim=1)], dim=1
        )
        return self._recolour(_sample(x, matrix, 0.0), rng)

    def _recolour(self, x: Tensor, rng: torch.Generator) -> Tensor:
        n = len(x)
        factors = _uniform(3 * n, 1 - self.jitter, 1 + self.jitter, rng).view(3, n, 1, 1, 1)
        brightness, contrast, saturation = torch.where(
            (_uniform(n, 0, 1, rng) < self.jitter_rate).view(1, n, 1, 1, 1), factors, 1.0
        ).to(x.dtype)
        x = (x + 1) / 2 * brightness
        grey = x.mean(dim=1, keepdim=True)
        x = grey + (x - grey) * saturation
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = ((x - mean) * contrast + mean).clamp(0, 1)
        bleached = (_uniform(n, 0, 1, rng) < self.grey_rate).view(n, 1, 1, 1)
        return torch.where(bleached, x.mean(dim=1, keepdim=True), x) * 2 - 1
