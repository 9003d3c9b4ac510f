"""A masked transformer over tokens: what may stand at every place, given the tokens that are seen."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.diffusion.alternating.tokenizer import check_tokens
from holdfast.diffusion.backbones.transformer import Transformer

__all__ = ["MaskedTokenPredictor"]


class MaskedTokenPredictor(nn.Module):
    r"""Encoder-decoder over tokens, trained to give :math:`P(k \mid \text{tokens seen})` at every place.

    The encoder reads a class token and the tokens, a mask token where one is hidden; while training, a share
    ``min_drop`` of all places, taken from the hidden ones, is left out of it. The decoder gets the encoder's class
    token in place of what was hidden, and the logits are products with the token table, plus a bias.

    Args:
        codes, length: size K of the codebook, and tokens L of an image.
        width, depth, heads, mlp_ratio: of the encoder.
        decoder_depth: blocks of the decoder, of the same width.
        dropout: rate after the embedding.
        min_drop: share of places that the encoder leaves out in training mode; 0 for none.
        init_std: deviation of table and positions at the start; larger than usual shortens the plateau of short runs.

    Attributes:
        trained_on: fingerprint of the codebook whose tokens it was trained on; empty before training.

    Raises:
        ValueError: for ids outside [0, K), another length, a mask of another shape, or numbers out of range.

    Source: Li et al., "MAGE: MAsked Generative Encoder to Unify Representation Learning and Image Synthesis",
    CVPR 2023, section 3.

    Examples:
        >>> net = MaskedTokenPredictor(8, 16, width=16, depth=1, heads=2, decoder_depth=1).eval()
        >>> ids, mask = torch.zeros(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.bool)
        >>> p = net.probs(ids, mask)
        >>> p.shape, bool(torch.allclose(p.sum(-1), torch.ones(2, 16)))
        (torch.Size([2, 16, 8]), True)
    """

    def __init__(
        self,
        codes: int,
        length: int,
        *,
        width: int,
        depth: int,
        heads: int,
        decoder_depth: int = 2,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        min_drop: float = 0.5,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.codes = int(check_number("codes", codes, low=1, integer=True))
        self.length = int(check_number("length", length, low=1, integer=True))
        self.min_drop = check_number("min_drop", min_drop, low=0, high=1, open_high=True)
        check_number("dropout", dropout, low=0, high=1, open_high=True)
        check_number("init_std", init_std, low=0, open_low=True)
        self.width = self.out_dim = width
        self.table = nn.Embedding(codes + 1, width)  # the last entry is the mask token
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + length, width))
        self.embed_norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.encoder = Transformer(width, depth, heads, mlp_ratio=mlp_ratio)
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, width)
        self.decoder_positions = nn.Parameter(torch.empty(1, 1 + length, width))
        self.decoder = Transformer(width, decoder_depth, heads, mlp_ratio=mlp_ratio)
        self.decoder_norm = nn.LayerNorm(width)
        self.to_token = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(codes))
        for weight in (self.table.weight, self.cls, self.positions, self.decoder_positions):
            nn.init.trunc_normal_(weight, std=init_std)
        self.register_buffer("_trained_on", torch.zeros(32, dtype=torch.uint8))

    @property
    def trained_on(self) -> str:
        """Fingerprint of the codebook of the tokens it was trained on."""
        stamp = bytes(self._trained_on.tolist())  # pyright: ignore[reportCallIssue]
        return stamp.hex() if any(stamp) else ""

    @trained_on.setter
    def trained_on(self, digest: str) -> None:
        stamp = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
        self._trained_on.copy_(stamp)  # pyright: ignore[reportCallIssue]

    def encode(
        self,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
        keep: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch seen width"]:
        """Return the encoder's output at the class token and at the tokens in ``keep`` (all where omitted)."""
        hidden = torch.zeros_like(ids, dtype=torch.bool) if mask is None else mask
        check_tokens(ids, hidden, self.codes, self.length)
        h = self.table(ids.masked_fill(hidden, self.codes))
        h = torch.cat([self.cls.expand(len(ids), -1, -1), h], dim=1) + self.positions
        h = self.dropout(self.embed_norm(h))
        if keep is not None:
            h = torch.cat([h[:, :1], h[:, 1:].gather(1, keep[..., None].expand(-1, -1, self.width))], dim=1)
        return self.norm(self.encoder(h)[0])

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch tokens codes"]:
        """Return logits at every place, given the tokens where ``mask`` is false.

        The ids where ``mask`` is true are not read. ``generator`` draws the places that the encoder leaves out.
        """
        check_tokens(ids, mask, self.codes, self.length)
        keep = self._kept(mask, generator) if self.training and self.min_drop > 0 else None
        z = self.enter(self.encode(ids, mask, keep))
        cls, tokens = z[:, :1], z[:, 1:]
        if keep is not None:
            spread = cls.expand(-1, self.length, -1).clone()
            tokens = spread.scatter(1, keep[..., None].expand(-1, -1, self.width), tokens)
        tokens = torch.where(mask[..., None], cls, tokens)
        h, _ = self.decoder(torch.cat([cls, tokens], dim=1) + self.decoder_positions)
        return F.linear(self.to_token(self.decoder_norm(h[:, 1:])), self.table.weight[: self.codes], self.bias)

    def token_logits(
        self, tokens: Int[Tensor, "batch tokens"], t: Tensor | None = None
    ) -> Float[Tensor, "batch tokens codes"]:
        """Return logits where hidden tokens are written K: how the samplers of ``diffusion.masked`` call a model."""
        hidden = tokens == self.codes
        return self(tokens.masked_fill(hidden, 0), hidden)

    @torch.no_grad()
    def probs(
        self, ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens codes"]:
        """Return :math:`P(k \\mid \\text{tokens seen})` at every place, without gradient, in 32 bits."""
        return self(ids, mask).float().softmax(-1)

    def features(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch width"]:
        """Return the encoder's mean over all tokens, none of them hidden: what a probe reads."""
        return self.encode(ids)[:, 1:].mean(dim=1)

    def _kept(self, mask: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Places that the encoder sees: all but equally many hidden ones of every row, chosen at random."""
        dropped = min(int(self.min_drop * self.length), int(mask.sum(1).min()))
        if dropped == 0:
            return None
        scores = torch.rand(mask.shape, device=mask.device, generator=generator)
        order = (scores + (~mask)).argsort(dim=1)  # hidden ones first
        return order[:, dropped:]
