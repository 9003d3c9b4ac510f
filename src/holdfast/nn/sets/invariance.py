"""Whether a code is a function of the empirical measure: what may be done to a set without changing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator
from holdfast.nn.sets.protocol import SetEncoder

__all__ = ["InvarianceReport", "check_distributional_invariance"]


@dataclass(frozen=True)
class InvarianceReport:
    """Largest change of a code under each of four operations, and what is tolerated.

    Attributes:
        permutation: reordering the elements.
        duplication: taking every element K times.
        masking: masking elements instead of removing them.
        weighting: integer weights instead of copies.
    """

    permutation: float
    duplication: float
    masking: float
    weighting: float
    atol: float

    @property
    def holds(self) -> bool:
        """Whether every change is within ``atol``."""
        return max(self.permutation, self.duplication, self.masking, self.weighting) <= self.atol

    def __str__(self) -> str:
        rows = ("permutation", "duplication", "masking", "weighting")
        return ", ".join(f"{r} {getattr(self, r):.1e}" for r in rows) + f" (tolerated {self.atol:.0e})"


@torch.no_grad()
def check_distributional_invariance(
    encoder: SetEncoder,
    x: Float[Tensor, "batch elements *shape"],
    *,
    atol: float = 1e-5,
    copies: Sequence[int] = (2, 3, 7),
    seed: int = 0,
) -> InvarianceReport:
    r"""Measure how far the codes of the sets ``x`` move when their empirical measures do not.

    An encoder that passes can be trained on small sets and used on large ones: ``E(S) = phi(P_S)``, so that
    :math:`\sqrt m (E(S_m) - \phi(P))` has a normal limit where phi is smooth.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025, definition of distributional invariance.

    Examples:
        >>> from holdfast.nn.sets import MeanEncoder, SumSetEncoder
        >>> x = torch.randn(4, 6, 2)
        >>> check_distributional_invariance(MeanEncoder(2), x).holds
        True
        >>> check_distributional_invariance(SumSetEncoder(2), x).holds
        False
    """
    check_number("atol", atol, low=0)
    rng = generator(seed)
    m = x.shape[1]
    z = encoder(x)

    def change(other: Tensor, than: Tensor = z) -> float:
        return float((other - than).abs().max())

    order = torch.randperm(m, generator=rng).to(x.device)
    kept = torch.rand(m, generator=rng) < 0.5
    kept[int(torch.randint(m, (), generator=rng))] = True
    kept = kept.to(x.device)
    counts = torch.randint(1, 4, (m,), generator=rng).to(x.device)
    row = lambda v: v.expand(len(x), m)  # noqa: E731
    return InvarianceReport(
        permutation=change(encoder(x[:, order])),
        duplication=max(change(encoder(x.repeat_interleave(k, dim=1))) for k in copies),
        masking=change(encoder(x, row(kept)), encoder(x[:, kept])),
        weighting=change(encoder(x, None, row(counts.to(x.dtype))), encoder(x.repeat_interleave(counts, dim=1))),
        atol=atol,
    )
