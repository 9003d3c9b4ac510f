"""A linear classifier that gets an output for every new class."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number

__all__ = ["GrowingClassifier"]


class GrowingClassifier(nn.Module):
    """Trainable linear classifier with as many outputs as classes seen so far.

    Args:
        in_dim: entries of the features.
        n_classes: outputs to begin with.

    Examples:
        >>> head = GrowingClassifier(4)
        >>> head.grow(3, generator=torch.Generator().manual_seed(0))
        >>> head(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_dim: int, n_classes: int = 0) -> None:
        super().__init__()
        self.in_dim = int(check_number("in_dim", in_dim, low=1, integer=True))
        self.weight = nn.Parameter(torch.empty(0, self.in_dim))
        self.bias = nn.Parameter(torch.empty(0))
        if n_classes:
            self.grow(n_classes)

    @property
    def n_classes(self) -> int:
        """Number of outputs."""
        return len(self.weight)

    def grow(self, n_classes: int, generator: torch.Generator | None = None) -> None:
        """Have at least ``n_classes`` outputs; outputs that exist keep their weights."""
        new = n_classes - self.n_classes
        if new <= 0:
            return
        bound = 1 / math.sqrt(self.in_dim)
        weight = torch.empty(new, self.in_dim).uniform_(-bound, bound, generator=generator).to(self.weight)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), weight]))
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), torch.zeros(new).to(self.bias)]))

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, for features that a new model makes."""
        n = self.n_classes
        self.weight = nn.Parameter(self.weight.detach()[:0])
        self.bias = nn.Parameter(self.bias.detach()[:0])
        self.grow(n, generator)

    def forward(self, x: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of the classes seen so far."""
        return F.linear(x, self.weight, self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args, **kwargs) -> None:
        stored = state_dict.get(prefix + "weight")
        if stored is not None and stored.shape[1:] == self.weight.shape[1:]:
            n = len(stored)
            self.weight = nn.Parameter(self.weight.detach().new_zeros(n, self.in_dim))
            self.bias = nn.Parameter(self.bias.detach().new_zeros(n))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"in_dim={self.in_dim}, n_classes={self.n_classes}"
