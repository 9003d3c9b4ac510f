"""Encoders from a point and a condition to a vector, and decoders from a vector to a point: perceptrons or
convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.feed_forward import feed_forward

__all__ = ["ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder"]


class MLPEncoder(nn.Module):
    """``MLP([x ; e])``.

    Args:
        shape: of a point x.
        condition: length of the condition e, 0 for none.
        out_dim: length of the result.
        width, layers: of the perceptron, with ReLU.

    Examples:
        >>> MLPEncoder((1, 8, 8), 3, 10)(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)).shape
        torch.Size([2, 10])
    """

    def __init__(self, shape: Sequence[int], condition: int, out_dim: int, *, width: int = 256, layers: int = 2):
        super().__init__()
        self.shape, self.out_dim = tuple(shape), out_dim
        check_number("condition", condition, low=0, integer=True)
        self.net = feed_forward(math.prod(self.shape) + condition, width, out_dim, layers=layers, activation=nn.ReLU)

    def forward(
        self, x: Float[Tensor, "batch *shape"], e: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch out"]:
        """Return one vector for every point and condition."""
        return self.net(torch.cat([x.flatten(1), e], dim=1))


class MLPDecoder(nn.Module):
    """A perceptron from vectors to points of ``shape``; nothing squashes what it returns.

    Args:
        in_dim: length of a vector.
        shape: of a point.
        width, layers: of the perceptron, with ReLU.

    Examples:
        >>> MLPDecoder(5, (1, 8, 8))(torch.zeros(2, 5)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, in_dim: int, shape: Sequence[int], *, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.shape, self.in_dim = tuple(shape), in_dim
        self.net = feed_forward(in_dim, width, math.prod(self.shape), layers=layers, activation=nn.ReLU)

    def forward(self, h: Float[Tensor, "batch in"]) -> Float[Tensor, "batch *shape"]:
        """Return one point for every vector."""
        return self.net(h).unflatten(-1, self.shape)


class ConvEncoder(nn.Module):
    """Halving convolutions (4x4, stride 2) with group norm and ReLU, then a linear layer that also reads the condition.

    Args:
        shape: (channels, height, width); the sides are multiples of ``2 ** len(widths)``.
        condition: length of the condition e, 0 for none.
        out_dim: length of the result.
        widths: channels after every halving.

    Raises:
        ValueError: for sides that cannot be halved that often.

    Examples:
        >>> ConvEncoder((1, 8, 8), 3, 10, widths=(8, 16))(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, shape: Sequence[int], condition: int, out_dim: int, *, widths: Sequence[int] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        self.shape, self.out_dim = tuple(shape), out_dim
        height, width = _grid(self.shape, len(widths))
        layers: list[nn.Module] = []
        for a, b in zip((self.shape[0], *widths), widths):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), _norm(b), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.out = nn.Linear(widths[-1] * height * width + condition, out_dim)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], e: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch out"]:
        """Return one vector for every image and condition."""
        return self.out(torch.cat([self.convolutions(x), e], dim=1))


class ConvDecoder(nn.Module):
    """A linear layer to a small map, then doubling transposed convolutions (4x4, stride 2) with group norm and ReLU.

    Args:
        in_dim: length of a vector.
        shape: (channels, height, width); the sides are multiples of ``2 ** len(widths)``.
        widths: channels before every doubling, from the coarsest on.

    Raises:
        ValueError: for sides that cannot be halved that often.

    Examples:
        >>> ConvDecoder(5, (3, 8, 8), widths=(16, 8))(torch.zeros(2, 5)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, in_dim: int, shape: Sequence[int], *, widths: Sequence[int] = (256, 128, 64, 32)) -> None:
        super().__init__()
        self.shape, self.in_dim = tuple(shape), in_dim
        self.grid = (widths[0], *_grid(self.shape, len(widths)))
        self.first = nn.Linear(in_dim, math.prod(self.grid))
        layers: list[nn.Module] = []
        for a, b in zip(widths, (*widths[1:], self.shape[0])):
            layers += [_norm(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, h: Float[Tensor, "batch in"]) -> Float[Tensor, "batch channels height width"]:
        """Return one image for every vector."""
        return self.convolutions(self.first(h).unflatten(-1, self.grid))


def _grid(shape: tuple[int, ...], halvings: int) -> tuple[int, int]:
    factor = 2**halvings
    if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"shape must be (channels, height, width) with sides that are multiples of {factor}, got {shape}"
        )
    return shape[1] // factor, shape[2] // factor


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(g for g in (1, 2, 4, 8) if width % g == 0), width)
