"""Exact brute-force search for the largest inner products, arranged so that short vectors cost little."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_matrix, check_number

__all__ = ["InnerProductTable"]

_BLOCK = 16
_TILE = 8192
_QUERIES = 128
_SCORES = 2**24


class InnerProductTable:
    r"""Vectors stored for the question "which *k* rows maximise :math:`q \cdot x_i + b_i`?".

    With :math:`b_i = 0` that is inner-product (for unit vectors cosine) search, with
    :math:`b_i = -|x_i|^2/2` it is Euclidean search.

    For short vectors the scores are cheap and it is keeping and selecting them that costs. So on a CPU only the
    largest score of every 16 rows leaves the cache; the *k* blocks with the largest ones must contain the *k* best
    rows, and just their scores are computed again. The answer is exact.

    Args:
        x: vectors (n, d), used as float32.
        bias: optional offsets (n,).

    Examples:
        >>> table = InnerProductTable(torch.eye(3))
        >>> scores, rows = table.top(torch.tensor([[0.1, 0.7, 0.2]]), k=2)
        >>> rows
        tensor([[1, 2]])
    """

    def __init__(self, x: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None = None) -> None:
        check_matrix("x", x)
        self.n, self.dim = x.shape
        self._has_bias = bias is not None
        # The offset is one more coordinate, against a query's 1.
        parts = [x.float()] if bias is None else [x.float(), bias.float()[:, None]]
        padding = x.new_zeros(-self.n % _BLOCK, sum(p.shape[1] for p in parts), dtype=torch.float32)
        self._rows = torch.cat([torch.cat(parts, 1), padding])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._rows.nbytes

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
        q = q.float()
        if self._has_bias:
            q = torch.cat([q, q.new_ones(len(q), 1)], 1)
        by_blocks = q.device.type == "cpu" and 4 * k * _BLOCK <= self.n
        chunk = _QUERIES if by_blocks else max(1, _SCORES // self.n)
        parts = [(self._top_by_blocks if by_blocks else self._top_of_all)(part, k) for part in q.split(chunk)]
        scores, rows = (torch.cat(p) for p in zip(*parts))
        if ordered:
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            rows = rows.gather(1, order)
        return scores, rows

    def _top_of_all(self, q: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return _largest(q @ self._rows[: self.n].t(), k)

    def _top_by_blocks(self, q: Tensor, k: int) -> tuple[Tensor, Tensor]:
        n_blocks = len(self._rows) // _BLOCK
        columns = q.t().contiguous()
        best = q.new_empty(n_blocks, len(q))
        scores = q.new_empty(min(_TILE, len(self._rows)), len(q))
        for start in range(0, len(self._rows), _TILE):
            tile = self._rows[start : start + _TILE]
            torch.mm(tile, columns, out=scores[: len(tile)])
            scores[max(0, self.n - start) : len(tile)] = -torch.inf
            blocks = slice(start // _BLOCK, (start + len(tile)) // _BLOCK)
            torch.amax(scores[: len(tile)].view(-1, _BLOCK, len(q)), 1, out=best[blocks])
        chosen = _largest(best.t().contiguous(), k)[1]
        inside = self._rows.view(n_blocks, -1).index_select(0, chosen.reshape(-1)).view(len(q), k * _BLOCK, -1)
        again = torch.bmm(inside, q[:, :, None])[:, :, 0]
        rows = (chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK)).view(len(q), -1)
        scores, place = _largest(again.masked_fill_(rows >= self.n, -torch.inf), k)
        return scores, rows.gather(1, place)


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest entries of every row in any order."""
    if scores.device.type != "cpu":
        return scores.topk(k, dim=1, sorted=False)
    width = scores.shape[1]
    # NumPy partitions with vector instructions, several times faster than torch.topk on a CPU.
    places = torch.from_numpy(np.argpartition(scores.numpy(), width - k, axis=1)[:, width - k :]) if k < width else None
    places = torch.arange(width).expand(scores.shape) if places is None else places
    return scores.gather(1, places), places
