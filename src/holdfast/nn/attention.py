"""One transformer block for images, sets and sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number

__all__ = ["Attention", "Rotation", "TransformerBlock", "rotary_positions"]

Rotation = tuple[Float[Tensor, "tokens half"], Float[Tensor, "tokens half"]]
"""Cosine and sine of the angle of every token and pair of channels."""


def rotary_positions(grid: Sequence[int], head_dim: int, *, base: float = 10000.0) -> Rotation:
    r"""Angles of rotary positions on a grid of one or more axes: each axis has an equal share of the channel pairs.

    Token at position :math:`p` of an axis turns its pair :math:`j` of that axis by :math:`p\,b^{-j/J}`, ``J`` pairs
    per axis, so that the product of a query and a key depends on the difference of their positions only.

    Raises:
        ValueError: if ``head_dim`` is no multiple of twice the number of axes.

    Source: Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, equation 34.

    Examples:
        >>> cos, sin = rotary_positions((4, 4), head_dim=8)
        >>> cos.shape
        torch.Size([16, 4])
    """
    axes = len(grid)
    if axes == 0 or head_dim % (2 * axes):
        raise ValueError(f"rotary positions on {axes} axes need a head width divisible by {2 * axes}, got {head_dim}")
    pairs = head_dim // (2 * axes)
    rate = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid)).reshape(-1, axes)
    angle = (places[:, :, None] * rate).flatten(1)
    return angle.cos().float(), angle.sin().float()


def _rotate(x: Float[Tensor, "batch heads tokens dim"], rotary: Rotation) -> Float[Tensor, "batch heads tokens dim"]:
    cos, sin = (r.to(x.dtype) for r in rotary)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    r"""Multi-head attention of queries ``x`` over ``context``: ``softmax(QK^T / sqrt(d_h)) V``.

    With ``qk_norm`` queries and keys are scaled to unit root mean square per head, with a learned gain.

    Keys where ``mask`` is false take no part. A row without any key attends to nothing and gives the output
    bias, rather than NaN. A key of weight w counts as w equal keys.

    Raises:
        ValueError: where ``dim`` is not a multiple of ``heads``.

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017, equation 1.

    Examples:
        >>> Attention(8, heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        check_number("heads", heads, low=1, integer=True)
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim} and heads={heads}")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else None
        self.key_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"] | None = None,
        mask: Bool[Tensor, "batch keys"] | Bool[Tensor, "batch queries keys"] | None = None,
        rotary: Rotation | None = None,
        weights: Float[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Return one vector per query; without ``context`` the queries attend to themselves.

        ``mask`` has one entry per key, or one per pair of query and key. ``rotary`` turns queries and keys by their
        positions (see :func:`rotary_positions`), for self-attention. ``weights`` are non-negative, one per key.
        """
        context = x if context is None else context
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = _rotate(q, rotary), _rotate(k, rotary)
        if weights is not None:
            counted = (weights > 0)[:, None]
            mask = counted if mask is None else counted & (mask[:, None] if mask.ndim == 2 else mask)
        if mask is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            pairs = mask[:, None] if mask.ndim == 2 else mask
            some = pairs.any(dim=-1, keepdim=True)
            allowed = pairs | ~some
            if weights is not None:
                share = torch.where(weights > 0, weights, 1.0).log().to(q.dtype)[:, None]
                allowed = torch.where(allowed, share, -torch.inf)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
            mixed = torch.where(some[:, None], mixed, torch.zeros_like(mixed))
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron, each with a residual connection.

    Source: Xiong et al., "On layer normalization in the transformer architecture", ICML 2020.

    Examples:
        >>> TransformerBlock(8, heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self, dim: int, heads: int, *, mlp_ratio: float = 2.0, dropout: float = 0.0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        check_number("mlp_ratio", mlp_ratio, low=0, open_low=True)
        check_number("dropout", dropout, low=0, high=1, open_high=True)
        hidden = max(1, int(dim * mlp_ratio))
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, qk_norm=qk_norm)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        mask: Bool[Tensor, "batch tokens"] | Bool[Tensor, "batch tokens tokens"] | None = None,
        rotary: Rotation | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the mixed tokens; tokens where ``mask`` is false are not attended to."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask, rotary=rotary))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
