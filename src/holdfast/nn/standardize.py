"""Centre and scale inside the model, so that a saved or exported model takes raw values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["Standardize"]


class Standardize(nn.Module):
    r"""Map every feature to zero mean and unit variance: ``(x - mean) / std``.

    A ``uint8`` input is an image and is first scaled to [0, 1]. A feature whose ``std`` is zero (constant in
    the training data) is centred and left unscaled, so it stays finite at test time whatever its value.

    Args:
        features: number of features, or image channels.
        mean, std: one entry per feature; empty means zero mean and unit deviation.
        dim: axis that holds the features; -1 for vectors and sets, 1 for images.

    Raises:
        ValueError: where the lengths disagree or a deviation is negative or not finite.

    Examples:
        >>> layer = Standardize(2, mean=(1.0, 5.0), std=(2.0, 0.0))
        >>> layer(torch.tensor([[3.0, 5.0]]))
        tensor([[1., 0.]])
        >>> Standardize(1, dim=1)(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
        1.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, mean: Sequence[float] = (), std: Sequence[float] = (), *, dim: int = -1) -> None:
        super().__init__()
        check_number("features", features, low=0, integer=True)
        m = torch.tensor(tuple(mean), dtype=torch.float32) if len(mean) else torch.zeros(features)
        s = torch.tensor(tuple(std), dtype=torch.float32) if len(std) else torch.ones(features)
        for name, value in (("mean", m), ("std", s)):
            if value.shape != (features,):
                raise ValueError(f"{name} must have {features} entries, one per feature, got {value.numel()}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite, got {value.tolist()}")
        if bool((s < 0).any()):
            raise ValueError(f"std must be non-negative, got {s.tolist()}")
        self.dim = dim
        self.register_buffer("mean", m)
        self.register_buffer("std", torch.where(s > 0, s, torch.ones_like(s)))

    def forward(self, x: Shaped[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        """Return the standardised values in the precision of the layer."""
        scaled = x.to(self.mean.dtype)
        if x.dtype == torch.uint8:
            scaled = scaled / 255.0
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return (scaled - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        """Show the size and the axis."""
        return f"features={self.mean.numel()}, dim={self.dim}"
