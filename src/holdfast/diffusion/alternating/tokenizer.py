"""A frozen autoencoder with a codebook, as a two-way map between images in [0, 1] and rows of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_finite
from holdfast.diffusion.autoencoder.convolutional import ConvAutoencoder
from holdfast.diffusion.autoencoder.vector_quantizer import VectorQuantizer, codebook_hash

__all__ = ["FrozenTokenizer", "check_tokens", "check_unit_images"]


def check_tokens(ids: Tensor, mask: Tensor, codes: int, length: int) -> None:
    """Raise ``ValueError`` unless ``ids`` are tokens [B, length] in [0, codes) and ``mask`` a boolean of that shape.

    Examples:
        >>> check_tokens(torch.tensor([[0, 9]]), torch.tensor([[True, False]]), codes=4, length=2)
        Traceback (most recent call last):
        ...
        ValueError: token ids must lie in [0, 4), got 0 to 9
    """
    if ids.ndim != 2 or ids.shape[1] != length or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"token ids must be integers of shape (batch, {length}), got {ids.dtype} {tuple(ids.shape)}")
    if mask.shape != ids.shape or mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean of shape {tuple(ids.shape)}, got {mask.dtype} {tuple(mask.shape)}")
    low, high = (int(v) for v in ids.aminmax()) if ids.numel() else (0, 0)
    if low < 0 or high >= codes:
        raise ValueError(f"token ids must lie in [0, {codes}), got {low} to {high}")


def check_unit_images(name: str, x: Tensor) -> None:
    """Raise ``ValueError`` unless ``x`` holds finite floating-point images [B, C, H, W] in [0, 1]."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"{name} must be floating point of shape (batch, c, h, w), got {x.dtype} {tuple(x.shape)}")
    check_finite(name, x)
    low, high = (float(v) for v in x.aminmax()) if x.numel() else (0.0, 0.0)
    if low < 0 or high > 1:
        raise ValueError(f"{name} must lie in [0, 1], got {low:g} to {high:g}")


class FrozenTokenizer(nn.Module):
    r"""Encoder E, codebook e and decoder Dec of a vector-quantised autoencoder, none of which learns any more.

    Images in [0, 1] are those of the autoencoder, which knows [-1, 1], moved and scaled. Tokens are read row by row:
    a grid h x w gives L = h w of them. What the decoder makes may leave [0, 1]; it is not clipped here.

    Args:
        autoencoder: a :class:`~holdfast.diffusion.autoencoder.ConvAutoencoder` with a
            :class:`~holdfast.diffusion.autoencoder.vector_quantizer.VectorQuantizer`; frozen and put in evaluation
            mode in place.
        size: height and width of the images, or one number for both.

    Attributes:
        codes: K.
        grid: rows and columns of tokens.

    Raises:
        TypeError: for an autoencoder without a codebook.
        ValueError: for a size that the autoencoder cannot take.

    Examples:
        >>> net = ConvAutoencoder(VectorQuantizer(8, 16, dim=4), channels=1, widths=(8, 16), blocks=1)
        >>> tokenizer = FrozenTokenizer(net, size=8)
        >>> ids = tokenizer.encode(torch.rand(2, 1, 8, 8))
        >>> ids.shape, tokenizer.decode(ids).shape
        (torch.Size([2, 16]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, autoencoder: ConvAutoencoder, size: int | tuple[int, int]) -> None:
        super().__init__()
        quantizer = getattr(autoencoder, "bottleneck", None)
        if not isinstance(quantizer, VectorQuantizer):
            raise TypeError(f"tokens need an autoencoder with a VectorQuantizer, got {type(quantizer).__name__}")
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.grid = autoencoder.grid(*self.size)
        self.autoencoder = autoencoder.requires_grad_(False)
        self.codes, self.channels = quantizer.codes, autoencoder.channels
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTokenizer:
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def length(self) -> int:
        """Number of tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def patch(self) -> int:
        """Side of the square of pixels that stands at the place of one token."""
        return self.autoencoder.factor

    def hash(self) -> str:
        """Return the fingerprint of the codebook: models of its tokens are no use with another."""
        quantizer: VectorQuantizer = self.autoencoder.bottleneck  # pyright: ignore[reportAssignmentType]
        return codebook_hash(quantizer.codebook)

    def _check_images(self, x: Tensor) -> None:
        check_unit_images("images", x)
        if tuple(x.shape[1:]) != (self.channels, *self.size):
            expected = f"(batch, {self.channels}, {self.size[0]}, {self.size[1]})"
            raise ValueError(f"images must have shape {expected}, got {tuple(x.shape)}")

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Int[Tensor, "batch tokens"]:
        """Return the tokens of images in [0, 1]."""
        self._check_images(x)
        return self.autoencoder.encode(2 * x - 1, sample=False).flatten(1)

    @torch.no_grad()
    def decode(
        self,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
        soft: Float[Tensor, "batch tokens codes"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        r"""Return images of tokens, or of distributions over tokens where ``mask`` is true.

        .. math:: x = \mathrm{Dec}(v), \qquad v_l = e_{z_l} \text{ where } m_l = 0, \quad \sum_k \bar z_{l,k} e_k
            \text{ where } m_l = 1

        Raises:
            ValueError: for ids outside [0, K), probabilities that do not sum to one, or a mask without ``soft``.
        """
        if (mask is None) != (soft is None):
            raise ValueError("mask and soft go together: give both, or none")
        check_tokens(ids, torch.zeros_like(ids, dtype=torch.bool) if mask is None else mask, self.codes, self.length)
        quantizer = self.autoencoder.bottleneck
        v = quantizer.embed(ids.unflatten(1, self.grid))
        if mask is not None and soft is not None:
            if soft.shape != (*ids.shape, self.codes):
                raise ValueError(f"soft must have shape {(*ids.shape, self.codes)}, got {tuple(soft.shape)}")
            mixed = quantizer.embed(soft.unflatten(1, self.grid))
            v = torch.where(mask.unflatten(1, self.grid)[:, None], mixed, v)
        return (self.autoencoder.decoder(v) + 1) / 2
