"""A transformer that fills the holes of a token sequence, with or without a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.embeddings import TimeEmbedding
from holdfast.diffusion.backbones.transformer import Transformer

__all__ = ["TokenTransformer"]


class TokenTransformer(nn.Module):
    r"""Bidirectional transformer from tokens (mask symbol V included) to logits over the V tokens.

    A :class:`holdfast.diffusion.masked.TokenModel`: the mask is read and never predicted. With ``time_input`` its
    blocks are modulated by the time (adaLN-Zero); without, the time is ignored, as the optimum has none in it.

    Args:
        vocab: V, number of tokens; ``mask_id`` is V.
        length: longest sequence.
        width, depth, heads, mlp_ratio, dropout: of the blocks.
        time_input: whether the answer depends on the time.
        rope: rotary positions in place of learned ones; all sequences must then have ``length`` tokens.

    Raises:
        ValueError: for numbers out of range, ids outside [0, V], sequences longer than ``length``, or a missing
            time.

    Examples:
        >>> net = TokenTransformer(vocab=5, length=8, width=16, depth=2, heads=2)
        >>> net(torch.full((3, 8), net.mask_id)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(
        self,
        vocab: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        *,
        time_input: bool = False,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        rope: bool = False,
    ) -> None:
        super().__init__()
        self.vocab = int(check_number("vocab", vocab, low=1, integer=True))
        self.length = int(check_number("length", length, low=1, integer=True))
        self.time_input = bool(time_input)
        self.embedding = nn.Embedding(vocab + 1, width)
        self.positions = None if rope else nn.Parameter(torch.randn(length, width) * 0.02)
        # Times of [0, 1] are spread over the range that the sinusoids were made for.
        self.time = TimeEmbedding(width, time_scale=1000.0) if time_input else None
        self.trunk = Transformer(
            width,
            depth,
            heads,
            mlp_ratio=mlp_ratio,
            modulated=time_input,
            rope=(length,) if rope else None,
            dropout=dropout,
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def mask_id(self) -> int:
        """The mask symbol."""
        return self.vocab

    def features(
        self,
        tokens: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> tuple[Float[Tensor, "batch length width"] | None, dict[int, Tensor]]:
        """Return the normalised last hidden state, ``None`` after an early exit, and the outputs of ``taps``."""
        if tokens.ndim != 2 or tokens.shape[1] > self.length:
            raise ValueError(f"tokens must have shape (batch, at most {self.length}), got {tuple(tokens.shape)}")
        if tokens.device.type == "cpu" and tokens.numel():
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high > self.vocab:
                raise ValueError(f"tokens must lie in [0, {self.vocab}], hidden ones {self.vocab}; got {low} to {high}")
        h = self.embedding(tokens)
        if self.positions is not None:
            h = h + self.positions[: tokens.shape[1]]
        condition = None
        if self.time is not None:
            if t is None:
                raise ValueError("this network reads the time, one per row; got None")
            condition = self.time(t)
        h, found = self.trunk(h, condition, taps=taps, stop_at=stop_at)
        return (None if h is None else self.norm(h)), found

    def forward(
        self, tokens: Int[Tensor, "batch length"], t: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocab"]:
        """Return the logits of every position."""
        return self.head(self.features(tokens, t)[0])

    def at(
        self,
        tokens: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"] | None,
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "batch k vocab"]:
        """Return the logits of some positions alone: the last layer is not applied to the others."""
        h = cast("Tensor", self.features(tokens, t)[0])
        return self.head(h.gather(1, positions[..., None].expand(-1, -1, h.shape[-1])))
