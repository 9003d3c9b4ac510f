"""A plain convolutional network for images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.standardize import Standardize

__all__ = ["ConvNet", "conv_norm", "image_stem"]


def conv_norm(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias followed by group normalisation.

    Groups hold at least four channels, so the norm neither depends on the batch (a batch of one image trains as
    any other) nor collapses on a 1 x 1 map.

    Examples:
        >>> import torch
        >>> conv_norm(3, 16, stride=2)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    groups = max(g for g in (1, 2, 4, 8) if g == 1 or (outputs % g == 0 and outputs // g >= 4))
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs))


def image_stem(shape: Sequence[int], width: int, resolution: int) -> nn.Sequential:
    """Return the layers that bring an image to a map whose short side is at most ``resolution``.

    The reduction is a power of two: a first convolution with stride up to 4, then stride-2 convolutions; small
    images keep their size. So the cost of what follows hardly depends on the size of the image.

    Examples:
        >>> import torch
        >>> image_stem((3, 64, 64), 8, 8)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 8, 8, 8])
        >>> image_stem((1, 8, 8), 8, 8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 8, 8, 8])
    """
    short = min(shape[1:])
    halvings = max(0, math.ceil(math.log2(short / resolution)))
    first = min(halvings, 2)
    layers: list[nn.Module] = [
        conv_norm(shape[0], width, kernel={0: 3, 1: 5, 2: 7}[first], stride=2**first),
        nn.ReLU(),
    ]
    for _ in range(halvings - first):
        layers += [conv_norm(width, width, stride=2), nn.ReLU()]
    return nn.Sequential(*layers)


class ConvNet(nn.Module):
    """Stages of 3 x 3 convolutions with group normalisation and ReLU, each halving the map, then its mean.

    Args:
        shape: (C, H, W) of the images; any size, any number of channels.
        widths: channels of every stage; the last is ``out_dim``.
        depth: convolutions per stage.
        resolution: short side of the map of the first stage, see :func:`image_stem`.
        mean, std: per channel.

    Examples:
        >>> import torch
        >>> net = ConvNet((1, 8, 8), widths=(8, 16), depth=1, resolution=8)
        >>> net(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        widths: Sequence[int],
        depth: int,
        resolution: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        check_number("depth", depth, low=1, integer=True)
        self.out_dim = widths[-1]
        self.standardize = Standardize(shape[0], mean, std, dim=1)
        self.stem = image_stem(shape, widths[0], resolution)
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            for j in range(depth - 1 if i == 0 else depth):
                halve = i > 0 and j == 0
                before = widths[i - 1] if halve else width
                layers += [conv_norm(before, width, stride=2 if halve else 1), nn.ReLU()]
        self.stages = nn.Sequential(*layers)

    def feature_map(self, x: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        """Return the last map."""
        return self.stages(self.stem(self.standardize(x)))

    def forward(self, x: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out"]:
        """Return the spatial mean of the last map."""
        return self.feature_map(x).mean(dim=(2, 3))
