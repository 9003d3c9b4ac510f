"""A first guess of which elements belong to the best subset."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.distribution.subsets.copula import CopulaBernoulli
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.sets import pooled_mean

__all__ = ["RecognitionNetwork"]


class RecognitionNetwork(nn.Module):
    r"""From a ground set to a law of its subsets.

    .. math:: f_i = \mathrm{FF}([\phi(x_i)\,;\,\mathrm{mean}_j \phi(x_j)]),\quad q_i = \sigma(a^\top f_i),\quad
              d_i = \mathrm{softplus}(b^\top f_i),\quad u_i = \tanh(C f_i)

    Args:
        phi: from elements to ``width`` features.
        width: of these.
        hidden, layers: of the perceptron.
        law: ``"independent"`` entries, or ``"copula"`` with scale d and factor u.
        rank: of u.
        tau: temperature of the samples.
        context: join the mean over the ground set to every element; without it each element is seen alone.

    Source: Ou et al. (EquiVSet), NeurIPS 2022; with ``context``, Xie et al., ICLR 2024.

    Examples:
        >>> RecognitionNetwork(nn.Linear(2, 16), 16)(torch.zeros(3, 5, 2)).probs.shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        phi: nn.Module,
        width: int,
        *,
        hidden: int = 500,
        layers: int = 1,
        law: Literal["independent", "copula"] = "copula",
        rank: int = 5,
        tau: float = 0.1,
        context: bool = True,
    ) -> None:
        super().__init__()
        check_choice("law", law, ["independent", "copula"])
        check_number("rank", rank, low=1, integer=True)
        self.phi, self.context, self.tau = phi, context, tau
        self.rank = rank if law == "copula" else 0
        outputs = 2 + rank if law == "copula" else 1
        self.layers = feed_forward(2 * width if context else width, hidden, outputs, layers=layers, activation=nn.ReLU)

    def forward(
        self, V: Shaped[Tensor, "batch elements *shape"], valid: Bool[Tensor, "batch elements"] | None = None
    ) -> CopulaBernoulli:
        """Return the law of the subsets of every ground set; padding has no part in it."""
        h = self.phi(V)
        if self.context:
            mean = pooled_mean(h, None if valid is None else valid.to(h.dtype))
            h = torch.cat([h, mean.unsqueeze(1).expand_as(h)], dim=-1)
        out = self.layers(h)
        if not self.rank:
            return CopulaBernoulli(out[..., 0], tau=self.tau)
        return CopulaBernoulli(out[..., 0], nn.functional.softplus(out[..., 1]), out[..., 2:].tanh(), self.tau)
