"""What a U-Net is built from: residual blocks modulated by an embedding, and attention over a map."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number

__all__ = ["MapAttention", "Resample", "ResidualBlock", "group_norm", "wake_zero_layers"]

Resample = Literal["none", "down", "up"]


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """Return a group norm with at most ``groups`` groups of at least four channels each.

    Examples:
        >>> [group_norm(c).num_groups for c in (256, 64, 24, 6)]
        [32, 16, 6, 1]
    """
    fitting = (g for g in range(1, groups + 1) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(max(fitting), channels)


def _zero(layer: nn.Conv2d) -> None:
    for p in layer.parameters():
        nn.init.zeros_(p)


class ResidualBlock(nn.Module):
    r"""A residual block whose second norm is scaled and shifted by an embedding of time (and class).

    .. math:: h = \mathrm{conv}(r(\mathrm{silu}(\mathrm{GN}(x)))), \qquad
              y = s(r(x)) + \mathrm{conv}_0\bigl(\mathrm{silu}(\mathrm{GN}(h)(1 + a(e)) + b(e))\bigr)

    with r a mean over 2 x 2, a nearest-neighbour doubling, or nothing; s a 1 x 1 convolution where the number of
    channels changes; and a last convolution that starts at zero, so that the block starts as ``s(r(x))``.

    Args:
        inputs, outputs: channels.
        embedding: width of the embedding.
        resample: "none", "down" (halve the map) or "up" (double it).
        dropout: before the last convolution.

    Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, section 3.

    Examples:
        >>> block = ResidualBlock(8, 16, 32, resample="down")
        >>> block(torch.zeros(2, 8, 6, 6), torch.zeros(2, 32)).shape
        torch.Size([2, 16, 3, 3])
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, *, resample: Resample = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_choice("resample", resample, ["none", "down", "up"])
        self.resample: Resample = resample
        self.in_norm = group_norm(inputs)
        self.in_conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.out_norm = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.out_conv = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        _zero(self.out_conv)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], e: Float[Tensor, "batch embedding"]
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        """Return the block's map."""
        h = self.in_conv(self._resize(F.silu(self.in_norm(x))))
        scale, shift = self.modulation(F.silu(e))[..., None, None].chunk(2, dim=1)
        h = self.out_norm(h) * (1 + scale) + shift
        return self.skip(self._resize(x)) + self.out_conv(self.dropout(F.silu(h)))

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x


class MapAttention(nn.Module):
    """Self-attention over the places of a map, with a residual connection; its last layer starts at zero.

    Args:
        channels: of the map.
        head_channels: channels a head; a map of fewer channels has one head.

    Raises:
        ValueError: where ``channels`` is no multiple of ``head_channels``.

    Examples:
        >>> x = torch.randn(2, 8, 4, 4)
        >>> bool((MapAttention(8, head_channels=4)(x) == x).all())
        True
    """

    def __init__(self, channels: int, head_channels: int = 64) -> None:
        super().__init__()
        check_number("head_channels", head_channels, low=1, integer=True)
        head_channels = min(head_channels, channels)
        if channels % head_channels:
            raise ValueError(f"channels must be a multiple of head_channels, got {channels} and {head_channels}")
        self.heads = channels // head_channels
        self.norm = group_norm(channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        _zero(self.out)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Return the map with what its places have seen of each other."""
        q, k, v = self.query_key_value(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.mT.reshape(x.shape))


@torch.no_grad()
def wake_zero_layers(module: nn.Module, generator: torch.Generator) -> int:
    """Draw the weights of every convolution and linear layer that is all zero, and return how many there were.

    Diffusion networks start their output and residual layers at zero: as an *untrained* control their maps would be
    those of a much smaller network. The weights are uniform with variance :math:`1/(3 n_{in})`, the default of
    torch.

    Examples:
        >>> block = ResidualBlock(4, 4, 8)
        >>> wake_zero_layers(block, torch.Generator().manual_seed(0)), bool(block.out_conv.weight.any())
        (1, True)
    """
    woken = 0
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and not bool(layer.weight.any()):
            bound = layer.weight[0].numel() ** -0.5
            for p in layer.parameters(recurse=False):
                p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=generator).to(p))
            woken += 1
    return woken
