"""An encoder and a head: the shape every model of the library has."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Network"]


class Network(nn.Module):
    """``head(encoder(x))``, with the representation ``encoder(x)`` exposed.

    Examples:
        >>> import torch
        >>> net = Network(nn.Linear(4, 8), nn.Linear(8, 3))
        >>> net(torch.zeros(2, 4)).shape, net.features(torch.zeros(2, 4)).shape
        (torch.Size([2, 3]), torch.Size([2, 8]))
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def features(self, x: Any) -> Float[Tensor, "batch dim"]:
        """Return the representation."""
        return self.encoder(x)

    def forward(self, x: Any) -> Float[Tensor, "batch out"]:
        """Return the head's output."""
        return self.head(self.features(x))
