"""Set encoders by self-attention, which depends on the empirical measure as well: a softmax over copies is the same."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.attention import Attention
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.sets.protocol import PooledSetEncoder

__all__ = ["AttentionSetEncoder", "ResNetAttentionSetEncoder"]


class AttentionSetEncoder(PooledSetEncoder):
    r"""Attention over the elements, a mean at the end; its cost grows with the square of the set's size.

    .. math:: h_j = \mathrm{SELU}(A x_j),\quad h_j \leftarrow \mathrm{LN}_b(h_j + \mathrm{MHA}_b(h)_j),\quad
              z = \mathrm{SELU}(W\, \mathrm{mean}_j h_j)

    Args:
        features: dimension d of an element.
        width: units of every layer.
        out_dim: length l of the code.
        blocks, heads: attention blocks, and heads of each.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> import torch
        >>> AttentionSetEncoder(3, width=16, out_dim=4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, *, width: int = 128, out_dim: int = 32, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        check_number("blocks", blocks, low=0, integer=True)
        self.element_shape, self.out_dim = (features,), out_dim
        self.first = nn.Sequential(nn.Linear(features, width), nn.SELU())
        self.blocks = nn.ModuleList(Attention(width, heads) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.code = nn.Linear(width, out_dim)

    def points(
        self, x: Float[Tensor, "batch elements features"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements width"]:
        """Return the features of every element after the last block."""
        h = self.first(x)
        for block, norm in zip(self.blocks, self.norms):
            h = norm(h + block(h, weights=weights))
        return h

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch code"]:
        """Return ``SELU(W pooled)``."""
        return nn.functional.selu(self.code(pooled))


class ResNetAttentionSetEncoder(PooledSetEncoder):
    r"""The residual encoder with attention in place of the pool of its blocks.

    .. math:: h_j = \mathrm{LN}(\mathrm{MLP}(x_j) + A_0 x_j),\quad
              h_j \leftarrow \mathrm{LN}_b(\mathrm{MHA}_b(h)_j + h_j + A_b x_j),\quad
              z = \mathrm{SELU}(W\, \mathrm{mean}_j h_j)

    Args:
        features: dimension d of an element.
        width: units of every layer.
        out_dim: length l of the code.
        blocks, layers, heads: attention blocks, hidden layers of the first perceptron, heads of each block.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> import torch
        >>> ResNetAttentionSetEncoder(3, width=16, out_dim=4)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self, features: int, *, width: int = 128, out_dim: int = 32, blocks: int = 2, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        check_number("blocks", blocks, low=0, integer=True)
        self.element_shape, self.out_dim = (features,), out_dim
        self.first = feed_forward(features, width, width, layers=layers)
        self.first_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.blocks = nn.ModuleList(Attention(width, heads) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.skips = nn.ModuleList(nn.Linear(features, width, bias=False) for _ in range(blocks + 1))
        self.code = nn.Linear(width, out_dim)

    def points(
        self, x: Float[Tensor, "batch elements features"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements width"]:
        """Return the features of every element after the last block."""
        h = self.first_norm(self.first(x) + self.skips[0](x))
        for block, norm, skip in zip(self.blocks, self.norms, list(self.skips)[1:]):
            h = norm(block(h, weights=weights) + h + skip(x))
        return h

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch code"]:
        """Return ``SELU(W pooled)``."""
        return nn.functional.selu(self.code(pooled))
