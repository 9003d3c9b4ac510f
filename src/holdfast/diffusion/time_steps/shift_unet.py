"""The shift of a frozen U-Net: a second middle and way up that read the frozen way down, and a code."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.backbones.unet_blocks import ResidualBlock

__all__ = ["CodeResidualBlock", "ShiftUNet"]


class _Conditions(NamedTuple):
    time: Float[Tensor, "batch embedding"]
    code: Float[Tensor, "batch code"]


class CodeResidualBlock(ResidualBlock):
    r"""A residual block scaled and shifted first by the time, then by a linear map of a code.

    .. math:: \bigl[\mathrm{GN}(h)(1 + a(e)) + b(e)\bigr](1 + A u) + B u

    The linear map has no bias at first, so that an empty code leaves the block as the one it was made from.

    Args:
        block: the residual block whose weights are copied.
        code_dim: entries of the code.

    Source: Zhang, Zhao and Lin, "Unsupervised representation learning from pre-trained diffusion probabilistic
    models", NeurIPS 2022, section 3.3.

    Examples:
        >>> block = ResidualBlock(4, 4, 8)
        >>> x, e = torch.randn(2, 4, 6, 6), torch.randn(2, 8)
        >>> bool((CodeResidualBlock(block, 3)(x, (e, torch.zeros(2, 3))) == block(x, e)).all())
        True
    """

    def __init__(self, block: ResidualBlock, code_dim: int) -> None:
        nn.Module.__init__(self)
        self.resample = block.resample
        for name, child in block.named_children():
            setattr(self, name, copy.deepcopy(child))
        self.code = nn.Linear(code_dim, 2 * block.out_conv.in_channels)
        nn.init.zeros_(self.code.bias)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], e: Any
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        """Return the block's map; ``e`` is the pair of the time's embedding and the code."""
        time, code = e
        h = self.in_conv(self._resize(F.silu(self.in_norm(x))))
        scale, shift = self.modulation(F.silu(time))[..., None, None].chunk(2, dim=1)
        h = self.out_norm(h) * (1 + scale) + shift
        scale, shift = self.code(code)[..., None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
        return self.skip(self._resize(x)) + self.out_conv(self.dropout(F.silu(h)))


class ShiftUNet(nn.Module):
    r"""A correction :math:`g(x_t, t, u)` that reads the frozen U-Net's way down and decodes it anew under a code.

    A second copy of the middle and the way up, whose residual blocks are also modulated by linear maps of the code,
    ends in a convolution that starts at zero. The frozen network is copied from and not changed; its way down runs
    once for both, as the maps of the blocks in ``taps`` come in.

    Args:
        frozen: the trained network.
        code_dim: entries of the code.

    Raises:
        TypeError: unless ``frozen`` is a :class:`holdfast.diffusion.backbones.UNet`.

    Source: Zhang, Zhao and Lin, "Unsupervised representation learning from pre-trained diffusion probabilistic
    models", NeurIPS 2022, section 3.3; Yue et al., ICLR 2024, appendix.

    Examples:
        >>> net = UNet(1, size=8, base=8, mult=(1, 2), blocks_per_level=1)
        >>> shift, x, t = ShiftUNet(net, code_dim=6), torch.randn(2, 1, 8, 8), torch.tensor([3, 500])
        >>> g = shift(x, t, torch.randn(2, 6), net(x, t, taps=shift.taps).taps)
        >>> g.shape, bool(g.any())
        (torch.Size([2, 1, 8, 8]), False)
    """

    def __init__(self, frozen: UNet, code_dim: int) -> None:
        super().__init__()
        if not isinstance(frozen, UNet):
            raise TypeError(f"frozen must be a holdfast.diffusion.backbones UNet, got {type(frozen).__name__}")
        self.code_dim = int(check_number("code_dim", code_dim, low=1, integer=True))
        self.taps: tuple[int, ...] = tuple(sorted(frozen._kept))
        self.channels = frozen.in_channels
        self.time = copy.deepcopy(frozen.time).requires_grad_(False)
        null = torch.zeros(frozen.width)
        if frozen.label is not None:
            null = frozen.label.table.weight[frozen.null_class].detach().clone().cpu()
        self.null: Tensor
        self.register_buffer("null", null)
        self.layers, self.is_up = nn.ModuleList(), []
        for info, layer in zip(frozen.blocks, frozen.layers):
            if info.stage == "down":
                continue
            branch = copy.deepcopy(layer)
            parts = cast("nn.ModuleList", branch.parts)
            for i, part in enumerate(parts):
                if isinstance(part, ResidualBlock):
                    parts[i] = CodeResidualBlock(part, self.code_dim)
            self.layers.append(branch)
            self.is_up.append(info.stage == "up")
        norm, activation, last = copy.deepcopy(frozen.out)
        channels = cast("nn.Conv2d", last).in_channels
        head = nn.Conv2d(channels, self.channels, 3, padding=1)
        for p in head.parameters():
            nn.init.zeros_(p)
        self.out = nn.Sequential(norm, activation, head)
        for module in (self.layers, self.out):
            module.requires_grad_(True)

    def forward(
        self,
        x: Float[Tensor, "batch channels size size"],
        t: Float[Tensor, " batch"],
        u: Float[Tensor, "batch code"],
        frozen: Mapping[int, Tensor],
    ) -> Float[Tensor, "batch channels size size"]:
        """Return the shift from the maps of the frozen way down; ``x`` itself is not read."""
        if missing := [i for i in self.taps if i not in frozen]:
            raise ValueError(f"the shift reads the frozen blocks {list(self.taps)}, but {missing} are missing")
        e = _Conditions(self.time(t) + self.null, u)
        skips = [frozen[i] for i in self.taps]
        h = skips[-1]
        for layer, up in zip(self.layers, self.is_up):
            if up:
                h = torch.cat([h, skips.pop()], dim=1)
            h = layer(h, e)
        return self.out(h)
