"""A vision transformer for images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.nn.attention import TransformerBlock
from holdfast.nn.standardize import Standardize

__all__ = ["ViT"]


class ViT(nn.Module):
    """Patches, learned positions, pre-norm transformer blocks, mean over patches.

    The patch is the smallest square for which the short side has at most ``grid`` patches; an image whose sides
    are no multiple of it is padded on the right and below with the mean colour. An image of another size than
    ``shape`` is taken too, with the positions interpolated.

    Args:
        shape: (C, H, W) of the images.
        width, depth, heads: channels (also ``out_dim``), blocks, attention heads.
        grid: patches along the short side, at most.
        dropout: rate on every residual branch.
        mean, std: per channel.

    Source: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; mean pooling as in Beyer et al.,
    "Better plain ViT baselines for ImageNet-1k", 2022.

    Examples:
        >>> net = ViT((1, 28, 28), width=16, depth=1, heads=2, grid=7)
        >>> net.patch, net(torch.zeros(2, 1, 28, 28)).shape
        (4, torch.Size([2, 16]))
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        width: int,
        depth: int,
        heads: int,
        grid: int,
        dropout: float = 0.0,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        check_number("grid", grid, low=1, integer=True)
        self.out_dim = width
        self.patch = math.ceil(min(height, breadth) / grid)
        self.standardize = Standardize(channels, mean, std, dim=1)
        self.embed = nn.Conv2d(channels, width, self.patch, self.patch)
        rows, columns = math.ceil(height / self.patch), math.ceil(breadth / self.patch)
        self.position = nn.Parameter(torch.empty(1, width, rows, columns))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def feature_map(self, x: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        """Return the last block's tokens as a map."""
        height, breadth = x.shape[-2:]
        padded = F.pad(self.standardize(x), (0, -breadth % self.patch, 0, -height % self.patch))
        patches = self.embed(padded)
        position = self.position
        if position.shape[-2:] != patches.shape[-2:]:
            position = F.interpolate(position, size=patches.shape[-2:], mode="bilinear", antialias=True)
        tokens = (patches + position).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.transpose(1, 2).unflatten(2, patches.shape[-2:])

    def forward(self, x: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out"]:
        """Return the normalised mean over patches."""
        return self.norm(self.feature_map(x).flatten(2).transpose(1, 2).mean(dim=1))
