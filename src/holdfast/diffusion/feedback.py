"""Feedback: what the way up of a U-Net found, added to the way down in a second pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.backbones.unet_blocks import group_norm

__all__ = ["DecoderFeedback"]


class DecoderFeedback(nn.Module):
    r"""Maps of decoder blocks, through 1 x 1 convolution, norm and ReLU, for the encoder blocks that they mirror.

    .. math:: h_{B+1-b} \leftarrow h_{B+1-b} + \mathrm{relu}(\mathrm{GN}(\mathrm{conv}_{1 \times 1}(h_b)))

    for the blocks b of the way up of a network of B blocks. Where a block ends in an up-sampler its map is twice as
    large as its partner's, and is averaged over 2 x 2. Only this module is trained, with the head; the network stays
    as it is. It is not part of the paper of single-pass features but of its successor.

    Args:
        network: the U-Net.
        blocks: blocks of the way up that feed back.

    Raises:
        ValueError: for a block that is not on the way up.

    Source: Mukhopadhyay et al., "Do text-free diffusion models learn discriminative visual representations?",
    ECCV 2024, section 3.

    Examples:
        >>> import torch
        >>> net = UNet(1, 8, 8, (1, 2), 1)
        >>> feedback = DecoderFeedback(net, [7, 9])
        >>> maps = net(torch.zeros(2, 1, 8, 8), torch.zeros(2), taps=(7, 9)).taps
        >>> {b: tuple(h.shape) for b, h in feedback(maps).items()}
        {3: (2, 8, 4, 4), 1: (2, 8, 8, 8)}
    """

    def __init__(self, network: UNet, blocks: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(network, UNet):
            raise TypeError(f"network must be a UNet, whose blocks have partners, got {type(network).__name__}")
        up = [b.index for b in network.blocks if b.stage == "up"]
        if wrong := [b for b in blocks if b not in up]:
            raise ValueError(f"blocks must be on the way up, {up[0]} to {up[-1]}, got {wrong[0]}")
        if not blocks:
            raise ValueError("give at least one block of the way up")
        self.sources = tuple(dict.fromkeys(blocks))
        """Blocks that feed back."""
        self.partners = {b: network.partner(b) for b in self.sources}
        layers = {}
        for b, partner in self.partners.items():
            out = network.blocks[partner - 1].channels
            conv = nn.Conv2d(network.blocks[b - 1].channels, out, 1)
            layers[str(b)] = nn.Sequential(conv, group_norm(out), nn.ReLU())
        self.layers = nn.ModuleDict(layers)
        self.sides = {b: network.blocks[partner - 1].resolution for b, partner in self.partners.items()}

    def forward(
        self, taps: Mapping[int, Float[Tensor, "batch channels height width"]], last: int | None = None
    ) -> dict[int, Tensor]:
        """Return what is added to which block, for blocks up to ``last``."""
        added = {}
        for b, partner in self.partners.items():
            if last is None or partner <= last:
                added[partner] = self.layers[str(b)](F.adaptive_avg_pool2d(taps[b], self.sides[b]))
        return added
