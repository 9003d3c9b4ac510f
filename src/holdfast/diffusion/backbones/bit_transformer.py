"""The transformer over cells of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, sincos_positions
from holdfast.diffusion.backbones.transformer import Transformer, check_taps, modulate
from holdfast.diffusion.denoiser import Output

__all__ = ["BitTransformer"]


class BitTransformer(nn.Module):
    r"""Transformer whose tokens are the cells of a grid of bits, with time and class as tokens of their own.

    .. math:: h_{ij} = (2 z_{ij} - 1) W + p_{ij}, \qquad
              [h; \tau_t; c_y] \to \text{pre-norm blocks} \to \mathrm{LN} \to \text{one logit per bit}

    Time is counted from 1 to T: row t - 1 of the table is the embedding of t. With ``condition="modulated"`` time and
    class shift, scale and gate the blocks (adaLN-Zero) in place of being tokens.

    Args:
        channels: bits per cell c.
        grid: rows and columns of cells.
        width, depth, heads, mlp_ratio: of the blocks.
        steps: T, number of times.
        num_classes: 0 for an unconditional model.
        class_dropout: share of labels that training replaces by "no class" (number ``num_classes``).
        condition: "token" or "modulated".
        dropout: rate on the residual branches; needs ``condition="token"``.

    Raises:
        ValueError: for bits of another shape than channels and grid, times outside 1..T, labels where none are
            taken, or numbers out of range.

    Source: Wang et al., "Binary Latent Diffusion", CVPR 2023, Section 3.2 and the released network.

    Examples:
        >>> net = BitTransformer(8, (4, 4), width=32, depth=2, heads=4, steps=64)
        >>> out = net(torch.ones(2, 8, 4, 4), torch.tensor([1, 64]), taps=(1,))
        >>> out.pred.shape, out.taps[1].shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 16, 32]))
    """

    positions: Tensor

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        *,
        width: int = 768,
        depth: int = 24,
        heads: int = 12,
        steps: int = 256,
        num_classes: int = 0,
        class_dropout: float = 0.1,
        condition: Literal["token", "modulated"] = "token",
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = int(check_number("channels", channels, low=1, integer=True))
        self.steps = int(check_number("steps", steps, low=1, integer=True))
        self.num_classes = int(check_number("num_classes", num_classes, low=0, integer=True))
        check_number("class_dropout", class_dropout, low=0, high=1)
        if len(grid) != 2:
            raise ValueError(f"grid must be (rows, columns), got {grid}")
        rows, columns = (int(check_number("grid", side, low=1, integer=True)) for side in grid)
        self.grid = (rows, columns)
        self.width, self.depth = width, depth
        self.class_dropout = class_dropout if num_classes else 0.0
        self.condition = check_choice("condition", condition, ("token", "modulated"))
        modulated = condition == "modulated"
        self.embed = nn.Linear(channels, width, bias=False)
        self.time = nn.Embedding(steps, width)
        # So that the c bits of a cell weigh as much as its position, whose entries have a mean square of 1/2.
        nn.init.normal_(self.embed.weight, std=(2 * self.channels) ** -0.5)
        nn.init.normal_(self.time.weight, std=0.02)
        self.label = LabelEmbedding(num_classes, width) if num_classes else None
        self.register_buffer("positions", sincos_positions(rows, columns, width), persistent=False)
        self.blocks = Transformer(width, depth, heads, mlp_ratio=mlp_ratio, modulated=modulated, dropout=dropout)
        self.norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)) if modulated else None
        self.head = nn.Linear(width, channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    def conditions(self, t: Int[Tensor, " batch"], y: Int[Tensor, " batch"] | None) -> list[Tensor]:
        """Return the embeddings of time and, if the model has classes, of the label, each [B, width]."""
        if t.is_floating_point() or t.dtype == torch.bool or t.ndim != 1:
            raise ValueError(f"t must hold one whole number per sample, got {t.dtype} {tuple(t.shape)}")
        if t.device.type == "cpu" and t.numel() and not 1 <= int(t.min()) <= int(t.max()) <= self.steps:
            raise ValueError(f"t must lie in 1..{self.steps}, got {int(t.min())} to {int(t.max())}")
        if (y is None) != (self.label is None):
            want = f"one in [0, {self.num_classes}) per sample, or {self.num_classes} for none"
            none = "this model takes no labels: it was made with num_classes=0"
            raise ValueError(none if self.label is None else f"this model needs labels: {want}")
        out = [self.time(t - 1)]
        return out if self.label is None or y is None else [*out, self.label(y)]

    def forward(
        self,
        z_t: Float[Tensor, "batch channels rows columns"],
        t: Int[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> Output:
        """Return one logit per bit, ``None`` after an early exit, and the cells of the blocks in ``taps``."""
        if tuple(z_t.shape[1:]) != (self.channels, *self.grid):
            raise ValueError(
                f"bits must have shape (n, {self.channels}, {self.grid[0]}, {self.grid[1]}), got {tuple(z_t.shape)}"
            )
        check_taps(taps, stop_at, self.depth)
        parts = self.conditions(t, y)
        cells = self.embed(2 * z_t.flatten(2).transpose(1, 2) - 1) + self.positions
        n = cells.shape[1]
        if self.modulation is None:
            h, found = self.blocks(torch.cat([cells, torch.stack(parts, 1)], dim=1), taps=taps, stop_at=stop_at)
        else:
            h, found = self.blocks(cells, torch.stack(parts).sum(0), taps=taps, stop_at=stop_at)
        found = {number: tokens[:, :n] for number, tokens in found.items()}
        if h is None:
            return Output(None, found)
        h = self.norm(h[:, :n])
        if self.modulation is not None:
            shift, scale = self.modulation(torch.stack(parts).sum(0)).chunk(2, dim=-1)
            h = modulate(h, shift, scale)
        return Output(self.head(h).transpose(1, 2).unflatten(2, self.grid), found)
