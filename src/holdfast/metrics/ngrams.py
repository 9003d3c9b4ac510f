"""An n-gram model: a reference for token sequences that needs no network."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["NGramModel"]


class NGramModel:
    r"""Interpolated n-gram model with Witten-Bell smoothing.

    .. math:: p(w \mid h) = \frac{c(hw) + T(h)\, p(w \mid h')}{c(h) + T(h)}

    where :math:`c` counts, :math:`T(h)` is the number of different tokens seen after the history h, :math:`h'` is h
    without its first token, and the shortest history backs off to the uniform law. A history never seen is skipped.
    Counts are kept as sorted codes, so a lookup is a binary search and a whole batch is scored at once.

    Args:
        tokens: training text (batch, length) or (length,); n-grams do not cross rows.
        vocab: number of tokens V.
        order: n, the longest n-gram.

    Raises:
        ValueError: for tokens outside [0, V), or an order for which :math:`V^n` does not fit 63 bits.

    Source: Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), 1991.

    Examples:
        >>> model = NGramModel(torch.tensor([0, 1, 0, 1, 0, 1, 0]), vocab=3, order=2)
        >>> [round(p, 3) for p in model.law(torch.tensor([[0]]))[0].tolist()]
        [0.13, 0.852, 0.019]
    """

    def __init__(self, tokens: Int[Tensor, "*batch length"], vocab: int, order: int = 3) -> None:
        self.vocab = int(check_number("vocab", vocab, low=1, integer=True))
        self.order = int(check_number("order", order, low=1, integer=True))
        if self.vocab**self.order >= 2**63:
            raise ValueError(f"{self.vocab} tokens to the power of order {self.order} do not fit 63 bits")
        x = tokens if tokens.ndim == 2 else tokens[None]
        self._check(x)
        self._grams: list[tuple[Tensor, Tensor]] = []
        self._histories: list[tuple[Tensor, Tensor, Tensor]] = []
        for n in range(1, self.order + 1):
            grams, counts = torch.unique(self._codes(x, n)[:, n - 1 :], return_counts=True)
            histories, which = torch.unique(grams // self.vocab, return_inverse=True)
            total = torch.zeros(len(histories), dtype=torch.float64).index_add(0, which, counts.double())
            kinds = torch.bincount(which, minlength=len(histories)).double()
            self._grams.append((grams, counts.double()))
            self._histories.append((histories, total, kinds))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.numel() == 0 or x.is_floating_point():
            raise ValueError(f"tokens must be integers (batch, length), got {x.dtype} {tuple(x.shape)}")
        if not 0 <= int(x.min()) <= int(x.max()) < self.vocab:
            raise ValueError(f"tokens must lie in [0, {self.vocab}), got {int(x.min())} to {int(x.max())}")

    def _codes(self, x: Tensor, n: int) -> Tensor:
        """Number of the n-gram that ends at each place, in base V; meaningful from place n - 1 on."""
        code = torch.zeros_like(x, dtype=torch.long)
        for back in range(n):
            code[:, back:] += self.vocab**back * x[:, : x.shape[1] - back].long()
        return code

    def __call__(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """Return the log-probability of every token given those before it in its row, in nats."""
        self._check(tokens)
        p = torch.full(tokens.shape, 1 / self.vocab, dtype=torch.float64)
        for n in range(1, min(self.order, tokens.shape[1]) + 1):
            code = self._codes(tokens, n)[:, n - 1 :]
            p[:, n - 1 :] = self._mix(p[:, n - 1 :], code, n)
        return p.log()

    def law(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch vocab"]:
        """Return the law of the next token after each history."""
        batch = len(history)
        every = torch.arange(self.vocab).repeat(batch)[:, None]
        rows = torch.cat([history.repeat_interleave(self.vocab, 0), every], 1)
        return self(rows)[:, -1].exp().view(batch, self.vocab)

    def _mix(self, backed_off: Tensor, code: Tensor, n: int) -> Tensor:
        grams, counts = self._grams[n - 1]
        histories, total, kinds = self._histories[n - 1]
        known, at = _find(histories, code // self.vocab)
        seen, gram_at = _find(grams, code)
        c = torch.where(seen, counts[gram_at], 0.0)
        mixed = (c + kinds[at] * backed_off) / (total[at] + kinds[at])
        return torch.where(known, mixed, backed_off)


def _find(ordered: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each code is among the sorted ones, and where."""
    at = torch.searchsorted(ordered, wanted.contiguous()).clamp_max(len(ordered) - 1)
    return ordered[at] == wanted, at
