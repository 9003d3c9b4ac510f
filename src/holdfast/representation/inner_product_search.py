"""Exact brute-force search for the largest inner products, arranged so that short vectors cost little."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_matrix, check_number

__all__ = ["InnerProductTable"]

_BLOCK = 64
_BUFFER = 1_600_000


class InnerProductTable:
    r"""Vectors stored for the question "which *k* rows maximise :math:`q \cdot x_i + b_i`?".

    With :math:`b_i = 0` that is inner-product (for unit vectors cosine) search, with
    :math:`b_i = -|x_i|^2/2` it is Euclidean search. For short vectors the scores are cheap and it is the selection
    that costs: so the maximum of every block of 64 scores is taken while they are in cache, and only the *k* blocks
    with the largest maxima are looked into. They must contain the *k* largest scores, so the answer is exact.

    Args:
        x: vectors (n, d), float32.
        bias: optional offsets (n,).

    Example:
        >>> table = InnerProductTable(torch.eye(3))
        >>> scores, rows = table.top(torch.tensor([[0.1, 0.7, 0.2]]), k=2)
        >>> rows
        tensor([[1, 2]])
    """

    def __init__(self, x: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None = None) -> None:
        check_matrix("x", x)
        self.n, self.dim = x.shape
        pad = -self.n % _BLOCK
        columns = x.float().t()
        self._columns = torch.nn.functional.pad(columns, (0, pad)) if pad else columns.contiguous()
        self._bias = None if bias is None and not pad else x.new_zeros(self.n + pad, dtype=torch.float32)
        if self._bias is not None:
            if bias is not None:
                self._bias[: self.n] = bias
            self._bias[self.n :] = -torch.inf

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._columns.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def top(
        self, q: Float[Tensor, "queries d"], k: int, ordered: bool = True
    ) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
        """Return the ``k`` largest scores of every query and their rows, best first where ``ordered``.

        Raises:
            ValueError: for queries of another length, or ``k`` outside [1, n].
        """
        check_matrix("q", q, columns=self.dim)
        k = int(check_number("k", k, low=1, high=self.n, integer=True))
        if not len(q):
            return q.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=q.device)
        chunk = max(8, _BUFFER // self._columns.shape[1])
        buffer = q.new_empty(min(chunk, len(q)), self._columns.shape[1])
        parts = [self._top_chunk(part.float(), k, ordered, buffer[: len(part)]) for part in q.split(chunk)]
        scores, rows = zip(*parts)
        return torch.cat(scores), torch.cat(rows)

    def _top_chunk(self, q: Tensor, k: int, ordered: bool, buffer: Tensor) -> tuple[Tensor, Tensor]:
        torch.mm(q, self._columns, out=buffer)
        if self._bias is not None:
            buffer += self._bias
        n_blocks = self._columns.shape[1] // _BLOCK
        if 2 * k >= n_blocks:
            scores, rows = _largest(buffer, k)
        else:
            blocks = buffer.view(len(q), n_blocks, _BLOCK)
            chosen = _largest(blocks.amax(2), k)[1]
            flat = chosen + torch.arange(len(q), device=q.device)[:, None] * n_blocks
            inside = buffer.view(-1, _BLOCK).index_select(0, flat.view(-1)).view(len(q), -1)
            scores, place = _largest(inside, k)
            rows = chosen.gather(1, place // _BLOCK) * _BLOCK + place % _BLOCK
        if ordered:
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            rows = rows.gather(1, order)
        return scores, rows


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest entries of every row in any order."""
    if scores.device.type != "cpu":
        return scores.topk(k, dim=1, sorted=False)
    width = scores.shape[1]
    if k == width:
        places = torch.arange(width).expand(scores.shape)
    else:
        # NumPy partitions with vector instructions, several times faster than torch.topk on a CPU.
        places = torch.from_numpy(np.argpartition(scores.numpy(), width - k, axis=1)[:, width - k :])
    return scores.gather(1, places), places
