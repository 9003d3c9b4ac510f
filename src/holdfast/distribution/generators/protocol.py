"""What a conditional generator is: a law of points for every code."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ConditionalGenerator"]


class ConditionalGenerator(Protocol):
    """A module that learns by a loss of its own, without a gradient through sampling, and samples given codes."""

    def loss(
        self,
        x: Float[Tensor, "batch points *shape"],
        z: Float[Tensor, "batch code"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return how badly the laws of ``z`` fit the points ``x``."""
        ...

    def sample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch n *shape"]:
        """Draw ``n`` points for every code."""
        ...
