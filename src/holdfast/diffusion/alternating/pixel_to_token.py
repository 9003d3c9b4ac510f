"""From a degraded image to the tokens of a better one: a vision transformer and a decoder over patches and tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.diffusion.alternating.tokenizer import check_tokens
from holdfast.diffusion.backbones.transformer import Transformer
from holdfast.diffusion.backbones.vit import ViTEncoder

__all__ = ["PixelToToken"]


class PixelToToken(nn.Module):
    r"""Predict the token of every patch from pixels and from the tokens known to be right.

    .. math:: \log p_\theta(k \mid x_t, z_t)_l = \langle g(D([\,M_m(W E(x_t)),\; e_{z_t}\,]))_l,\; \mathrm{sg}(e_k)
        \rangle + b_k

    The encoder E sees the whole image, clipped to [0, 1]. Before the decoder D a learned token replaces the class
    token and the patches of hidden places (:math:`M_m`), and the known tokens are appended with a table and positions
    of their own. What the encoder saw at a hidden place so reaches the logits only through its visible patches.

    Args:
        encoder: a vision transformer with one patch per token.
        codes: size K of the codebook.
        decoder_depth: blocks of the decoder.
        decoder_width, decoder_heads: the encoder's where omitted.
        mlp_ratio: of the decoder.
        token_input: append the known tokens; without, pixels are all there is.
        replace_hidden: replace what the encoder makes of hidden places and of the class token.
        init_std: deviation of table, positions and mask token at the start.

    Raises:
        ValueError: for ids outside [0, K), tokens that do not lie on the patch grid, or a mask of another shape.

    Source: Tian et al., "ADDP", ICLR 2024, section 3.3 and appendix.

    Examples:
        >>> encoder = ViTEncoder(1, 16, patch=4, width=16, depth=1, heads=2)
        >>> net = PixelToToken(encoder, codes=8, decoder_depth=1).eval()
        >>> ids, hidden = torch.zeros(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.bool)
        >>> logits = net(torch.rand(2, 1, 16, 16), ids, hidden)
        >>> logits.shape, bool((logits[0] == logits[1]).all())  # nothing known: the pixels cannot matter
        (torch.Size([2, 16, 8]), True)
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        codes: int,
        *,
        decoder_depth: int = 8,
        decoder_width: int | None = None,
        decoder_heads: int | None = None,
        mlp_ratio: float = 4.0,
        token_input: bool = True,
        replace_hidden: bool = True,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.codes = int(check_number("codes", codes, low=1, integer=True))
        check_number("init_std", init_std, low=0, open_low=True)
        self.encoder = encoder
        self.token_input, self.replace_hidden = token_input, replace_hidden
        width = encoder.width if decoder_width is None else decoder_width
        heads = encoder.heads if decoder_heads is None else decoder_heads
        self.width, self.length = width, encoder.length
        self.enter = nn.Linear(encoder.width, width)
        self.table = nn.Embedding(codes, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.hidden_positions = nn.Parameter(torch.empty(1, 1 + self.length, width))
        self.visible_positions = nn.Parameter(torch.empty(1, 1 + self.length, width))
        self.token_positions = nn.Parameter(torch.empty(self.length, width))
        self.decoder = Transformer(width, decoder_depth, heads, mlp_ratio=mlp_ratio)
        self.norm = nn.LayerNorm(width)
        self.to_token = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(codes))
        for weight in (self.table.weight, self.mask_token, self.hidden_positions, self.visible_positions):
            nn.init.trunc_normal_(weight, std=init_std)
        nn.init.trunc_normal_(self.token_positions, std=init_std)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch tokens codes"]:
        """Return logits at every place, given the image and the tokens where ``mask`` is false."""
        check_tokens(ids, mask, self.codes, self.length)
        z = self.encoder(x.clamp(0, 1))
        h = self.enter(torch.cat([z.cls[:, None], z.patches], dim=1))
        hidden = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)[..., None]
        if self.replace_hidden:
            h = torch.where(hidden, self.mask_token, h)
        h = h + torch.where(hidden, self.hidden_positions, self.visible_positions)
        known, seen = self._known(ids, mask) if self.token_input else (h[:, :0], None)
        if seen is not None:
            seen = torch.cat([torch.ones_like(hidden[..., 0]), seen], dim=1)
        out, _ = self.decoder(torch.cat([h, known], dim=1), mask=seen)
        out = self.to_token(self.norm(out[:, 1 : 1 + self.length]))
        return F.linear(out, self.table.weight.detach(), self.bias)

    def _known(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed the known tokens of every row, in as many columns as the fullest row needs, and say which are real."""
        count = (~mask).sum(1)
        most = int(count.max())
        places = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        tokens = self.table(ids.gather(1, places)) + self.token_positions[places]
        if int(count.min()) == most:
            return tokens, None
        return tokens, torch.arange(most, device=ids.device) < count[:, None]
