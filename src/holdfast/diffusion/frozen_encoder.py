"""Frozen encoders as sources of target representations, and their tokens on another grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.core.estimator import Estimator
from holdfast.core.progress import ProgressBar

__all__ = ["FrozenEncoder", "RepresentationTarget", "encode_all", "refuse_zero_tokens", "resample_tokens"]


class RepresentationTarget(Protocol):
    """What gives the representation that a network is to be aligned with: one vector per patch of a clean image."""

    def encode(self, images: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens, without gradient; a single token stands for the whole image."""
        ...


def _square(tokens: int, what: str) -> tuple[int, int]:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens of {what} are no square grid; give the grid as (rows, columns)")
    return side, side


def resample_tokens(
    tokens: Float[Tensor, "batch source dim"],
    grid: tuple[int, int],
    *,
    source: tuple[int, int] | None = None,
) -> Float[Tensor, "batch target dim"]:
    """Interpolate a grid of tokens, row by row, bilinearly to another one; antialiased where it gets coarser.

    Args:
        tokens: of any floating dtype; the result has the same.
        grid: rows and columns wanted.
        source: rows and columns given; ``None`` for a square.

    Raises:
        ValueError: for a number of tokens that is not the source grid's, or no square where none is given.

    Examples:
        >>> x = torch.arange(4.0).view(1, 4, 1)
        >>> resample_tokens(x, (1, 1)).item(), resample_tokens(x, (2, 2)).equal(x)
        (1.5, True)
    """
    rows, columns = source or _square(tokens.shape[1], "the target")
    if rows * columns != tokens.shape[1]:
        raise ValueError(f"a grid of {rows} x {columns} has {rows * columns} tokens, got {tokens.shape[1]}")
    if (rows, columns) == tuple(grid):
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, (rows, columns))
    maps = F.interpolate(maps.float(), size=tuple(grid), mode="bilinear", align_corners=False, antialias=True)
    return maps.flatten(2).transpose(1, 2).to(tokens.dtype)


class FrozenEncoder:
    """An encoder that gives targets and is never trained: evaluation mode, no gradient, no part of any state dict.

    Args:
        encoder: a module; or a fitted image estimator of this library; or the name (or folder) of a Hugging Face
            vision model, loaded through ``transformers``. A module may return a map (n, d, h, w), tokens (n, T, d),
            vectors (n, d), or an object with ``last_hidden_state``. It is frozen in place.
        tokens: ``"patch"`` for one vector per patch, ``"image"`` for one per image (the mean over patches, or what
            an estimator's representation is), ``"class"`` for the leading class token.
        resize: side that images are resized to before they are encoded (bicubic, antialiased); by default the size
            of a Hugging Face model, else none.
        prepare: from images as the generator sees them to what the encoder reads. Modules read them as they are;
            estimators and Hugging Face models expect [0, 1] (with the model's own mean and deviation), and images in
            [-1, 1] are mapped to that.
        prefix: leading tokens that are no patches (class and register tokens). ``None`` takes it from the model's
            configuration, or infers one class token where the others form a square.
        grid: rows and columns of the patches, for grids that are no squares; known for maps.
        dtype: to compute in, e.g. ``torch.bfloat16``; targets come back in float32.

    Raises:
        TypeError: for something that is no encoder.
        ValueError: for an estimator that does not read images, or an encoder that returns a shape without tokens.

    Source: Yu et al., "Representation alignment for generation", ICLR 2025, section 3.

    Examples:
        >>> encoder = FrozenEncoder(nn.Conv2d(1, 8, 4, stride=4))
        >>> encoder.encode(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 16, 8])
    """

    def __init__(
        self,
        encoder: nn.Module | Estimator | str,
        *,
        tokens: Literal["patch", "image", "class"] = "patch",
        resize: int | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        prefix: int | None = None,
        grid: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.tokens = check_choice("tokens", tokens, ("patch", "image", "class"))
        self.resize = None if resize is None else int(check_number("resize", resize, low=1, integer=True))
        self.prefix = None if prefix is None else int(check_number("prefix", prefix, low=0, integer=True))
        self.grid, self.dtype = grid, dtype
        self._call: Callable[[Tensor], Any]
        if isinstance(encoder, str):
            module, ready, self.prefix = _hugging_face(encoder, self.prefix)
            if self.resize is None:
                side = getattr(module.config, "image_size", None)
                self.resize = side if isinstance(side, int) else None
            self._call = module
        elif isinstance(encoder, Estimator):
            module, ready = _estimator(encoder), _to_unit
            self._call = getattr(module, "feature_map", module) if tokens == "patch" else module
        elif isinstance(encoder, nn.Module):
            module, ready, self._call = encoder, None, encoder
        else:
            raise TypeError(
                "encoder must be a module, a fitted image estimator or the name of a Hugging Face model, "
                f"got {type(encoder).__name__}"
            )
        self.prepare = prepare or ready
        self.module = module.eval().requires_grad_(False)
        if dtype is not None:
            self.module.to(dtype)

    def to(self, device: torch.device | str) -> Self:
        """Move the encoder."""
        self.module.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of clean images, on the images' device.

        Raises:
            ValueError: if a part of the encoder has been put in training mode, or it returns no tokens.
        """
        training = [name or type(m).__name__ for name, m in self.module.named_modules() if m.training]
        if training:
            raise ValueError(
                f"the encoder must stay in evaluation mode, but {training[0]!r} is in training mode: its targets "
                "would depend on the batch; call eval() on it"
            )
        first = next(self.module.parameters(), None)
        if first is not None and first.device != images.device:
            self.to(images.device)
        x = images if self.prepare is None else self.prepare(images)
        if self.resize is not None and x.shape[-2:] != (self.resize, self.resize):
            size = (self.resize, self.resize)
            x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        if self.dtype is not None:
            x = x.to(self.dtype)
        out = self._call(x)
        out = getattr(out, "last_hidden_state", out)
        if not isinstance(out, Tensor) or out.ndim not in (2, 3, 4):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"an encoder must return (n, d, h, w), (n, T, d) or (n, d), got {got}")
        return self._as_tokens(out).float()

    def _as_tokens(self, out: Tensor) -> Tensor:
        if out.ndim == 2:
            if self.tokens == "patch":
                raise ValueError(
                    f"the encoder gives one vector per image, shape {tuple(out.shape)}, and no patches: "
                    "use tokens='image', or an encoder that returns a map or tokens"
                )
            return out[:, None]
        if out.ndim == 4:
            if self.tokens == "class":
                raise ValueError("an encoder that returns a map has no class token; use tokens='image'")
            self.grid = (out.shape[2], out.shape[3])
            out = out.flatten(2).transpose(1, 2)
            return out if self.tokens == "patch" else out.mean(dim=1, keepdim=True)
        prefix = self.prefix
        if prefix is None:
            square = math.isqrt(out.shape[1] - 1) ** 2 == out.shape[1] - 1
            prefix = int(square and self.grid is None)
        if self.tokens == "class":
            if prefix < 1:
                raise ValueError("the encoder has no class token: prefix is 0")
            return out[:, :1]
        out = out[:, prefix:]
        if self.tokens == "image":
            return out.mean(dim=1, keepdim=True)
        if self.grid is not None and self.grid[0] * self.grid[1] != out.shape[1]:
            raise ValueError(
                f"the encoder gives {out.shape[1]} patch tokens, but grid={self.grid} has {self.grid[0] * self.grid[1]}"
            )
        return out


def encode_all(
    target: RepresentationTarget,
    images: Float[Tensor, "n *shape"],
    *,
    grid: tuple[int, int] | None = None,
    batch_size: int = 500,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Float[Tensor, "n tokens dim"]:
    """Compute every target once, on the CPU afterwards: what an alignment term reads by name from the batch.

    Args:
        target: the encoder.
        images: clean images.
        grid: of the student; targets on another grid are interpolated to it.
        batch_size: images encoded at once, on ``device``.
        dtype: targets are kept in; half precision halves the memory.

    Raises:
        ValueError: for targets that are not finite, or all zero somewhere (with the share).

    Examples:
        >>> encode_all(FrozenEncoder(nn.Conv2d(1, 8, 4, stride=4)), torch.randn(3, 1, 16, 16), grid=(2, 2)).shape
        torch.Size([3, 4, 8])
    """
    parts = []
    with ProgressBar("encoding", total=len(images), done=0, enabled=progress, measure=None) as bar:
        for part in images.split(batch_size):
            y = target.encode(part.to(device))
            if grid is not None and y.shape[1] > 1:
                y = resample_tokens(y, grid, source=getattr(target, "grid", None))
            check_finite("targets", y)
            refuse_zero_tokens(y)
            parts.append(y.to("cpu", dtype))
            bar.tick(sum(map(len, parts)), math.nan)
    return torch.cat(parts)


def refuse_zero_tokens(target: Float[Tensor, "batch tokens dim"]) -> None:
    """Raise ``ValueError``, with the share, if some target tokens are zero and have no direction."""
    zero = (target == 0).all(dim=-1)
    if bool(zero.any()):
        share = float(zero.float().mean())
        raise ValueError(
            f"{share:.2%} of the target tokens are all zero and have no direction; "
            "an encoder that ends in a ReLU gives such tokens on empty patches: take an earlier layer"
        )


def _to_unit(images: Tensor) -> Tensor:
    return (images + 1) / 2


def _estimator(estimator: Estimator) -> nn.Module:
    network, reader = getattr(estimator, "network_", None), getattr(estimator, "input_", None)
    if network is None or reader is None:
        raise ValueError(f"{type(estimator).__name__} is not fitted, or has no network: call fit first")
    kind = getattr(getattr(reader, "signature", None), "kind", None)
    if kind not in (None, "image"):
        raise ValueError(f"{type(estimator).__name__} was fitted on input of kind {kind!r}, not on images")
    return network.encoder


def _hugging_face(name: str, prefix: int | None) -> tuple[nn.Module, Callable[[Tensor], Tensor], int | None]:
    try:
        from transformers import AutoImageProcessor, AutoModel
    except ImportError as error:
        raise ImportError("a model by name needs transformers: pip install 'holdfast[text]'") from error
    module = AutoModel.from_pretrained(name)
    module = getattr(module, "vision_model", module)
    config = module.config
    if prefix is None and hasattr(config, "patch_size"):
        # SigLIP has no class token; DINOv2 and ViT have one, and possibly registers.
        pooled = "siglip" in str(config.model_type)
        prefix = (0 if pooled else 1) + int(getattr(config, "num_register_tokens", 0) or 0)
    try:
        processor = AutoImageProcessor.from_pretrained(name)
        mean, std = processor.image_mean, processor.image_std
    except (OSError, ValueError):
        warnings.warn(f"{name} comes without an image processor: mean and deviation of 0.5 are used", stacklevel=3)
        mean, std = [0.5] * 3, [0.5] * 3
    channels = int(getattr(config, "num_channels", 3))

    def prepare(images: Tensor) -> Tensor:
        x = _to_unit(images)
        if x.shape[1] == 1 and channels > 1:
            x = x.expand(-1, channels, -1, -1)
        m, s = (torch.tensor(v, dtype=x.dtype, device=x.device).view(1, -1, 1, 1) for v in (mean, std))
        return (x - m) / s

    return module, prepare, prefix
