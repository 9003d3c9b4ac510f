"""Binary vectors whose entries are drawn together, with gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["CopulaBernoulli"]


class CopulaBernoulli:
    r"""Relaxed Bernoulli variables, correlated through a Gaussian copula of low rank.

    .. math:: g = d \odot \varepsilon + U \eta,\quad c = \Phi(g),\quad
              b = \sigma\bigl((\mathrm{logit}\,q + \mathrm{logit}\,c) / \tau\bigr),\qquad
              \varepsilon, \eta \sim N(0, I)

    Entry i is one with probability q_i exactly where :math:`d_i^2 + \lVert u_i \rVert^2 = 1`; scale 1 and factor 0
    give independent entries.

    Args:
        logits: logit of q.
        scale: d, positive; ``None`` for one.
        factor: U; ``None`` for zero.
        tau: temperature of the relaxation.

    Source: Ou et al., "Learning neural set functions under the optimal subset oracle" (EquiVSet), NeurIPS 2022,
    appendix on the copula; Xie et al., "Enhancing neural subset selection", ICLR 2024.

    Examples:
        >>> law = CopulaBernoulli(torch.tensor([[-20.0, 20.0]]))
        >>> law.rsample(3, torch.Generator().manual_seed(0))
        tensor([[[0., 1.],
                 [0., 1.],
                 [0., 1.]]])
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch elements"],
        scale: Float[Tensor, "batch elements"] | None = None,
        factor: Float[Tensor, "batch elements rank"] | None = None,
        tau: float = 0.1,
    ) -> None:
        check_number("tau", tau, low=0, open_low=True)
        if scale is not None and scale.shape != logits.shape:
            raise ValueError(f"scale must have the shape of logits {tuple(logits.shape)}, got {tuple(scale.shape)}")
        if factor is not None and factor.shape[:-1] != logits.shape:
            raise ValueError(f"factor must have shape {(*logits.shape, 'rank')}, got {tuple(factor.shape)}")
        self.logits, self.scale, self.factor, self.tau = logits, scale, factor, tau

    @property
    def probs(self) -> Float[Tensor, "batch elements"]:
        """q."""
        return self.logits.sigmoid()

    def entropy(self) -> Float[Tensor, "batch elements"]:
        """Entropy of every entry alone, in nats."""
        return torch.nn.functional.softplus(self.logits) - self.logits * self.probs

    def rsample(
        self, n: int, generator: torch.Generator | None = None, *, hard: bool = True
    ) -> Float[Tensor, "batch n elements"]:
        """Draw ``n`` vectors; ``hard`` ones are zeros and ones that have the gradient of the relaxed values."""
        check_number("n", n, low=1, integer=True)
        batch, elements = self.logits.shape

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=self.logits.device, dtype=self.logits.dtype)

        g = normal(batch, n, elements)
        if self.scale is not None:
            g = self.scale.unsqueeze(1) * g
        if self.factor is not None and self.factor.shape[-1]:
            g = g + normal(batch, n, self.factor.shape[-1]) @ self.factor.transpose(1, 2)
        # logit(Phi(g)) without the rounding of Phi to 0 or 1.
        logit_c = torch.special.log_ndtr(g) - torch.special.log_ndtr(-g)
        score = self.logits.unsqueeze(1) + logit_c
        soft = (score / self.tau).sigmoid()
        return (score > 0).to(soft.dtype) + (soft - soft.detach()) if hard else soft
