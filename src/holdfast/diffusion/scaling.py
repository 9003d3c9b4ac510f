"""From the arrays people have to what a diffusion network reads, and samples back into the same form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite, check_number

__all__ = ["DataScaling"]

_CHANNELS = (1, 2, 3, 4)
_SLACK = 1e-3


@dataclass(frozen=True)
class DataScaling:
    """How images or vectors are brought to the scale of a diffusion process, and back.

    Images become floats in [-1, 1], channels first; vectors are standardised, column by column. Both directions are
    exact up to rounding, so samples come in the dtype, the range and the layout of the training data.

    Attributes:
        shape: (C, H, W) or (d,), what the network reads.
        layout: "chw", "hwc" or "hw" for images, "vector".
        dtype: NumPy's name of the data's dtype.
        low, high: range of image values.
        mean, std: of every column of vectors.

    Examples:
        >>> images = np.array([[[0, 255], [51, 102]]] * 3, np.uint8)
        >>> scaling = DataScaling.fit(images)
        >>> scaling.encode(images)[0, 0].tolist()[0]
        [-1.0, 1.0]
        >>> bool((scaling.decode(scaling.encode(images)) == images).all())
        True
    """

    shape: tuple[int, ...]
    layout: Literal["chw", "hwc", "hw", "vector"]
    dtype: str
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def fit(cls, x: Any, value_range: tuple[float, float] | None = None) -> DataScaling:
        """Learn the form of ``x``.

        Args:
            x: images (n, H, W), (n, C, H, W) or (n, H, W, C) with 1 to 4 channels, or vectors (n, d).
            value_range: smallest and largest value of images; by default 0 and 255 for integers; for floats 0 and 1
                or -1 and 1, whichever the values fit.

        Raises:
            ValueError: for other shapes, too few samples, values that are not finite or outside the range.
        """
        a = _array(x)
        if a.ndim not in (2, 3, 4):
            raise ValueError(
                "x must hold images (n, height, width), (n, channels, height, width), (n, height, width, channels) "
                f"or vectors (n, d), got shape {a.shape}"
            )
        if len(a) < 2:
            raise ValueError(f"a diffusion model needs at least 2 samples to learn from, got {len(a)}")
        check_finite("x", a)
        if a.ndim == 2:
            if value_range is not None:
                raise ValueError("value_range goes with images; vectors are standardised")
            if a.shape[1] == 0:
                raise ValueError(f"x holds vectors of length 0, got shape {a.shape}")
            mean, std = a.mean(0, dtype=np.float64), a.std(0, dtype=np.float64)
            std = np.where(std > 1e-8 * np.maximum(np.abs(mean), 1e-12), std, 0.0)
            if not std.any():
                raise ValueError(f"all {len(a)} samples are equal: there is nothing to learn")
            return cls((a.shape[1],), "vector", a.dtype.name, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
        layout, shape = _layout(a.shape)
        low, high = _range(a, value_range)
        if float(a.max()) == float(a.min()):
            raise ValueError(f"all pixels of all {len(a)} images are {float(a.min()):g}: there is nothing to learn")
        return cls(shape, layout, a.dtype.name, low, high)

    @property
    def kind(self) -> Literal["image", "vector"]:
        """What the data are."""
        return "vector" if self.layout == "vector" else "image"

    def encode(self, x: Any) -> Float[Tensor, "n *shape"]:
        """Return what the network reads.

        Raises:
            ValueError: for data of another shape or range than those of training, or not finite.
        """
        a = _array(x)
        if self.layout == "vector":
            if a.ndim != 2 or a.shape[1:] != self.shape:
                raise ValueError(f"x must hold vectors of length {self.shape[0]} as in training, got shape {a.shape}")
            check_finite("x", a)
            std = np.where(np.asarray(self.std) > 0, self.std, 1.0)
            return torch.from_numpy(((a - np.asarray(self.mean)) / std).astype(np.float32))
        c, h, w = self.shape
        expected = {"chw": (c, h, w), "hwc": (h, w, c), "hw": (h, w)}[self.layout]
        if a.shape[1:] != expected:
            raise ValueError(f"x must hold images of shape {expected} as in training, got shape {a.shape[1:]}")
        check_finite("x", a)
        slack = _SLACK * (self.high - self.low)
        if len(a):
            low, high = float(a.min()), float(a.max())
            scaled_already = a.dtype.kind == "f" and self.high - self.low > 2 and 0 < high - low <= 2
            if low < self.low - slack or high > self.high + slack or scaled_already:
                raise ValueError(
                    f"x must hold values in [{self.low:g}, {self.high:g}] as in training, got {a.dtype} values from "
                    f"{low:g} to {high:g}"
                )
        t = as_tensor(a).float()
        t = t[:, None] if self.layout == "hw" else t.permute(0, 3, 1, 2) if self.layout == "hwc" else t
        return ((t - self.low) * (2 / (self.high - self.low)) - 1).contiguous()

    def decode(self, z: Float[Tensor, "n *shape"]) -> np.ndarray:
        """Return samples in the form of the training data; image values are clamped to their range."""
        z = z.detach().cpu()
        if self.layout == "vector":
            a = z.double().numpy() * np.asarray(self.std) + np.asarray(self.mean)
        else:
            t = (z.float().clamp(-1, 1) + 1) * ((self.high - self.low) / 2) + self.low
            t = t[:, 0] if self.layout == "hw" else t.permute(0, 2, 3, 1) if self.layout == "hwc" else t
            a = t.contiguous().numpy()
        dtype = np.dtype(self.dtype)
        return (np.rint(a) if dtype.kind in "iu" else a).astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> DataScaling:
        """Rebuild from :meth:`to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
        return cls(**fields)


def _array(x: Any) -> np.ndarray:
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    a = np.asarray(x)
    if a.dtype == np.bool_:
        a = a.astype(np.float32)
    if a.dtype.kind not in "iuf":
        raise TypeError(f"x must hold numbers, got {type(x).__name__} of dtype {a.dtype}")
    return a.astype(np.float32) if a.dtype == np.float16 else a


def _layout(shape: tuple[int, ...]) -> tuple[Literal["chw", "hwc", "hw"], tuple[int, int, int]]:
    if len(shape) == 3:
        return "hw", (1, shape[1], shape[2])
    if shape[1] in _CHANNELS:
        return "chw", (shape[1], shape[2], shape[3])
    if shape[3] in _CHANNELS:
        return "hwc", (shape[3], shape[1], shape[2])
    raise ValueError(f"images must have 1 to 4 channels, first or last, got shape {shape}")


def _range(a: np.ndarray, value_range: tuple[float, float] | None) -> tuple[float, float]:
    low, high = float(a.min()), float(a.max())
    if value_range is not None:
        if len(value_range) != 2:
            raise ValueError(f"value_range must be (low, high), got {value_range!r}")
        least = check_number("value_range's low end", value_range[0])
        most = check_number("value_range's high end", value_range[1], low=least, open_low=True)
        if low < least or high > most:
            raise ValueError(f"x must lie in value_range [{least:g}, {most:g}], got values from {low:g} to {high:g}")
        return float(least), float(most)
    candidates = [(0.0, 255.0)] if a.dtype.kind in "iu" else [(0.0, 1.0), (-1.0, 1.0)]
    for least, most in candidates:
        if least <= low and high <= most:
            return least, most
    expected = "[0, 255]" if a.dtype.kind in "iu" else "[0, 1] or [-1, 1]"
    raise ValueError(
        f"images of dtype {a.dtype} must have values in {expected}, got values from {low:g} to {high:g}; scale them, "
        "or say what black and white are with value_range=(low, high)"
    )
