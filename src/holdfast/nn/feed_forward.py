"""The plain perceptron, from one width to another."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from holdfast.core.checks import check_number

__all__ = ["feed_forward"]


def feed_forward(
    features: int, width: int, out_dim: int, *, layers: int = 2, activation: Callable[[], nn.Module] = nn.SELU
) -> nn.Sequential:
    """Return ``layers`` hidden layers of ``width`` units with ``activation``, then a linear layer to ``out_dim``.

    Examples:
        >>> import torch
        >>> feed_forward(3, 16, 2)(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """
    for name, value in (("features", features), ("width", width), ("out_dim", out_dim)):
        check_number(name, value, low=1, integer=True)
    check_number("layers", layers, low=0, integer=True)
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(features if i == 0 else width, width), activation()]
    return nn.Sequential(*parts, nn.Linear(width if layers else features, out_dim))
