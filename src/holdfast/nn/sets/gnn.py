"""Set encoders whose elements hear of each other through a pooled vector."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.sets.pooling import Pool, pool
from holdfast.nn.sets.protocol import PooledSetEncoder

__all__ = ["GNNSetEncoder", "ResNetSetEncoder"]


class GNNSetEncoder(PooledSetEncoder):
    r"""Perceptrons on every element joined with the pool of all, and a mean at the end.

    .. math:: h_j = \mathrm{MLP}(x_j),\quad h_j \leftarrow \mathrm{MLP}_b([h_j\,;\,\mathrm{pool}_k h_k]),\quad
              z = \mathrm{SELU}(W\, \mathrm{mean}_j h_j)

    Args:
        features: dimension d of an element.
        width: units of every layer.
        out_dim: length l of the code.
        blocks, layers: blocks, and hidden layers of each perceptron.
        pool: what the blocks pool by, ``"mean"`` or ``"median"``.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> GNNSetEncoder(3, width=16, out_dim=4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        features: int,
        *,
        width: int = 128,
        out_dim: int = 32,
        blocks: int = 2,
        layers: int = 2,
        pool: Pool = "mean",
    ) -> None:
        super().__init__()
        check_number("blocks", blocks, low=0, integer=True)
        self.kind: Pool = check_choice("pool", pool, ["mean", "median"])
        self.element_shape, self.out_dim = (features,), out_dim
        self.first = feed_forward(features, width, width, layers=layers)
        self.blocks = nn.ModuleList(feed_forward(2 * width, width, width, layers=layers) for _ in range(blocks))
        self.code = nn.Linear(width, out_dim)

    def points(
        self, x: Float[Tensor, "batch elements features"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements width"]:
        """Return the features of every element after the last block."""
        h = self.first(x)
        for block in self.blocks:
            h = block(_with_context(h, pool(self.kind, h, weights)))
        return h

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch code"]:
        """Return ``SELU(W pooled)``."""
        return nn.functional.selu(self.code(pooled))


class ResNetSetEncoder(PooledSetEncoder):
    r"""The same with residual paths and layer normalisation; the encoder to begin with.

    .. math:: h_j = \mathrm{LN}(\mathrm{MLP}(x_j) + A_0 x_j),\quad
              h_j \leftarrow \mathrm{LN}_b(\mathrm{MLP}_b([h_j\,;\,\mathrm{pool}_k h_k]) + h_j + A_b x_j),\quad
              z = \mathrm{SELU}(W\, \mathrm{mean}_j h_j)

    The first normalisation has no parameters.

    Args:
        features: dimension d of an element.
        width: units of every layer.
        out_dim: length l of the code.
        blocks, layers: blocks, and hidden layers of each perceptron.
        pool: what the blocks pool by, ``"mean"`` or ``"median"``.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> ResNetSetEncoder(3, width=16, out_dim=4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        features: int,
        *,
        width: int = 128,
        out_dim: int = 32,
        blocks: int = 2,
        layers: int = 2,
        pool: Pool = "mean",
    ) -> None:
        super().__init__()
        check_number("blocks", blocks, low=0, integer=True)
        self.kind: Pool = check_choice("pool", pool, ["mean", "median"])
        self.element_shape, self.out_dim = (features,), out_dim
        self.first = feed_forward(features, width, width, layers=layers)
        self.first_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.blocks = nn.ModuleList(feed_forward(2 * width, width, width, layers=layers) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.skips = nn.ModuleList(nn.Linear(features, width, bias=False) for _ in range(blocks + 1))
        self.code = nn.Linear(width, out_dim)

    def block_pool(
        self, h: Float[Tensor, "batch elements width"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch width"]:
        """Return what a block tells every element of the others."""
        return pool(self.kind, h, weights)

    def points(
        self, x: Float[Tensor, "batch elements features"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements width"]:
        """Return the features of every element after the last block."""
        h = self.first_norm(self.first(x) + self.skips[0](x))
        for block, norm, skip in zip(self.blocks, self.norms, list(self.skips)[1:]):
            h = norm(block(_with_context(h, self.block_pool(h, weights))) + h + skip(x))
        return h

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch code"]:
        """Return ``SELU(W pooled)``."""
        return nn.functional.selu(self.code(pooled))


def _with_context(
    h: Float[Tensor, "batch elements width"], context: Float[Tensor, "batch width"]
) -> Float[Tensor, "batch elements twice"]:
    return torch.cat([h, context.unsqueeze(1).expand_as(h)], dim=-1)
