"""Light heads on feature maps: linear, perceptron, convolutions, attention, and fusion of several maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.backbones.embeddings import sincos_positions
from holdfast.diffusion.features import Key, pool_map
from holdfast.nn.attention import TransformerBlock
from holdfast.nn.backbones.convnet import conv_norm

__all__ = ["AttentionHead", "ConvHead", "FusionHead", "LinearHead", "MLPHead"]


class MLPHead(nn.Module):
    """Average pooling, flattening, hidden layers with ReLU, and a linear layer.

    Args:
        channels: of the maps.
        n_classes: outputs.
        hidden: width of every hidden layer.
        pool: side of the pooled map.

    Raises:
        ValueError: for a map of other channels, or one smaller than ``pool``.

    Examples:
        >>> MLPHead(8, 3, hidden=(16,), pool=2)(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, channels: int, n_classes: int, *, hidden: Sequence[int] = (1024,), pool: int = 1) -> None:
        super().__init__()
        check_number("pool", pool, low=1, integer=True)
        self.channels, self.pool = channels, pool
        widths = [channels * pool**2, *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))

    def forward(self, h: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        _check_channels(h, self.channels)
        return self.layers(pool_map(h, self.pool).flatten(1))


class LinearHead(MLPHead):
    """Average pooling, flattening and one linear layer: the linear probe.

    Examples:
        >>> LinearHead(8, 3, pool=2)(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, channels: int, n_classes: int, *, pool: int = 1) -> None:
        super().__init__(channels, n_classes, hidden=(), pool=pool)


class ConvHead(nn.Module):
    """Convolutions of 3 x 3 with group norm and ReLU on the map, their mean, and a linear layer.

    Args:
        channels, n_classes: of the maps, and outputs.
        width, layers: of the convolutions; every second one halves the map while it is larger than 2 x 2.

    Examples:
        >>> ConvHead(8, 3, width=16, layers=2)(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, channels: int, n_classes: int, *, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        check_number("width", width, low=1, integer=True)
        check_number("layers", layers, low=1, integer=True)
        self.channels = channels
        self.convs = nn.ModuleList(conv_norm(channels if i == 0 else width, width) for i in range(layers))
        self.classify = nn.Linear(width, n_classes)

    def forward(self, h: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        _check_channels(h, self.channels)
        for i, conv in enumerate(self.convs):
            h = conv(h).relu()
            if i % 2 == 1 and min(h.shape[-2:]) > 2:
                h = nn.functional.avg_pool2d(h, 2)
        return self.classify(h.mean(dim=(2, 3)))


class _Reader(nn.Module):
    """A class token that reads other tokens through pre-norm transformer blocks without biases of q, k and v."""

    def __init__(self, dim: int, blocks: int, heads: int) -> None:
        super().__init__()
        check_number("blocks", blocks, low=1, integer=True)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, mlp_ratio=4.0) for _ in range(blocks))
        for block in self.blocks:
            attention = block.attention
            attention.query = nn.Linear(dim, dim, bias=False)  # pyright: ignore[reportAttributeAccessIssue]
            attention.key_value = nn.Linear(dim, 2 * dim, bias=False)  # pyright: ignore[reportAttributeAccessIssue]
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        h = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            h = block(h)
        return self.norm(h[:, 0])


class _Tokens(nn.Module):
    """Maps to tokens: pooled to a side, normalised over channels and places together, and brought to a width."""

    def __init__(self, channels: int, dim: int, side: int) -> None:
        super().__init__()
        self.channels, self.side = channels, side
        self.norm = nn.GroupNorm(1, channels)
        self.project = nn.Conv2d(channels, dim, 1)

    def forward(self, h: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        _check_channels(h, self.channels)
        return self.embed(pool_map(h, self.side) if min(h.shape[-2:]) > self.side else h)

    def embed(self, h: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        # On the CPU, torch's backward pass of a group norm crashes on channels-last maps that need no gradient.
        return self.project(self.norm(h.contiguous())).flatten(2).mT


class AttentionHead(nn.Module):
    r"""A class token reads the places of a map through transformer blocks.

    .. math:: z = \mathrm{Blocks}\bigl([\mathrm{cls};\; \mathrm{conv}_{1 \times 1}(\mathrm{LN}_{C,d,d}(h))]\bigr),
              \qquad \mathrm{logits} = W z_{\mathrm{cls}}

    The norm has one gain and one shift per channel, so that without positions the head does not see the order of the
    places.

    Args:
        channels, n_classes: of the maps, and outputs.
        dim, blocks, heads: of the transformer; its perceptrons are four times as wide.
        side: maps that are larger are averaged to this side.
        tokens_from: "map", or "tokens" for (batch, tokens, channels) input.
        positions: grid of fixed sines and cosines added to the tokens; ``None`` for none.

    Raises:
        ValueError: for input of other channels or, with positions, of another grid.

    Source: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 3.

    Examples:
        >>> head = AttentionHead(8, 3, dim=16, blocks=1, heads=2)
        >>> head(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 3])
    """

    positions: Tensor | None

    def __init__(
        self,
        channels: int,
        n_classes: int,
        *,
        dim: int = 1024,
        blocks: int = 2,
        heads: int = 8,
        side: int = 16,
        tokens_from: Literal["map", "tokens"] = "map",
        positions: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_number("side", side, low=1, integer=True)
        self.tokens_from = check_choice("tokens_from", tokens_from, ("map", "tokens"))
        self.tokens = _Tokens(channels, dim, side)
        self.reader = _Reader(dim, blocks, heads)
        self.classify = nn.Linear(dim, n_classes)
        places = None if positions is None else sincos_positions(*positions, dim)
        self.register_buffer("positions", places, persistent=False)

    def forward(self, h: Tensor) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        if self.tokens_from == "tokens":
            if h.ndim != 3:
                raise ValueError(f"tokens must have shape (batch, tokens, channels), got {tuple(h.shape)}")
            tokens = self.tokens.embed(h.mT[..., None])
        else:
            tokens = self.tokens(h)
        if self.positions is not None:
            if len(self.positions) != tokens.shape[1]:
                raise ValueError(f"positions were made for {len(self.positions)} tokens, got {tokens.shape[1]}")
            tokens = tokens + self.positions
        return self.classify(self.reader(tokens))


class FusionHead(nn.Module):
    """One attention head per time over the tokens of all its blocks, and a linear layer on their class tokens.

    It is not part of the paper of single features but of its successor.

    Args:
        channels: of every map, by (time, block).
        n_classes, dim, blocks, heads, side: as for :class:`AttentionHead`.
        project: bring every map to width ``dim``; without, the maps' channels must all be ``dim``.

    Raises:
        ValueError: for blocks without a common token width (``project=False``), or a map that is missing.

    Source: Mukhopadhyay et al., "Do text-free diffusion models learn discriminative visual representations?",
    ECCV 2024, section 3.

    Examples:
        >>> head = FusionHead({(90.0, 4): 8, (90.0, 6): 16, (300.0, 4): 8}, 3, dim=16, blocks=1, heads=2)
        >>> maps = {key: torch.zeros(5, c, 4, 4) for key, c in head.channels.items()}
        >>> head(maps).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        channels: Mapping[Key, int],
        n_classes: int,
        *,
        dim: int = 1024,
        blocks: int = 2,
        heads: int = 8,
        side: int = 16,
        project: bool = True,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must name at least one (time, block)")
        self.channels: dict[Key, int] = {(float(t), int(b)): int(c) for (t, b), c in channels.items()}
        if not project and set(self.channels.values()) != {dim}:
            raise ValueError(
                f"blocks without projection need the token width dim={dim} in common, got channels "
                f"{sorted(set(self.channels.values()))}; use project=True"
            )
        self.times = tuple(dict.fromkeys(t for t, _ in self.channels))
        self.tokens = nn.ModuleList(_Tokens(c, dim, side) for c in self.channels.values())
        if not project:
            for tokens in self.tokens:
                tokens.project = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.readers = nn.ModuleList(_Reader(dim, blocks, heads) for _ in self.times)
        self.classify = nn.Linear(dim * len(self.times), n_classes)

    def forward(
        self, maps: Mapping[Key, Float[Tensor, "batch channels height width"]]
    ) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        if missing := [key for key in self.channels if key not in maps]:
            raise ValueError(f"maps lacks (time, block) {missing[0]}; it has {list(maps)}")
        tokens = {key: layer(maps[key]) for key, layer in zip(self.channels, self.tokens)}
        read = [
            reader(torch.cat([h for (t, _), h in tokens.items() if t == time], dim=1))
            for time, reader in zip(self.times, self.readers)
        ]
        return self.classify(torch.cat(read, dim=1))


def _check_channels(h: Tensor, channels: int) -> None:
    if h.ndim != 4 or h.shape[1] != channels:
        raise ValueError(f"a map must have shape (batch, {channels}, height, width), got {tuple(h.shape)}")
