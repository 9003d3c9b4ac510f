"""Sequences written one symbol after the other, with the code of their law in front."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.distribution.generators.inputs import check_codes, check_points
from holdfast.nn.attention import TransformerBlock
from holdfast.nn.feed_forward import feed_forward

__all__ = ["PrefixConditioned"]


class _CausalTransformer(nn.Module):
    def __init__(self, width: int, length: int, depth: int, heads: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        n = h.shape[1]
        before = torch.ones(n, n, dtype=torch.bool, device=h.device).tril().expand(len(h), n, n)
        h = h + self.place[:n]
        for block in self.blocks:
            h = block(h, mask=before)
        return self.norm(h)


class PrefixConditioned(nn.Module):
    r"""An autoregressive model that reads the code as ``prefix`` further symbols before the sequence.

    .. math:: p(x \mid z) = \prod_i p(x_i \mid \mathrm{MLP}(z), x_{<i})

    A point is a sequence of ``length`` symbols, 0 to ``vocab - 1``; a set is (m, length).

    Args:
        vocab, length: symbols, and how many a sequence has.
        code: length l of a code.
        width, depth, heads: of the causal transformer.
        prefix: embeddings that the code becomes.
        body: another causal network from (batch, prefix + length - 1, width) to the same shape.

    Raises:
        ValueError: for symbols outside the vocabulary or sequences of another length.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025; prefixes by Li and Liang,
    "Prefix-tuning", ACL 2021.

    Examples:
        >>> model = PrefixConditioned(4, 6, 2, width=16, depth=1, heads=2)
        >>> model.sample(torch.zeros(3, 2), 5, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 5, 6])
    """

    def __init__(
        self,
        vocab: int,
        length: int,
        code: int,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        prefix: int = 1,
        body: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("length", length), ("prefix", prefix), ("depth", depth)):
            check_number(name, value, low=1, integer=True)
        check_number("vocab", vocab, low=2, integer=True)
        self.vocab, self.length, self.code, self.prefix, self.width = vocab, length, code, prefix, width
        self.front = feed_forward(code, width, prefix * width, layers=1)
        self.embed = nn.Embedding(vocab, width)
        self.body = _CausalTransformer(width, prefix + length - 1, depth, heads) if body is None else body
        self.head = nn.Linear(width, vocab)

    def logits(
        self, x: Int[Tensor, "batch symbols"], z: Float[Tensor, "batch code"]
    ) -> Float[Tensor, "batch next vocab"]:
        """Return the logits of every symbol given those before it, and of one more."""
        front = self.front(z).unflatten(-1, (self.prefix, self.width))
        return self.head(self.body(torch.cat([front, self.embed(x)], dim=1))[:, self.prefix - 1 :])

    def loss(
        self,
        x: Int[Tensor, "batch points length"],
        z: Float[Tensor, "batch code"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean negative log-likelihood of a symbol."""
        check_points(x, z, (self.length,), self.code)
        symbols = x.flatten(0, 1).long()
        if bool((symbols != x.flatten(0, 1)).any()) or int(symbols.min()) < 0 or int(symbols.max()) >= self.vocab:
            raise ValueError(
                f"symbols must be whole numbers from 0 to {self.vocab - 1}, got {float(x.min()):g} to "
                f"{float(x.max()):g}"
            )
        out = self.logits(symbols[:, :-1], z.repeat_interleave(x.shape[1], dim=0))
        return nn.functional.cross_entropy(out.flatten(0, 1), symbols.flatten())

    @torch.no_grad()
    def sample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, "batch n length"]:
        """Draw ``n`` sequences for every code."""
        check_codes(z, self.code)
        check_number("n", n, low=1, integer=True)
        codes = z.repeat_interleave(n, dim=0)
        x = torch.zeros(len(codes), 0, dtype=torch.long, device=z.device)
        for _ in range(self.length):
            law = self.logits(x, codes)[:, -1].softmax(-1)
            x = torch.cat([x, torch.multinomial(law, 1, generator=generator)], dim=1)
        return x.unflatten(0, (len(z), n))
