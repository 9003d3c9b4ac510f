"""The diffusion transformer."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, TimeEmbedding, sincos_positions
from holdfast.diffusion.backbones.transformer import Condition, Transformer, check_taps, modulate
from holdfast.diffusion.denoiser import Output

__all__ = ["DIT_SIZES", "DiT"]

Times = Float[Tensor, " batch"] | Float[Tensor, "batch tokens"]

DIT_SIZES: dict[str, tuple[int, int, int]] = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
"""Width, depth and heads of the published sizes."""


class DiT(nn.Module):
    """Transformer over patches of an image, conditioned on time and class through adaLN-Zero.

    At initialisation every block is the identity and the output is exactly 0. Positions are fixed sines and cosines;
    ``rope`` adds rotary ones inside attention.

    Args:
        in_channels, size: of the images, (C, H, W) = (in_channels, size, size); a pair gives height and width.
        patch: side of a patch; divides both sides of the image.
        width, depth, heads, mlp_ratio: of the blocks; see :data:`DIT_SIZES` for the published ones.
        num_classes: 0 for an unconditional model.
        class_dropout: share of labels that training replaces by "no class" (number ``num_classes``), so that the
            model can be guided. The training objective drops; the network itself never does.
        time_scale: factor on ``t`` before its sinusoids, see
            :class:`holdfast.diffusion.backbones.embeddings.TimeEmbedding`.
        qk_norm, rope: see :class:`holdfast.diffusion.backbones.transformer.Transformer`.
        learn_sigma: twice as many output channels, the second half for a learned variance.

    Raises:
        ValueError: for a patch that does not divide the image, or numbers out of range.

    Source: Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023.

    Examples:
        >>> import torch
        >>> net = DiT(1, 16, patch=4, width=32, depth=2, heads=4)
        >>> out = net(torch.randn(2, 1, 16, 16), torch.rand(2), taps=(1,))
        >>> out.pred.shape, out.taps[1].shape, bool(out.pred.any())
        (torch.Size([2, 1, 16, 16]), torch.Size([2, 16, 32]), False)
    """

    positions: Tensor

    def __init__(
        self,
        in_channels: int,
        size: int | tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        num_classes: int = 0,
        class_dropout: float = 0.1,
        time_scale: float = 1.0,
        qk_norm: bool = False,
        rope: bool = False,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__()
        check_number("in_channels", in_channels, low=1, integer=True)
        check_number("patch", patch, low=1, integer=True)
        check_number("num_classes", num_classes, low=0, integer=True)
        check_number("class_dropout", class_dropout, low=0, high=1)
        height, breadth = (size, size) if isinstance(size, int) else size
        if height % patch or breadth % patch:
            raise ValueError(f"patch must divide the image, got patch={patch} for {height} x {breadth} pixels")
        self.in_channels, self.size, self.patch = in_channels, (height, breadth), patch
        self.grid = (height // patch, breadth // patch)
        self.width, self.depth, self.heads = width, depth, heads
        self.num_classes, self.learn_sigma, self.rope, self.qk_norm = num_classes, learn_sigma, rope, qk_norm
        self.class_dropout = class_dropout if num_classes else 0.0
        self.embed = nn.Conv2d(in_channels, width, patch, patch)
        self.register_buffer("positions", sincos_positions(*self.grid, width), persistent=False)
        self.time = TimeEmbedding(width, time_scale=time_scale)
        self.label = LabelEmbedding(num_classes, width) if num_classes else None
        self.blocks = Transformer(
            width,
            depth,
            heads,
            mlp_ratio=mlp_ratio,
            modulated=True,
            qk_norm=qk_norm,
            rope=self.grid if rope else None,
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        out = in_channels * (2 if learn_sigma else 1)
        self.head: nn.Linear | None = nn.Linear(width, patch * patch * out)
        self._initialise()

    def _initialise(self) -> None:
        for m in (*self.blocks.modules(), *self.time.modules()):
            if isinstance(m, nn.Linear) and m.weight.any():
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        nn.init.xavier_uniform_(self.embed.weight.view(self.width, -1))
        nn.init.zeros_(self.embed.bias)  # pyright: ignore[reportArgumentType]
        for layer in (self.time.mlp[0], self.time.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)  # pyright: ignore[reportArgumentType]
        for layer in (self.modulation[1], self.head):
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    def condition(self, t: Times, y: Int[Tensor, " batch"] | None) -> Condition:
        """Return the vector of time and class that modulates every block: one per sample, or one per token."""
        c = self.time(t.flatten()).unflatten(0, t.shape)
        if self.label is None:
            if y is not None:
                raise ValueError("this model takes no labels: it was made with num_classes=0")
            return c
        if y is None:
            raise ValueError(f"this model needs labels: one in [0, {self.num_classes}) per sample, or the null class")
        label = self.label(y)
        return c + (label if c.ndim == 2 else label[:, None])

    def tokens(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens width"]:
        """Return the patches' embeddings with their positions: what the first block reads."""
        if x.ndim != 4 or tuple(x.shape[1:]) != (self.in_channels, *self.size):
            raise ValueError(
                f"x must have shape (n, {self.in_channels}, {self.size[0]}, {self.size[1]}), got {tuple(x.shape)}"
            )
        return self.embed(x).flatten(2).transpose(1, 2) + self.positions

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Times,
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
        groups: Int[Tensor, "batch tokens"] | None = None,
    ) -> Output:
        """Return the prediction, ``None`` after an early exit, and the outputs of the blocks in ``taps``.

        ``t`` is one time per sample, or one per token. With ``groups`` a token attends to those of its group only.
        """
        check_taps(taps, stop_at, self.depth)
        c = self.condition(t, y)
        mask = None if groups is None else groups[:, :, None] == groups[:, None, :]
        h, found = self.blocks(self.tokens(x), c, taps=taps, stop_at=stop_at, mask=mask)
        if h is None or self.head is None:
            return Output(None, found)
        shift, scale = self.modulation(c).chunk(2, dim=-1)
        pixels = self.head(modulate(self.norm(h), shift, scale))
        rows, columns = self.grid
        pixels = pixels.unflatten(1, (rows, columns)).unflatten(-1, (self.patch, self.patch, -1))
        return Output(pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3), found)
