"""A U-Net whose blocks are numbered: any of them can be read, and the rest left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, TimeEmbedding
from holdfast.diffusion.backbones.transformer import check_taps
from holdfast.diffusion.backbones.unet_blocks import MapAttention, Resample, ResidualBlock, group_norm
from holdfast.diffusion.denoiser import Output

__all__ = ["BlockInfo", "UNet"]


@dataclass(frozen=True)
class BlockInfo:
    """One numbered block: its place and the map it returns.

    Attributes:
        index: from 1.
        stage: "down", "middle" or "up".
        channels: of the output.
        resolution: side of the output.
    """

    index: int
    stage: Literal["down", "middle", "up"]
    channels: int
    resolution: int


class _Block(nn.Module):
    """Residual blocks and attentions in turn."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        for part in self.parts:
            h = part(h, e) if isinstance(part, ResidualBlock) else part(h)
        return h


class UNet(nn.Module):
    """The U-Net of ablated diffusion models, with numbered blocks.

    Block 1 is the first convolution. On the way down every residual block is a block (with the attention behind it),
    and so is every residual block that halves the map; the middle (residual, attention, residual) is one; on the way
    up every level has one block more, each reads the map of the way down that it mirrors, and the last of a level
    also doubles the map. For the published 256 x 256 model (base 256, factors 1, 1, 2, 2, 4, 4, two blocks a level)
    that makes 37: 18 down, the middle, 18 up.

    With ``resample_blocks=False`` size changes have no residual block of their own: the first block of a level halves
    the map, the way up has as many blocks as the way down, the last of a level repeats its pixels, and a net of L
    levels of n blocks has 2 L n + 2. It costs about half.

    Args:
        in_channels: of the images.
        size: their side, a multiple of ``2 ** (levels - 1)``.
        base: channels at the first level.
        mult: factor on ``base`` of every level; each level halves the map.
        blocks_per_level: residual blocks of a level on the way down.
        attn_resolutions: sides of maps that attend to themselves; where there is one, the middle attends too.
        num_classes: 0 for an unconditional model. Class ``num_classes`` is "no label".
        class_dropout: share of labels that the training objective replaces by "no label"; the network never does.
        learn_sigma: return as many channels again, which describe the variance of a step.
        head_channels: channels of an attention head.
        resample_blocks: whether changes of size have residual blocks of their own.
        dropout: inside residual blocks.
        time_scale: what times are multiplied by before they are embedded: 1 for steps 0..999, 1000 for [0, 1].

    Raises:
        ValueError: for sizes that do not fit, an attention resolution that no level has, a tap that is not there, or a
            conditional network without labels.

    Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, section 3; numbering:
    Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 3.

    Examples:
        >>> net = UNet(1, size=16, base=8, mult=(1, 2), blocks_per_level=1)
        >>> print(net.table())
        block  stage   channels  resolution
            1  down           8          16
            2  down           8          16
            3  down           8           8
            4  down          16           8
            5  middle        16           8
            6  up            16           8
            7  up            16          16
            8  up             8          16
            9  up             8          16
        >>> x, t = torch.zeros(2, 1, 16, 16), torch.tensor([10, 500])
        >>> net(x, t).pred.shape, net(x, t, taps=(5,), stop_at=5).taps[5].shape
        (torch.Size([2, 1, 16, 16]), torch.Size([2, 16, 8, 8]))
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        base: int,
        mult: Sequence[int] = (1, 2, 2),
        blocks_per_level: int = 2,
        attn_resolutions: Collection[int] = (),
        num_classes: int = 0,
        class_dropout: float = 0.1,
        learn_sigma: bool = False,
        *,
        head_channels: int = 64,
        resample_blocks: bool = True,
        dropout: float = 0.0,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("base", base), ("blocks_per_level", blocks_per_level)):
            check_number(name, value, low=1, integer=True)
        check_number("num_classes", num_classes, low=0, integer=True)
        check_number("class_dropout", class_dropout, low=0, high=1)
        levels = len(mult)
        if levels == 0 or any(m < 1 for m in mult):
            raise ValueError(f"mult must hold a positive factor for every level, got {tuple(mult)}")
        check_number("size", size, low=1, integer=True)
        if size % 2 ** (levels - 1):
            raise ValueError(f"size must be a multiple of {2 ** (levels - 1)} for {levels} levels, got {size}")
        sides = [size // 2**level for level in range(levels)]
        if missing := set(attn_resolutions) - set(sides):
            raise ValueError(f"attn_resolutions must be among the levels' {sides}, got {sorted(missing)}")
        self.in_channels, self.size, self.num_classes = in_channels, size, num_classes
        self.class_dropout, self.learn_sigma = class_dropout if num_classes else 0.0, learn_sigma
        self.null_class = num_classes
        self.width = 4 * base
        self.time = TimeEmbedding(self.width, frequency_dim=base + base % 2, time_scale=time_scale)
        self.label = LabelEmbedding(num_classes, self.width) if num_classes else None

        self.blocks: list[BlockInfo] = []
        """The block table."""
        self.layers = nn.ModuleList()
        self._kept: set[int] = set()

        def residual(inputs: int, outputs: int, resample: Resample = "none") -> ResidualBlock:
            return ResidualBlock(inputs, outputs, self.width, resample=resample, dropout=dropout)

        def attend(channels: int, side: int) -> list[nn.Module]:
            return [MapAttention(channels, head_channels)] if side in attn_resolutions else []

        def add(stage: Literal["down", "middle", "up"], channels: int, side: int, *parts: nn.Module) -> None:
            self.layers.append(_Block(*parts))
            self.blocks.append(BlockInfo(len(self.layers), stage, channels, side))

        channels, kept = base, []
        add("down", channels, size, nn.Conv2d(in_channels, channels, 3, padding=1))
        if resample_blocks:
            kept.append(channels)
            self._kept.add(1)
        for level, (side, factor) in enumerate(zip(sides, mult)):
            if level > 0 and resample_blocks:
                add("down", channels, side, residual(channels, channels, "down"))
                kept.append(channels)
            for i in range(blocks_per_level):
                halve = level > 0 and i == 0 and not resample_blocks
                first = residual(channels, base * factor, "down" if halve else "none")
                channels = base * factor
                add("down", channels, side, first, *attend(channels, side))
                kept.append(channels)
        self._kept |= set(range(2, len(self.layers) + 1))
        middle = [MapAttention(channels, head_channels)] if attn_resolutions else []
        add("middle", channels, sides[-1], residual(channels, channels), *middle, residual(channels, channels))
        n_up = blocks_per_level + (1 if resample_blocks else 0)
        for level in reversed(range(levels)):
            for i in range(n_up):
                first = residual(channels + kept.pop(), base * mult[level])
                channels, side = base * mult[level], sides[level]
                parts: list[nn.Module] = [first, *attend(channels, side)]
                if level > 0 and i == n_up - 1:
                    parts.append(residual(channels, channels, "up") if resample_blocks else nn.Upsample(scale_factor=2))
                    side *= 2
                add("up", channels, side, *parts)
        last = nn.Conv2d(channels, in_channels * (2 if learn_sigma else 1), 3, padding=1)
        for p in last.parameters():
            nn.init.zeros_(p)
        self.out = nn.Sequential(group_norm(channels), nn.SiLU(), last)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def partner(self, index: int) -> int:
        """Return the block that mirrors block ``index``: the first mirrors the last."""
        return self.depth + 1 - int(check_number("index", index, low=1, high=self.depth, integer=True))

    def table(self) -> str:
        """Return the block table as text."""
        rows = [f"{b.index:5}  {b.stage:6}  {b.channels:8}  {b.resolution:10}" for b in self.blocks]
        return "\n".join(["block  stage   channels  resolution", *rows])

    def forward(
        self,
        x: Float[Tensor, "batch channels size size"],
        t: Real[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Collection[int] = (),
        stop_at: int | None = None,
        add: Mapping[int, Tensor] | None = None,
    ) -> Output:
        """Return the prediction and the maps of the blocks in ``taps``.

        Args:
            x: noisy images.
            t: times in the units of training.
            y: classes, where the network was made with them; ``num_classes`` means no label.
            taps: blocks whose output is returned.
            stop_at: last block that runs; there is no prediction then.
            add: maps that are added to the outputs of blocks, before anything reads them.
        """
        if tuple(x.shape[1:]) != (self.in_channels, self.size, self.size):
            raise ValueError(
                f"x must have shape (batch, {self.in_channels}, {self.size}, {self.size}), got {tuple(x.shape)}"
            )
        check_taps([*taps, *(add or ())], stop_at, self.depth)
        last = self.depth if stop_at is None else stop_at
        e = self.time(t)
        if self.label is not None:
            if y is None:
                raise ValueError(
                    f"this model needs labels: one in [0, {self.num_classes}) per sample, or the null class"
                )
            e = e + self.label(y)
        elif y is not None:
            raise ValueError("this model takes no labels: it was made with num_classes=0")
        found: dict[int, Tensor] = {}
        skips: list[Tensor] = []
        h = x
        for info, layer in zip(self.blocks[:last], self.layers):
            if info.stage == "up":
                h = torch.cat([h, skips.pop()], dim=1)
            h = layer(h, e)
            if add and info.index in add:
                h = h + add[info.index]
            if info.index in self._kept:
                skips.append(h)
            if info.index in taps:
                found[info.index] = h
        return Output(self.out(h) if stop_at is None else None, found)
