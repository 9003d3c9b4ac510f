"""Labels of a class-conditional generator: what people call the classes, and the numbers that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["ClassLabels"]


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """The classes of the training data, in order, and how many samples each had.

    Examples:
        >>> labels, codes = ClassLabels.fit(["cat", "dog", "dog", "cat", "dog"], 5)
        >>> codes.tolist(), labels.encode("dog", 2).tolist()
        ([0, 1, 1, 0, 1], [1, 1])
    """

    classes: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def fit(cls, y: Any, n: int) -> tuple[ClassLabels, Int[Tensor, " n"]]:
        """Return the classes of ``n`` labels and every sample's position among them.

        Raises:
            ValueError: for a number of labels other than ``n``, a missing label, real numbers, one class only, or
                so many that they cannot be classes.
        """
        y = _plain(y)
        if y.shape != (n,):
            raise ValueError(f"y must hold one label for each of {n} samples, got shape {y.shape}")
        if (missing := np.asarray(pd.isna(y))).any():
            raise ValueError(f"y must not be missing, but row {int(missing.argmax())} is")
        if y.dtype.kind == "f" and (y != np.round(y)).any():
            raise ValueError(f"y must hold class labels, got the number {float(y[y != np.round(y)][0]):g}")
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y holds one class only, {str(classes[0])!r}; leave y out for an unconditional model")
        if len(classes) > n // 2:
            raise ValueError(f"y holds {len(classes)} different labels for {n} samples: these are no classes")
        return cls(classes, np.bincount(codes)), torch.from_numpy(codes.astype(np.int64))

    def encode(self, y: Any, n: int) -> Int[Tensor, " n"]:
        """Return the position of one label for all, or of ``n`` labels; numbers may be written as texts.

        Raises:
            ValueError: for an unknown label, or another number of them.
        """
        labels = _plain(y)
        labels = np.full(n, labels[()]) if labels.ndim == 0 else labels
        if labels.shape != (n,):
            raise ValueError(f"y must be one label or one for each of {n} samples, got shape {labels.shape}")
        place = {str(c): i for i, c in enumerate(self.classes.tolist())}
        codes = [place.get(str(v), -1) for v in labels.tolist()]
        if -1 in codes:
            unknown = str(labels[codes.index(-1)])
            shown = ", ".join(map(str, self.classes[:12].tolist())) + (", ..." if len(self.classes) > 12 else "")
            raise ValueError(f"{unknown!r} is no class of this model; it has {shown}")
        return torch.tensor(codes)

    def draw(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Draw classes in the shares of the training data."""
        share = torch.as_tensor(self.counts, dtype=torch.float64)
        return torch.multinomial(share, n, replacement=True, generator=generator)


def _plain(y: Any) -> np.ndarray:
    return np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
