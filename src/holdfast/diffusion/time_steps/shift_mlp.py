"""The shift of a frozen denoiser, for vectors and small images: a perceptron."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.embeddings import sinusoid

__all__ = ["Shift", "ShiftMLP"]


class Shift(Protocol):
    """What corrects a frozen denoiser: a map in data space from a noisy sample, its time and an open code.

    ``taps`` names the blocks of the frozen network whose outputs it wants to read; they come in by number.
    """

    code_dim: int
    taps: tuple[int, ...]

    def __call__(
        self,
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        u: Float[Tensor, "batch code"],
        frozen: Mapping[int, Tensor],
        /,
    ) -> Float[Tensor, "batch *shape"]:
        """Return g(x_t, t, u)."""
        ...


class ShiftMLP(nn.Module):
    r"""A perceptron :math:`g(x_t, t, u)` on the sample, a sinusoidal embedding of the time and the open code.

    Its last layer starts at zero: at first the frozen model is left as it is.

    Args:
        shape: of a sample, without the batch.
        code_dim: entries of the code.
        hidden: width of the hidden layers.
        layers: how many there are.
        time_dim: entries of the embedding of time (even).
        time_scale: what times are multiplied by before: 1 for times in steps, 1000 for times in [0, 1].

    Raises:
        ValueError: for numbers below 1 or an odd ``time_dim``.

    Source: the decoder of Zhang, Zhao and Lin, "Unsupervised representation learning from pre-trained diffusion
    probabilistic models", NeurIPS 2022, in its smallest form.

    Examples:
        >>> shift = ShiftMLP((1, 4, 4), code_dim=6)
        >>> g = shift(torch.randn(2, 1, 4, 4), torch.tensor([3.0, 500.0]), torch.randn(2, 6), {})
        >>> g.shape, bool(g.any())
        (torch.Size([2, 1, 4, 4]), False)
    """

    taps: tuple[int, ...] = ()

    def __init__(
        self,
        shape: tuple[int, ...],
        code_dim: int,
        hidden: int = 256,
        layers: int = 2,
        time_dim: int = 32,
        *,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("code_dim", code_dim), ("hidden", hidden), ("layers", layers), ("time_dim", time_dim)):
            check_number(name, value, low=1, integer=True)
        check_number("time_scale", time_scale, low=0, open_low=True)
        if time_dim % 2:
            raise ValueError(f"time_dim must be even, got {time_dim}")
        self.shape, self.code_dim, self.time_dim, self.time_scale = tuple(shape), int(code_dim), time_dim, time_scale
        size = int(torch.Size(shape).numel())
        widths = [size + code_dim + time_dim] + [hidden] * layers
        blocks: list[nn.Module] = []
        for a, b in pairwise(widths):
            blocks += [nn.Linear(a, b), nn.SiLU()]
        last = nn.Linear(hidden, size)
        for p in last.parameters():
            nn.init.zeros_(p)
        self.net = nn.Sequential(*blocks, last)

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        u: Float[Tensor, "batch code"],
        frozen: Mapping[int, Tensor] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Return the shift; ``frozen`` is not read."""
        time = sinusoid(t * self.time_scale, self.time_dim).to(x.dtype)
        return self.net(torch.cat([x.flatten(1), u, time], dim=1)).view_as(x)
