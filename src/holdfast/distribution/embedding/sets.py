"""Where sets come from: a table of points that knows which set each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite, check_number
from holdfast.nn.sets import pad_sets

__all__ = ["SetSource", "SetTable"]

_PADDED = 4096  # up to this size of the largest set, points are drawn without replacement


class SetSource(Protocol):
    """Laws, or sets of their samples, that points can be drawn from."""

    def __len__(self) -> int: ...

    def draw(
        self, rows: Int[Tensor, " batch"], size: int, generator: torch.Generator
    ) -> Shaped[Tensor, "batch size *shape"]:
        """Return ``size`` points of each law in ``rows``, on the device of the generator."""
        ...


class SetTable:
    """Sets of any sizes in one tensor of points, one set after the other.

    Args:
        points: (n, ...) of all sets.
        sizes: of the sets, in order.

    Raises:
        ValueError: for a set without points, sizes that do not add up, NaN or infinity.

    Examples:
        >>> table = SetTable.of([torch.zeros(3, 2), torch.ones(5, 2)])
        >>> len(table), table.draw(torch.tensor([1, 0]), 2, torch.Generator())[:, 0, 0]
        (2, tensor([1., 0.]))
    """

    def __init__(self, points: Shaped[Tensor, "n *shape"], sizes: Int[Tensor, " sets"]) -> None:
        if len(sizes) == 0:
            raise ValueError("there are no sets")
        if bool((sizes < 1).any()):
            raise ValueError(f"set {int((sizes < 1).nonzero()[0])} has no points")
        if int(sizes.sum()) != len(points):
            raise ValueError(f"sizes add up to {int(sizes.sum())}, but there are {len(points)} points")
        check_finite("points", points)
        self.points, self.sizes = points, sizes
        self.starts = sizes.cumsum(0) - sizes

    @classmethod
    def of(cls, sets: Sequence[Any]) -> SetTable:
        """Make a table of a list of arrays (m_i, ...), or of one array (sets, m, ...)."""
        tensors = [as_tensor(s) for s in sets]
        if not tensors:
            raise ValueError("there are no sets")
        for i, s in enumerate(tensors):
            if s.ndim < 2:
                raise ValueError(f"set {i} must have shape (points, features), got {tuple(s.shape)}")
            if s.shape[1:] != tensors[0].shape[1:]:
                raise ValueError(
                    f"points of set {i} have shape {tuple(s.shape[1:])}, those of set 0 {tuple(tensors[0].shape[1:])}"
                )
        return cls(torch.cat(tensors), torch.tensor([len(s) for s in tensors]))

    def float(self) -> SetTable:
        """Return the table in single precision."""
        return SetTable(self.points.float(), self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        return tuple(self.points.shape[1:])

    def __len__(self) -> int:
        return len(self.sizes)

    def set(self, i: int) -> Shaped[Tensor, "size *shape"]:
        """Return the points of set ``i``."""
        start = int(self.starts[i])
        return self.points[start : start + int(self.sizes[i])]

    def padded(self, rows: Int[Tensor, " batch"]) -> tuple[Shaped[Tensor, "batch m *shape"], Bool[Tensor, "batch m"]]:
        """Return whole sets as one tensor with its mask, see :func:`holdfast.nn.pad_sets`."""
        return pad_sets([self.set(i) for i in rows.tolist()])

    def draw(
        self, rows: Int[Tensor, " batch"], size: int, generator: torch.Generator
    ) -> Shaped[Tensor, "batch size *shape"]:
        """Return ``size`` random points of each set in ``rows``.

        Without repetition where the set has as many points and none is very large, else with repetition, as one
        draws from its empirical measure.
        """
        check_number("size", size, low=1, integer=True)
        device = generator.device
        sizes = self.sizes[rows.to(self.sizes.device)].to(device)
        starts = self.starts[rows.to(self.starts.device)].to(device)
        places = (torch.rand(len(rows), size, generator=generator, device=device) * sizes[:, None]).long()
        largest = int(sizes.max())
        if size <= largest <= _PADDED:
            keys = torch.rand(len(rows), largest, generator=generator, device=device)
            keys = torch.where(torch.arange(largest, device=device) < sizes[:, None], keys, 2.0)
            apart = keys.topk(size, dim=1, largest=False).indices
            places = torch.where((sizes >= size)[:, None], apart, places)
        chosen = (starts[:, None] + places.minimum(sizes[:, None] - 1)).to(self.points.device)
        return self.points[chosen].to(device)
