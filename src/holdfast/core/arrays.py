"""From NumPy to tensors without a copy, for arrays that must not be written to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_tensor"]


class _Shared:
    """The memory of a read-only array, offered as writable; holds the array so that the memory stays."""

    def __init__(self, a: np.ndarray) -> None:
        self.owner = a
        self.__array_interface__ = {**a.__array_interface__, "data": (a.__array_interface__["data"][0], False)}


def as_tensor(x: Any) -> Tensor:
    """Return ``x`` as a tensor that shares its memory, read-only arrays too; write to no tensor made from one.

    ``torch.as_tensor`` warns about read-only arrays, such as those :class:`holdfast.data.Environments` holds.
    Negative strides, which tensors do not have, cost a copy.

    Examples:
        >>> a = np.arange(3.0); a.flags.writeable = False
        >>> as_tensor(a).data_ptr() == a.__array_interface__["data"][0]
        True
    """
    if not isinstance(x, np.ndarray):
        return torch.as_tensor(x)
    if any(s < 0 for s in x.strides):
        x = x.copy()
    if x.flags.writeable or x.size == 0:
        return torch.from_numpy(x if x.flags.writeable else x.copy())
    return torch.from_numpy(np.asarray(_Shared(x)))
