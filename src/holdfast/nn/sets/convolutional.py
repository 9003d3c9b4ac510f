"""Set encoder for sets of images or of sequences."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.sets.pooling import pooled_mean
from holdfast.nn.sets.protocol import PooledSetEncoder

__all__ = ["ConvSetEncoder"]


class ConvSetEncoder(PooledSetEncoder):
    r"""Convolutions on every element, joined after each with the mean map of the set.

    .. math:: h_j \leftarrow \mathrm{SELU}\bigl(\mathrm{GN}_b(A_b [c_j\,;\,\mathrm{mean}_k c_k])\bigr),\quad
              c_j = \mathrm{SELU}(\mathrm{conv}_b(h_j)),\quad
              z = \mathrm{SELU}(W\, \mathrm{mean}_j\, \mathrm{mean}_p h_j(p))

    Every layer halves the map; p runs over its places.

    Args:
        channels: of an element.
        width: channels of every layer.
        out_dim: length l of the code.
        layers: number of layers.
        dims: 2 for images (batch, elements, C, H, W), 1 for sequences (batch, elements, C, L).

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> ConvSetEncoder(1, width=8, out_dim=4)(torch.zeros(2, 5, 1, 28, 28)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self, channels: int, *, width: int = 64, out_dim: int = 32, layers: int = 3, dims: Literal[1, 2] = 2
    ) -> None:
        super().__init__()
        check_number("layers", layers, low=1, integer=True)
        check_choice("dims", dims, [1, 2])
        conv = nn.Conv2d if dims == 2 else nn.Conv1d
        self.element_shape, self.out_dim = (channels, *(None,) * dims), out_dim
        self.convs = nn.ModuleList(
            nn.Sequential(conv(channels if i == 0 else width, width, 3, stride=2, padding=1), nn.SELU())
            for i in range(layers)
        )
        self.mixes = nn.ModuleList(
            nn.Sequential(conv(2 * width, width, 1), nn.GroupNorm(1, width), nn.SELU()) for _ in range(layers)
        )
        self.code = nn.Linear(width, out_dim)

    def points(
        self, x: Float[Tensor, "batch elements channels *places"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements width"]:
        """Return the features of every element, averaged over its places."""
        sets = x.shape[:2]
        h = x.flatten(0, 1)
        for conv, mix in zip(self.convs, self.mixes):
            h = conv(h)
            elements = h.unflatten(0, sets)
            mean = pooled_mean(elements.flatten(2), weights).view(sets[0], 1, *h.shape[1:]).expand_as(elements)
            h = mix(torch.cat([h, mean.flatten(0, 1)], dim=1))
        return h.flatten(2).mean(-1).unflatten(0, sets)

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch code"]:
        """Return ``SELU(W pooled)``."""
        return nn.functional.selu(self.code(pooled))
