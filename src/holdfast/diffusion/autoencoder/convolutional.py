"""A convolutional autoencoder with any bottleneck: bits, codebook entries or Gaussian latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.diffusion.autoencoder.bottleneck import Bottleneck, Code

__all__ = ["ConvAutoencoder", "Reconstruction"]


class Reconstruction(NamedTuple):
    """A decoded batch [B, C, H, W] together with the code it was decoded from."""

    x: Float[Tensor, "batch channels height width"]
    code: Code


class ConvAutoencoder(nn.Module):
    r"""Encoder :math:`\Psi`, bottleneck, decoder :math:`\Phi`: one class for binary, VQ and Gaussian latents.

    The encoder is a convolution, then per level ``blocks`` residual blocks and a halving, then a block with attention
    between two blocks; the decoder mirrors it with one block more per level. An image of side H becomes a grid of side
    :math:`H / f`, :math:`f = \text{stem} \cdot 2^{\text{levels} - 1}`.

    Args:
        bottleneck: a :class:`~holdfast.diffusion.autoencoder.bottleneck.Bottleneck`; its ``width`` is that of the
            encoder's output.
        channels: of the images, which lie in [-1, 1].
        widths: channels of every level, from the finest to the coarsest.
        blocks: residual blocks per level.
        attention_levels: number of coarsest levels whose blocks are followed by attention.
        middle: whether there is a block-attention-block stage at the coarsest level.
        stem: side of the patches that the first convolution takes (1: pixels), for small budgets.

    Raises:
        TypeError: for a bottleneck that is not one.
        ValueError: for sizes that are no multiple of f, or other numbers out of range.

    Source: Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021; with bits as
    in Wang et al., "Binary Latent Diffusion", CVPR 2023, Section 3.1.

    Examples:
        >>> from holdfast.diffusion.autoencoder import BernoulliCode
        >>> net = ConvAutoencoder(BernoulliCode(channels=8, width=16), channels=1, widths=(8, 16), blocks=1)
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> bits = net.encode(x, generator=torch.Generator())
        >>> bits.shape, net.decode(bits).shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        bottleneck: Bottleneck,
        *,
        channels: int = 3,
        widths: Sequence[int] = (128, 128, 256, 256, 512),
        blocks: int = 2,
        attention_levels: int = 1,
        middle: bool = True,
        stem: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(bottleneck, Bottleneck):
            raise TypeError(f"bottleneck must be a Bottleneck, got {type(bottleneck).__name__}")
        check_number("channels", channels, low=1, integer=True)
        check_number("blocks", blocks, low=0, integer=True)
        check_number("stem", stem, low=1, integer=True)
        if not widths:
            raise ValueError("widths must name at least one level, got none")
        for width in widths:
            check_number("widths", width, low=1, integer=True)
        check_number("attention_levels", attention_levels, low=0, high=len(widths), integer=True)
        self.channels = channels
        self.factor = stem * 2 ** (len(widths) - 1)
        attended = len(widths) - attention_levels
        self.encoder = _encoder(channels, widths, blocks, attended, middle, stem, bottleneck.width)
        self.bottleneck = bottleneck
        self.decoder = _decoder(channels, widths, blocks, attended, middle, stem, bottleneck.width)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the code's grid for images of that size."""
        if height % self.factor or width % self.factor:
            raise ValueError(f"the sides of the images must be multiples of {self.factor}, got {height} x {width}")
        return height // self.factor, width // self.factor

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution, where adversarial and reconstruction gradients are compared."""
        return next(m for m in reversed(list(self.decoder.modules())) if isinstance(m, nn.Conv2d)).weight

    def features(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch width h w"]:
        """Return the map that the bottleneck reads."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"images must have shape (batch, {self.channels}, height, width), got {tuple(x.shape)}")
        self.grid(x.shape[2], x.shape[3])
        return self.encoder(x)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], *, generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Return the reconstruction with its code, everything that a training loss needs."""
        code = self.bottleneck(self.features(x), generator=generator)
        return Reconstruction(self.decoder(code.embedding), code)

    def encode(
        self,
        x: Float[Tensor, "batch channels height width"],
        *,
        generator: torch.Generator | None = None,
        sample: bool = True,
    ) -> Shaped[Tensor, "batch *code"]:
        """Return the code without gradient: a draw, or the most probable one with ``sample=False``."""
        with torch.no_grad():
            return self.bottleneck.encode(self.features(x), generator=generator, sample=sample)

    def decode(self, code: Shaped[Tensor, "batch *code"]) -> Float[Tensor, "batch channels height width"]:
        """Return the images of a code, not clipped."""
        return self.decoder(self.bottleneck.embed(code))


def _norm(width: int) -> nn.GroupNorm:
    groups = max(g for g in (1, 2, 4, 8, 16, 32) if width % g == 0 and (g == 1 or width // g >= 4))
    return nn.GroupNorm(groups, width, eps=1e-6)


class _ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class _Attention(nn.Module):
    """One head over all cells, as a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


def _level(inputs: int, outputs: int, blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers.append(_ResBlock(inputs if i == 0 else outputs, outputs))
        if attention:
            layers.append(_Attention(outputs))
    if not blocks and inputs != outputs:
        layers.append(nn.Conv2d(inputs, outputs, 1))
    return layers


def _middle(width: int) -> list[nn.Module]:
    return [_ResBlock(width, width), _Attention(width), _ResBlock(width, width)]


def _encoder(
    channels: int, widths: Sequence[int], blocks: int, attended: int, middle: bool, stem: int, out: int
) -> nn.Sequential:
    first = nn.Conv2d(channels, widths[0], 3, padding=1) if stem == 1 else nn.Conv2d(channels, widths[0], stem, stem)
    layers: list[nn.Module] = [first]
    for i, width in enumerate(widths):
        if i > 0:
            layers.append(nn.Conv2d(widths[i - 1], widths[i - 1], 3, stride=2, padding=1))
        layers += _level(widths[max(0, i - 1)], width, blocks, i >= attended)
    layers += _middle(widths[-1]) if middle else []
    return nn.Sequential(*layers, _norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out, 3, padding=1))


def _decoder(
    channels: int, widths: Sequence[int], blocks: int, attended: int, middle: bool, stem: int, inputs: int
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[-1], 3, padding=1)]
    layers += _middle(widths[-1]) if middle else []
    for i in reversed(range(len(widths))):
        layers += _level(widths[min(i + 1, len(widths) - 1)], widths[i], blocks + 1, i >= attended)
        if i > 0:
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(widths[i], widths[i], 3, padding=1)]
    layers += [_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels * stem**2, 3, padding=1)]
    return nn.Sequential(*layers, nn.PixelShuffle(stem) if stem > 1 else nn.Identity())
