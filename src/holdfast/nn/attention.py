"""One transformer block for images and sets."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number

__all__ = ["Attention", "TransformerBlock"]


class Attention(nn.Module):
    r"""Multi-head attention of queries ``x`` over ``context``: ``softmax(QK^T / sqrt(d_h)) V``.

    Keys where ``mask`` is false take no part. A row without any key attends to nothing and gives the output
    bias, rather than NaN.

    Raises:
        ValueError: where ``dim`` is not a multiple of ``heads``.

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017, equation 1.

    Examples:
        >>> Attention(8, heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        check_number("heads", heads, low=1, integer=True)
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim} and heads={heads}")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"] | None = None,
        mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Return one vector per query; without ``context`` the queries attend to themselves."""
        context = x if context is None else context
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if mask is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            some = mask.any(dim=1)
            allowed = (mask | ~some[:, None])[:, None, None, :]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
            mixed = torch.where(some[:, None, None, None], mixed, torch.zeros_like(mixed))
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron, each with a residual connection.

    Source: Xiong et al., "On layer normalization in the transformer architecture", ICML 2020.

    Examples:
        >>> TransformerBlock(8, heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 2.0, dropout: float = 0.0) -> None:
        super().__init__()
        check_number("mlp_ratio", mlp_ratio, low=0, open_low=True)
        check_number("dropout", dropout, low=0, high=1, open_high=True)
        hidden = max(1, int(dim * mlp_ratio))
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the mixed tokens; tokens where ``mask`` is false are not attended to."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
