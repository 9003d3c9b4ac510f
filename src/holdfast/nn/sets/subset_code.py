"""Codes of many subsets of one ground set at the cost of one matrix product."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_choice

__all__ = ["PooledSetCode"]


class PooledSetCode(nn.Module):
    r"""Pooled features of any number of subsets: ``phi`` is applied once to every element of the ground set.

    .. math:: r_S = \sum_{i \in S} \phi(x_i) \quad(\text{sum}),\qquad
              \frac1{|S|} \sum_{i \in S} \phi(x_i) \quad(\text{mean}),\qquad
              \sum_{i \in S} \frac{e^{a^\top \phi(x_i)}}{\sum_{j \in S} e^{a^\top \phi(x_j)}} \phi(x_i)
              \quad(\text{attention})

    The empty subset has code 0.

    Args:
        phi: from elements (..., *shape) to features (..., h).
        pool: ``"sum"``, ``"mean"`` or ``"attention"``.
        width: h; needed for attention, which learns one vector ``a``.

    Source: Xie et al., "Enhancing neural subset selection", ICLR 2024, proposition on the construction of M(S, V).

    Examples:
        >>> code = PooledSetCode(nn.Identity(), "mean")
        >>> code(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[True, False], [True, True], [False, False]]]))
        tensor([[[1.],
                 [2.],
                 [0.]]])
    """

    def __init__(
        self,
        phi: nn.Module,
        pool: Literal["sum", "mean", "attention"] = "sum",
        *,
        width: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("pool", pool, ["sum", "mean", "attention"])
        if pool == "attention" and width is None:
            raise ValueError("attention pooling needs width, the number of features that phi gives")
        self.phi, self.pool = phi, pool
        self.attend = nn.Linear(width, 1, bias=False) if pool == "attention" and width is not None else None

    def forward(
        self, x: Shaped[Tensor, "batch elements *shape"], mask: Shaped[Tensor, "batch *subsets elements"]
    ) -> Float[Tensor, "batch *subsets width"]:
        """Return one code per mask; a mask may hold any non-negative weights."""
        return self.pooled(self.phi(x), mask)

    def pooled(
        self,
        h: Float[Tensor, "batch elements width"],
        mask: Shaped[Tensor, "batch *subsets elements"],
        values: Float[Tensor, "batch elements out"] | None = None,
    ) -> Float[Tensor, "batch *subsets out"]:
        """Return the codes from the features ``h`` that ``phi`` gave, for when these are needed again.

        ``values`` are pooled in place of ``h``: a linear function of ``h`` is cheaper to take before than after.
        """
        values = h if values is None else values
        if mask.ndim < 2 or mask.shape[0] != h.shape[0] or mask.shape[-1] != h.shape[1]:
            raise ValueError(
                f"masks must have shape ({h.shape[0]}, ..., {h.shape[1]}) for {h.shape[0]} ground sets of "
                f"{h.shape[1]} elements, got {tuple(mask.shape)}"
            )
        w = mask.to(h.dtype)
        flat = w.reshape(len(h), -1, w.shape[-1])
        if self.attend is not None:
            score = self.attend(h).squeeze(-1)
            flat = flat * (score - score.detach().amax(1, keepdim=True)).exp().unsqueeze(1)
        code = flat @ values
        if self.pool != "sum":
            total = flat.sum(-1, keepdim=True)
            code = torch.where(total > 0, code / torch.where(total > 0, total, 1.0), 0.0)
        return code.view(*w.shape[:-1], values.shape[-1])
