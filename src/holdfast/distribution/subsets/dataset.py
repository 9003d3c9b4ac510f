"""Ground sets with their best subsets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite, check_number
from holdfast.nn.sets import pad_sets

__all__ = ["SubsetBatch", "SubsetDataset", "sample_negatives"]


class SubsetBatch(NamedTuple):
    """Ground sets ``V`` (batch, elements, ...), subsets ``S`` and the mask ``valid`` (batch, elements)."""

    V: Tensor
    S: Tensor
    valid: Tensor


class SubsetDataset:
    """Ground sets V of elements, and in each the subset S that is best; sets may differ in size.

    Args:
        V: list of arrays (n_i, ...), or one array (sets, elements, ...). Elements are vectors, images or whatever the
            network reads; integers stand for items of a catalogue.
        S: boolean masks, in the same form.
        valid: which elements are no padding; for one array only.
        negatives: elements outside S that count in training, per element of S, drawn anew at every step; ``None``
            counts all.
        allow_trivial: accept S empty and S = V.

    Raises:
        ValueError: for no sets, an empty V, S not inside V, trivial S unless allowed, NaN or infinity, different
            lengths.

    Examples:
        >>> data = SubsetDataset([torch.randn(4, 2), torch.randn(3, 2)], [[1, 0, 0, 1], [0, 1, 0]])
        >>> len(data), data.V.shape, data.S.sum(1), data.valid.sum(1)
        (2, torch.Size([2, 4, 2]), tensor([2, 1]), tensor([4, 3]))
    """

    def __init__(
        self,
        V: Any,
        S: Any,
        valid: Any = None,
        *,
        negatives: int | None = 1,
        allow_trivial: bool = False,
    ) -> None:
        if negatives is not None:
            check_number("negatives", negatives, low=0, integer=True)
        if len(V) != len(S):
            raise ValueError(f"there are {len(V)} ground sets and {len(S)} subsets")
        if len(V) == 0:
            raise ValueError("there are no ground sets")
        if hasattr(V, "shape"):
            self.V, self.S = as_tensor(V), as_tensor(S).bool()
            if self.V.ndim < 2 or self.V.shape[1] == 0:
                raise ValueError(f"ground sets must have shape (sets, elements, ...), got {tuple(self.V.shape)}")
            if self.S.shape != self.V.shape[:2]:
                raise ValueError(f"subsets must have shape {tuple(self.V.shape[:2])}, got {tuple(self.S.shape)}")
            self.valid = torch.ones_like(self.S) if valid is None else as_tensor(valid).bool()
            if self.valid.shape != self.S.shape:
                raise ValueError(f"valid must have shape {tuple(self.S.shape)}, got {tuple(self.valid.shape)}")
        else:
            self.V, self.valid = pad_sets(V)
            self.S = self._ragged(S, valid)
        self.negatives = negatives
        self._check(allow_trivial)

    def _ragged(self, S: Sequence[Any], valid: Any) -> Tensor:
        masks = [as_tensor(s).bool() for s in S]
        sizes = self.valid.sum(1).tolist()
        for i, (mask, n) in enumerate(zip(masks, sizes)):
            if mask.shape != (n,):
                raise ValueError(f"subset {i} must be a mask of {n} elements, got shape {tuple(mask.shape)}")
        if valid is not None:
            counts = [int(as_tensor(v).sum()) for v in valid]
            for i, (given, n) in enumerate(zip(counts, sizes)):
                if given != n:
                    raise ValueError(f"valid marks {given} elements of ground set {i}, which has {n}")
        return torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)

    def _check(self, allow_trivial: bool) -> None:
        empty = ~self.valid.any(1)
        if bool(empty.any()):
            raise ValueError(f"ground set {int(empty.nonzero()[0])} is empty")
        outside = (self.S & ~self.valid).any(1)
        if bool(outside.any()):
            raise ValueError(f"subset {int(outside.nonzero()[0])} holds elements that are not in its ground set")
        if self.V.is_floating_point():
            keep = self.valid.view(*self.valid.shape, *(1,) * (self.V.ndim - 2))
            self.V = torch.where(keep, self.V, 0.0)
            check_finite("ground sets", self.V)
        if not allow_trivial:
            for what, bad in (("empty", ~self.S.any(1)), ("all of its ground set", (self.valid == self.S).all(1))):
                if bool(bad.any()):
                    i = int(bad.nonzero()[0])
                    raise ValueError(f"subset {i} is {what} and teaches nothing; allow_trivial=True accepts it")

    def __len__(self) -> int:
        return len(self.V)

    def __getitem__(self, rows: Shaped[Tensor, " batch"] | slice) -> SubsetBatch:
        """Return the sets of these rows as one padded batch."""
        return SubsetBatch(self.V[rows], self.S[rows], self.valid[rows])

    def only(self, rows: Shaped[Tensor, " batch"] | slice) -> SubsetDataset:
        """Return the data set of these rows alone."""
        return SubsetDataset(self.V[rows], self.S[rows], self.valid[rows], negatives=self.negatives, allow_trivial=True)


def sample_negatives(
    S: Bool[Tensor, "batch elements"],
    valid: Bool[Tensor, "batch elements"],
    negatives: int | None,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch elements"]:
    """Return which elements count: all of S, and ``negatives`` times as many others, drawn without replacement.

    ``None`` counts all. Where there are fewer others all of them count, with a warning if that is so for every set.

    Examples:
        >>> S = torch.tensor([[True, False, False, False]])
        >>> sample_negatives(S, torch.ones_like(S), 2, torch.Generator().manual_seed(0)).sum()
        tensor(3)
    """
    if negatives is None:
        return valid
    others = valid & ~S
    wanted = negatives * S.sum(1, keepdim=True)
    if bool((wanted > others.sum(1, keepdim=True)).all()):
        warnings.warn(f"{negatives} negatives per element are more than there are: all of them count", stacklevel=2)
    keys = torch.rand(S.shape, generator=generator, device=S.device).where(others, 2.0)
    rank = keys.argsort(1).argsort(1)
    return S | (others & (rank < wanted))
