"""Encoders from a clean sample to its code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.unet_blocks import MapAttention, group_norm

__all__ = ["ConvCodeEncoder", "MLPCodeEncoder"]


def _last(inputs: int, dim: int, std: float | None) -> nn.Linear:
    layer = nn.Linear(inputs, dim)
    if std is not None:
        check_number("last_std", std, low=0, open_low=True)
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return layer


class MLPCodeEncoder(nn.Module):
    """A perceptron from samples of any shape to ``dim`` entries.

    Args:
        shape: of a sample, without the batch.
        dim: entries of the code.
        hidden: widths of the hidden layers.
        last_std: standard deviation of the last layer's first weights, with no bias; ``None`` keeps torch's. A small
            one makes the code hold only what training puts there: at the default, every subset of the code of a random
            network already tells coarse attributes.

    Examples:
        >>> MLPCodeEncoder((1, 4, 4), 6)(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 6])
    """

    def __init__(
        self, shape: Sequence[int], dim: int, hidden: Sequence[int] = (256, 128), *, last_std: float | None = 1e-3
    ) -> None:
        super().__init__()
        check_number("dim", dim, low=1, integer=True)
        self.shape, self.dim = tuple(shape), int(dim)
        widths = [int(torch.Size(self.shape).numel()), *hidden]
        blocks: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(widths):
            blocks += [nn.Linear(a, b), nn.SiLU()]
        self.net = nn.Sequential(*blocks, _last(widths[-1], self.dim, last_std))

    def forward(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch dim"]:
        """Return the codes."""
        return self.net(x)


class ConvCodeEncoder(nn.Module):
    """The published encoder: convolutions that halve the map, attention at one resolution, and a linear layer.

    For 64 x 64 images the defaults give maps of 32, 16 (with attention), 8 and 4, and 2,048 inputs of the last layer.

    Args:
        in_channels: of the images.
        size: their side, a multiple of ``2 ** len(widths)``.
        dim: entries of the code.
        widths: channels of every stage.
        attention: side of the map that attends to itself; ``None`` for none.
        last_std: see :class:`MLPCodeEncoder`; ``None`` as published.

    Raises:
        ValueError: for a size that cannot be halved so often, or an attention resolution that no stage has.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
    appendix; Zhang, Zhao and Lin, NeurIPS 2022, appendix.

    Examples:
        >>> ConvCodeEncoder(3, 64, 512)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        dim: int,
        widths: Sequence[int] = (64, 128, 128, 128),
        attention: int | None = 16,
        *,
        last_std: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("size", size), ("dim", dim)):
            check_number(name, value, low=1, integer=True)
        if not widths or size % 2 ** len(widths):
            raise ValueError(f"size must be a multiple of {2 ** len(widths)} for {len(widths)} stages, got {size}")
        sides = [size // 2 ** (i + 1) for i in range(len(widths))]
        if attention is not None and attention not in sides:
            raise ValueError(f"attention must be among the stages' sides {sides} or None, got {attention}")
        self.shape, self.dim = (int(in_channels), int(size), int(size)), int(dim)
        blocks: list[nn.Module] = []
        for (a, b), side in zip(pairwise([in_channels, *widths]), sides):
            blocks += [nn.Conv2d(a, b, 3, stride=2, padding=1), group_norm(b), nn.SiLU()]
            if side == attention:
                blocks.append(MapAttention(b))
        self.net = nn.Sequential(*blocks, nn.Flatten(), _last(widths[-1] * sides[-1] ** 2, self.dim, last_std))

    def forward(self, x: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch dim"]:
        """Return the codes."""
        return self.net(x)
