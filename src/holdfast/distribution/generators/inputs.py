"""What every conditional generator asks of points and codes."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_codes", "check_points"]


def check_codes(z: Tensor, code: int) -> None:
    """Raise ``ValueError`` unless ``z`` is a batch of codes of length ``code``.

    Examples:
        >>> import torch
        >>> check_codes(torch.zeros(2, 3), 4)
        Traceback (most recent call last):
        ...
        ValueError: codes must have shape (batch, 4), got (2, 3)
    """
    if z.ndim != 2 or z.shape[1] != code:
        raise ValueError(f"codes must have shape (batch, {code}), got {tuple(z.shape)}")


def check_points(x: Tensor, z: Tensor, shape: tuple[int, ...], code: int) -> None:
    """Raise ``ValueError`` unless ``x`` holds sets of points of ``shape`` and ``z`` one code for each.

    Examples:
        >>> import torch
        >>> check_points(torch.zeros(2, 5, 3), torch.zeros(2, 4), (3,), 4)
    """
    check_codes(z, code)
    if x.ndim != 2 + len(shape) or tuple(x.shape[2:]) != tuple(shape) or len(x) != len(z) or x.shape[1] == 0:
        inner = ", ".join(map(str, shape))
        raise ValueError(f"points must have shape ({len(z)}, m, {inner}) for {len(z)} codes, got {tuple(x.shape)}")
