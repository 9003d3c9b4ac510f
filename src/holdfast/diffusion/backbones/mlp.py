"""A denoising network for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, TimeEmbedding
from holdfast.diffusion.backbones.transformer import check_taps
from holdfast.diffusion.denoiser import Output

__all__ = ["DenoisingMLP"]


class _Residual(nn.Module):
    def __init__(self, width: int, expand: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, expand * width), nn.SiLU(), nn.Linear(expand * width, width))
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(c).chunk(3, dim=-1)
        return h + gate * self.mlp(torch.addcmul(shift, self.norm(h), 1 + scale))


class DenoisingMLP(nn.Module):
    """Residual perceptron on vectors, conditioned on time and class through adaLN-Zero.

    The vector analogue of :class:`holdfast.diffusion.backbones.DiT`: a fresh block is the identity, and the output
    is exactly 0 before training. Taps are (batch, width).

    Args:
        features: length of a vector.
        width: of the residual stream.
        depth: residual blocks.
        expand: hidden units of a block, as a multiple of ``width``.
        num_classes: 0 for an unconditional model.
        class_dropout: share of labels that the training objective replaces by "no class", number ``num_classes``.
        time_scale: factor on the times before they are embedded.

    Raises:
        ValueError: for numbers out of range.

    Source: the blocks of Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, without
    attention.

    Examples:
        >>> net = DenoisingMLP(3, width=16, depth=2)
        >>> out = net(torch.randn(5, 3), torch.rand(5), taps=(2,))
        >>> out.pred.shape, out.taps[2].shape, bool(out.pred.any())
        (torch.Size([5, 3]), torch.Size([5, 16]), False)
    """

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        *,
        expand: int = 2,
        num_classes: int = 0,
        class_dropout: float = 0.1,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("width", width), ("depth", depth), ("expand", expand)):
            check_number(name, value, low=1, integer=True)
        check_number("num_classes", num_classes, low=0, integer=True)
        check_number("class_dropout", class_dropout, low=0, high=1)
        self.features, self.width, self.depth, self.num_classes = features, width, depth, num_classes
        self.class_dropout = class_dropout if num_classes else 0.0
        self.embed = nn.Linear(features, width)
        self.time = TimeEmbedding(width, time_scale=time_scale)
        self.label = LabelEmbedding(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList(_Residual(width, expand) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    def forward(
        self,
        x: Float[Tensor, "batch features"],
        t: Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> Output:
        """Return the prediction, ``None`` after an early exit, and the outputs of the blocks in ``taps``."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"x must have shape (batch, {self.features}), got {tuple(x.shape)}")
        check_taps(taps, stop_at, self.depth)
        c = self.time(t)
        if self.label is not None:
            if y is None:
                raise ValueError(
                    f"this model needs labels: one in [0, {self.num_classes}) per sample, or the null class"
                )
            c = c + self.label(y)
        elif y is not None:
            raise ValueError("this model takes no labels: it was made with num_classes=0")
        c = nn.functional.silu(c)
        h, found = self.embed(x), {}
        for i, block in enumerate(self.blocks, start=1):
            h = block(h, c)
            if i in taps:
                found[i] = h
            if i == stop_at:
                return Output(None, found)
        return Output(self.head(self.norm(h)), found)
