"""What all models of subsets offer: a loss, a probability for every element, and a subset."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.distribution.subsets.size_rules import SizeRule, choose_subset

__all__ = ["SubsetModel", "membership_loss"]


def membership_loss(
    logits: Float[Tensor, "batch elements"],
    S: Bool[Tensor, "batch elements"],
    counted: Bool[Tensor, "batch elements"],
) -> Float[Tensor, ""]:
    r"""Cross-entropy of membership, summed over the elements that count, mean over sets.

    .. math:: -\frac1B \sum_b \sum_{i \in C_b} \bigl[ s_i \log q_i + (1 - s_i) \log(1 - q_i) \bigr]

    Examples:
        >>> S, counted = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
        >>> membership_loss(torch.zeros(1, 3), S, counted)
        tensor(1.3863)
    """
    # Elements that do not count may have any logit: they are taken out before the loss, not after.
    each = F.binary_cross_entropy_with_logits(logits.where(counted, 0.0), S.to(logits.dtype), reduction="none")
    return (each * counted).sum() / len(logits)


class SubsetModel(nn.Module, ABC):
    """Base of models that learn which subset of a ground set is best from examples of best subsets."""

    @abstractmethod
    def loss(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        S: Bool[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return what training minimises; ``counted`` are the elements whose membership counts, all where None."""

    @abstractmethod
    def marginals(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return the probability that each element is in the best subset; 0 for padding."""

    @torch.no_grad()
    def predict(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        size: int | Int[Tensor, " batch"] | None = None,
        rule: SizeRule | None = None,
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        n_eval: int = 1,
        generator: torch.Generator | None = None,
    ) -> Bool[Tensor, "batch elements"]:
        """Return the subset that :func:`choose_subset` takes by the mean of ``n_eval`` draws of the marginals."""
        valid = valid_or_all(V, valid)
        return choose_subset(self.mean_marginals(V, valid, n_eval=n_eval, generator=generator), valid, size, rule)

    @torch.no_grad()
    def mean_marginals(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        n_eval: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return the mean of ``n_eval`` independent draws of the marginals; their variance falls as 1/n_eval."""
        check_number("n_eval", n_eval, low=1, integer=True)
        rounds = [self.marginals(V, valid, generator=generator) for _ in range(n_eval)]
        return torch.stack(rounds).mean(0)


def valid_or_all(V: Tensor, valid: Tensor | None) -> Tensor:
    """Return ``valid``, or a mask of all elements where it is None."""
    if V.ndim < 2 or V.shape[1] == 0:
        raise ValueError(f"ground sets must have shape (batch, elements, ...), got {tuple(V.shape)}")
    if valid is None:
        return torch.ones(V.shape[:2], dtype=torch.bool, device=V.device)
    if valid.shape != V.shape[:2]:
        raise ValueError(f"valid must have shape {tuple(V.shape[:2])}, got {tuple(valid.shape)}")
    return valid
