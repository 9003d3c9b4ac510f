"""What every bottleneck of an autoencoder speaks: a feature map in, a code and its embedding out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["Bottleneck", "Code"]


class Code(NamedTuple):
    """What a bottleneck makes of a feature map.

    Attributes:
        embedding: [B, width, h, w], what the decoder reads, with the gradient that trains the encoder.
        code: what is stored and what a prior models: bits [B, c, h, w], tokens [B, h, w] or latents [B, c, h, w].
        loss: scalar, the code's own term of the training loss (commitment, KL, ...), already weighted; 0 without.
        stats: detached scalars that tell whether the code is alive (entropy, usage), logged while training.
    """

    embedding: Float[Tensor, "batch width h w"]
    code: Shaped[Tensor, "batch *code"]
    loss: Float[Tensor, ""]
    stats: dict[str, Tensor]


class Bottleneck(nn.Module, ABC):
    r"""Base of the bottlenecks: :math:`h \in \mathbb R^{\text{width} \times h \times w} \mapsto` code and embedding.

    A subclass implements :meth:`forward` and :meth:`embed`; with :meth:`encode` it plugs into
    :class:`~holdfast.diffusion.autoencoder.convolutional.ConvAutoencoder`, its loss and the priors.

    Args:
        width: channels of the feature map, and of the embedding that the decoder reads.

    Attributes:
        bits_per_cell: capacity of one cell of the grid in bits, infinite for continuous codes.
    """

    bits_per_cell: float

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = int(check_number("width", width, low=1, integer=True))

    @abstractmethod
    def forward(self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None) -> Code:
        """Return the code of ``h`` with everything training needs; draws, where there are any, use ``generator``."""

    @abstractmethod
    def embed(self, code: Shaped[Tensor, "batch *code"]) -> Float[Tensor, "batch width h w"]:
        """Return what the decoder reads for a code from anywhere: the data, a prior, a user."""

    def encode(
        self,
        h: Float[Tensor, "batch width h w"],
        *,
        generator: torch.Generator | None = None,
        sample: bool = True,
    ) -> Shaped[Tensor, "batch *code"]:
        """Return the code alone, without gradient: a draw, or with ``sample=False`` the most probable code."""
        with torch.no_grad():
            return self.forward(h, generator=generator).code

    def check_map(self, h: Tensor) -> None:
        """Raise unless ``h`` is a feature map of this width."""
        if h.ndim != 4 or h.shape[1] != self.width:
            raise ValueError(f"the feature map must have shape (batch, {self.width}, h, w), got {tuple(h.shape)}")
