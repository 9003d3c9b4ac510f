"""The transformer that every token network of this package stands on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.attention import Attention, Rotation, TransformerBlock, rotary_positions

__all__ = ["Condition", "ModulatedBlock", "Transformer", "check_taps", "modulate", "per_token"]


Condition = Float[Tensor, "batch dim"] | Float[Tensor, "batch tokens dim"]
"""One vector per sample, or one per token."""


def per_token(c: Condition) -> Float[Tensor, "batch tokens dim"]:
    """Return ``c`` with an axis for tokens, of length 1 where all tokens share it."""
    return c[:, None] if c.ndim == 2 else c


def modulate(x: Float[Tensor, "batch tokens dim"], shift: Condition, scale: Condition) -> Tensor:
    """Return ``x (1 + scale) + shift``."""
    return torch.addcmul(per_token(shift), x, 1 + per_token(scale))


def check_taps(taps: Sequence[int], stop_at: int | None, depth: int) -> None:
    """Raise ``ValueError`` unless taps and early exit name blocks from 1 to ``depth``, in reach of each other."""
    for block in (*taps, *(() if stop_at is None else (stop_at,))):
        if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= depth:
            raise ValueError(f"blocks are numbered from 1 to {depth}, got {block!r}")
    if stop_at is not None and taps and max(taps) > stop_at:
        raise ValueError(f"tap {max(taps)} lies behind the early exit after block {stop_at}")


class ModulatedBlock(nn.Module):
    r"""Pre-norm transformer block whose norms are shifted, scaled and gated by a condition (adaLN-Zero).

    .. math:: x \leftarrow x + g_1\,\mathrm{Attn}((1 + s_1)\,\mathrm{LN}(x) + b_1), \qquad
              x \leftarrow x + g_2\,\mathrm{MLP}((1 + s_2)\,\mathrm{LN}(x) + b_2)

    All six vectors are a linear map of ``SiLU(condition)`` that starts at zero: a fresh block is the identity.

    Source: Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, section 3.2.

    Examples:
        >>> block, x = ModulatedBlock(8, heads=2), torch.randn(3, 5, 8)
        >>> bool((block(x, torch.randn(3, 8)) == x).all())
        True
    """

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, qk_norm: bool = False) -> None:
        super().__init__()
        check_number("mlp_ratio", mlp_ratio, low=0, open_low=True)
        hidden = max(1, int(dim * mlp_ratio))
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(dim, heads, qk_norm=qk_norm)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        nn.init.zeros_(self.modulation[1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.modulation[1].bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        condition: Condition,
        mask: Bool[Tensor, "batch tokens"] | Bool[Tensor, "batch tokens tokens"] | None = None,
        rotary: Rotation | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the mixed tokens; tokens where ``mask`` is false are not attended to."""
        b1, s1, g1, b2, s2, g2 = self.modulation(condition).chunk(6, dim=-1)
        mixed = self.attention(modulate(self.attention_norm(x), b1, s1), mask=mask, rotary=rotary)
        x = torch.addcmul(x, per_token(g1), mixed)
        return torch.addcmul(x, per_token(g2), self.mlp(modulate(self.mlp_norm(x), b2, s2)))


class Transformer(nn.Module):
    """Blocks in a row, numbered from 1, with taps on their outputs and an early exit.

    Args:
        width, depth, heads, mlp_ratio: of the blocks.
        modulated: blocks take a condition (adaLN-Zero) in place of plain pre-norm blocks.
        qk_norm: normalise queries and keys.
        rope: grid of the tokens for rotary positions, e.g. ``(length,)`` or ``(rows, columns)``; ``None`` for none.
        dropout: rate on the residual branches of plain blocks.

    Raises:
        ValueError: for numbers out of range, or dropout with modulated blocks.

    Examples:
        >>> net = Transformer(8, depth=3, heads=2)
        >>> h, taps = net(torch.randn(2, 5, 8), taps=(2,), stop_at=2)
        >>> h is None, taps[2].shape
        (True, torch.Size([2, 5, 8]))
    """

    rotation: Tensor | None

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        modulated: bool = False,
        qk_norm: bool = False,
        rope: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("width", width, low=1, integer=True)
        check_number("depth", depth, low=1, integer=True)
        if modulated and dropout:
            raise ValueError("modulated blocks have no dropout; leave it at 0")
        self.width, self.depth, self.heads, self.modulated = width, depth, heads, modulated
        self.rope = None if rope is None else tuple(rope)
        if modulated:
            blocks = (ModulatedBlock(width, heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm) for _ in range(depth))
        else:
            blocks = (
                TransformerBlock(width, heads, mlp_ratio=mlp_ratio, dropout=dropout, qk_norm=qk_norm)
                for _ in range(depth)
            )
        self.blocks = nn.ModuleList(blocks)
        rotation = None if rope is None else torch.stack(rotary_positions(rope, width // heads))
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(
        self,
        h: Float[Tensor, "batch tokens width"],
        condition: Condition | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
        mask: Bool[Tensor, "batch tokens"] | Bool[Tensor, "batch tokens tokens"] | None = None,
    ) -> tuple[Float[Tensor, "batch tokens width"] | None, dict[int, Tensor]]:
        """Return the last block's output, ``None`` after an early exit, and the outputs of the blocks in ``taps``."""
        if taps or stop_at is not None:
            check_taps(taps, stop_at, self.depth)
        if self.modulated and condition is None:
            raise ValueError("modulated blocks need a condition, one vector per sample or per token")
        if self.rotation is not None and len(self.rotation[0]) != h.shape[1]:
            raise ValueError(f"rotary positions were made for {len(self.rotation[0])} tokens, got {h.shape[1]}")
        rotary = None if self.rotation is None else (self.rotation[0], self.rotation[1])
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            if self.modulated:
                h = block(h, condition, mask=mask, rotary=rotary)
            else:
                h = block(h, mask=mask, rotary=rotary)
            if number in taps:
                found[number] = h
            if number == stop_at:
                return None, found
        return h, found
