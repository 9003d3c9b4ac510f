"""A vision transformer that encodes images: a class token, one token per patch, and taps on every block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.transformer import Transformer, check_taps
from holdfast.nn.standardize import Standardize

__all__ = ["Encoded", "ViTEncoder"]


class Encoded(NamedTuple):
    """What an image encoder returns; ``cls`` and ``patches`` are ``None`` after an early exit.

    Attributes:
        cls: [B, D], the class token.
        patches: [B, L, D], one token per patch, row by row.
        taps: outputs [B, 1 + L, D] of the blocks asked for, the class token first.
    """

    cls: Tensor | None
    patches: Tensor | None
    taps: dict[int, Tensor]


class ViTEncoder(nn.Module):
    """Patches with learned positions and a class token, layer norm and dropout, pre-norm blocks, a last layer norm.

    Unlike :class:`holdfast.nn.backbones.ViT`, which ends in one vector per image, it keeps the tokens for a decoder
    to read, and its blocks can be tapped. ``features`` is the mean over patches, for probes and fine-tuning.

    Args:
        in_channels, size: of the images, (C, H, W) = (in_channels, size, size); a pair gives height and width.
        patch: side of a patch; divides both sides of the image.
        width, depth, heads, mlp_ratio: of the blocks.
        dropout: rate after the embedding.
        mean, std: per channel, for standardising; empty means none.

    Attributes:
        out_dim: entries of ``features``.
        grid: rows and columns of patches.
        depth: number of blocks.

    Raises:
        ValueError: for a patch that does not divide the image, images of another shape, or numbers out of range.

    Source: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.

    Examples:
        >>> net = ViTEncoder(1, 16, patch=4, width=32, depth=2, heads=4)
        >>> out = net(torch.zeros(3, 1, 16, 16), taps=(1,))
        >>> out.cls.shape, out.patches.shape, out.taps[1].shape
        (torch.Size([3, 32]), torch.Size([3, 16, 32]), torch.Size([3, 17, 32]))
        >>> net.features(torch.zeros(3, 1, 16, 16)).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        in_channels: int,
        size: int | tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        check_number("in_channels", in_channels, low=1, integer=True)
        check_number("patch", patch, low=1, integer=True)
        check_number("dropout", dropout, low=0, high=1, open_high=True)
        height, breadth = (size, size) if isinstance(size, int) else size
        if height % patch or breadth % patch:
            raise ValueError(f"patch must divide the image, got patch={patch} for {height} x {breadth} pixels")
        self.in_channels, self.size, self.patch = in_channels, (height, breadth), patch
        self.grid = (height // patch, breadth // patch)
        self.width = self.out_dim = width
        self.depth, self.heads = depth, heads
        self.standardize = Standardize(in_channels, mean, std, dim=1)
        self.embed = nn.Conv2d(in_channels, width, patch, patch)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width))
        self.embed_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, depth, heads, mlp_ratio=mlp_ratio)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.xavier_uniform_(self.embed.weight.view(width, -1))

    @property
    def length(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    def tokens(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Return what the first block reads: class token and patches with their positions."""
        if x.ndim != 4 or tuple(x.shape[1:]) != (self.in_channels, *self.size):
            expected = f"(n, {self.in_channels}, {self.size[0]}, {self.size[1]})"
            raise ValueError(f"images must have shape {expected}, got {tuple(x.shape)}")
        patches = self.embed(self.standardize(x)).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.dropout(self.embed_norm(h))

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
        keep: Tensor | None = None,
    ) -> Encoded:
        """Return the class token, the patches and the outputs of the blocks in ``taps``.

        Args:
            x: images in the range that ``mean`` and ``std`` were given for.
            taps: blocks, counted from 1.
            stop_at: leave after this block.
            keep: [B, k], indices of the patches that are encoded (all where omitted); the others are not seen.
        """
        check_taps(taps, stop_at, self.depth)
        h = self.tokens(x)
        if keep is not None:
            kept = h[:, 1:].gather(1, keep[..., None].expand(-1, -1, self.width))
            h = torch.cat([h[:, :1], kept], dim=1)
        h, found = self.transformer(h, taps=taps, stop_at=stop_at)
        if h is None:
            return Encoded(None, None, found)
        h = self.norm(h)
        return Encoded(h[:, 0], h[:, 1:], found)

    def features(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """Return the mean over patches of the encoded images."""
        patches = self(x).patches
        return patches.mean(dim=1)
