"""Embeddings of time, class and place."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["LabelEmbedding", "TimeEmbedding", "sincos_positions", "sinusoid"]


def sinusoid(t: Float[Tensor, " batch"], dim: int, *, max_period: float = 10000.0) -> Float[Tensor, "batch dim"]:
    r"""Cosines and sines of ``t`` at ``dim / 2`` frequencies from 1 down to ``1 / max_period``.

    Source: Vaswani et al., NeurIPS 2017, section 3.5.

    Examples:
        >>> sinusoid(torch.zeros(1), 4)
        tensor([[1., 1., 0., 0.]])
    """
    if dim % 2:
        raise ValueError(f"dim must be even, got {dim}")
    rate = torch.exp(-math.log(max_period) * torch.arange(dim // 2, device=t.device, dtype=torch.float32) / (dim // 2))
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of ``time_scale * t``, then a two-layer perceptron.

    The scale is part of what a network was trained with: 1 for SiT, which feeds t in [0, 1] as it is; 1000 to spread
    [0, 1] over the range that the frequencies were made for; 1 for times counted in steps.

    Examples:
        >>> TimeEmbedding(8)(torch.rand(3)).shape
        torch.Size([3, 8])
    """

    def __init__(self, width: int, frequency_dim: int = 256, time_scale: float = 1.0) -> None:
        super().__init__()
        check_number("time_scale", time_scale, low=0, open_low=True)
        self.frequency_dim, self.time_scale = frequency_dim, time_scale
        self.mlp = nn.Sequential(nn.Linear(frequency_dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Return one vector per time."""
        first: nn.Linear = self.mlp[0]  # pyright: ignore[reportAssignmentType]
        return self.mlp(sinusoid(t * self.time_scale, self.frequency_dim).to(first.weight.dtype))


class LabelEmbedding(nn.Module):
    """One vector per class, and one more, number ``num_classes``, that stands for no class.

    Raises:
        ValueError: for a label that is no class.

    Examples:
        >>> LabelEmbedding(10, 8)(torch.tensor([0, 10])).shape
        torch.Size([2, 8])
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = int(check_number("num_classes", num_classes, low=1, integer=True))
        self.table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, y: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Return one vector per label."""
        if y.device.type == "cpu" and y.numel() and not 0 <= int(y.min()) <= int(y.max()) <= self.num_classes:
            raise ValueError(
                f"labels must lie in [0, {self.num_classes}) or be {self.num_classes} for none, "
                f"got {int(y.min())} to {int(y.max())}"
            )
        return self.table(y)


def sincos_positions(height: int, width: int, dim: int) -> Float[Tensor, "tokens dim"]:
    """Fixed two-dimensional positions: half of the channels tell the column, half the row, row by row.

    Raises:
        ValueError: if ``dim`` is no multiple of 4.

    Source: Vaswani et al., NeurIPS 2017, taken to two axes as in He et al., "Masked autoencoders", CVPR 2022.

    Examples:
        >>> sincos_positions(4, 4, 8).shape
        torch.Size([16, 8])
    """
    if dim % 4:
        raise ValueError(f"two-dimensional positions need a width divisible by 4, got {dim}")
    rate = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    parts = []
    for place in (columns, rows):
        angle = place.flatten().double()[:, None] * rate
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()
