"""What a set encoder is: a function of the weighted empirical measure of a set, and of nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.checks import check_finite
from holdfast.nn.sets.pooling import pooled_mean

__all__ = ["PooledSetEncoder", "SetEncoder", "check_sets"]


class SetEncoder(Protocol):
    """Any callable from a batch of sets to one code per set.

    Elements where ``mask`` is false count as removed; ``weights`` are non-negative, and weight k counts as k copies.
    """

    out_dim: int

    def __call__(
        self,
        x: Float[Tensor, "batch elements *shape"],
        mask: Bool[Tensor, "batch elements"] | None = None,
        weights: Float[Tensor, "batch elements"] | None = None,
    ) -> Float[Tensor, "batch code"]: ...


def check_sets(
    x: Float[Tensor, "batch elements *shape"],
    mask: Bool[Tensor, "batch elements"] | None,
    weights: Float[Tensor, "batch elements"] | None,
    shape: Sequence[int | None],
) -> tuple[Float[Tensor, "batch elements *shape"], Float[Tensor, "batch elements"] | None]:
    """Return the elements with those that do not count set to zero, and their weights (``None``: all count once).

    Args:
        x: sets; padding may hold anything.
        mask, weights: which elements count, and how often.
        shape: of one element; ``None`` leaves a length free.

    Raises:
        ValueError: for lists of different lengths, sets without elements, elements of another shape, NaN or infinity,
            negative weights, and rows in which nothing counts.

    Examples:
        >>> x, w = check_sets(torch.ones(1, 2, 1), torch.tensor([[True, False]]), None, (1,))
        >>> x.flatten(), w
        (tensor([1., 0.]), tensor([[1., 0.]]))
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"sets must be one tensor (batch, elements, ...), got {type(x).__name__}; "
            "pad_sets makes a tensor and a mask of a list of sets"
        )
    expected = ", ".join("any" if n is None else str(n) for n in shape)
    if x.ndim != 2 + len(shape) or any(n is not None and n != k for n, k in zip(shape, x.shape[2:])):
        raise ValueError(f"sets must have shape (batch, elements, {expected}), got {tuple(x.shape)}")
    if x.shape[1] == 0:
        raise ValueError("sets must have at least one element, got none")
    for name, given in (("mask", mask), ("weights", weights)):
        if given is not None and given.shape != x.shape[:2]:
            raise ValueError(f"{name} must have shape {tuple(x.shape[:2])}, got {tuple(given.shape)}")
    w = None if mask is None else mask.to(x.dtype)
    if weights is not None:
        w = weights.to(x.dtype) if w is None else torch.where(w > 0, weights.to(x.dtype), 0.0)
    if w is not None:
        x = torch.where((w > 0).view(*w.shape, *(1,) * len(shape)), x, 0.0)
    if not torch.compiler.is_compiling():
        check_finite("sets", x.detach())
        if w is not None:
            _check_weights(w.detach(), given=weights is not None)
    return x, w


def _check_weights(w: Tensor, *, given: bool) -> None:
    if given:
        check_finite("weights", w)
        if bool((w < 0).any()):
            raise ValueError(f"weights must be non-negative, got {float(w.min()):g}")
    total = w.sum(1)
    if bool((total <= 0).any()):
        row = int((total <= 0).nonzero()[0])
        what = "weights of total 0" if given else "no element: its mask is false everywhere"
        raise ValueError(f"set {row} has {what}")


class PooledSetEncoder(nn.Module, ABC):
    r"""Base of encoders that end in a mean: ``z = project(mean_j h_j)``.

    A subclass says how the features :math:`h_j` of the elements come about (:meth:`points`; they may depend on the
    other elements through their empirical measure) and how a code is made of their mean (:meth:`project`).

    Attributes:
        element_shape: of one element, ``None`` for a free length.
        out_dim: length l of a code.
    """

    element_shape: tuple[int | None, ...]
    out_dim: int

    @abstractmethod
    def points(
        self, x: Float[Tensor, "batch elements *shape"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements width"]:
        """Return one vector per element; ``weights`` is ``None`` where every element counts once."""

    def project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch code"]:
        """Return the code of a set from the mean of its elements' vectors."""
        return pooled

    def pool(
        self, h: Float[Tensor, "batch elements width"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch width"]:
        """Return the mean over the elements."""
        return pooled_mean(h, weights)

    def pooled(
        self,
        x: Float[Tensor, "batch elements *shape"],
        mask: Bool[Tensor, "batch elements"] | None = None,
        weights: Float[Tensor, "batch elements"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """Return what :meth:`project` makes the code of."""
        x, w = check_sets(x, mask, weights, self.element_shape)
        return self.pool(self.points(x, w), w)

    def forward(
        self,
        x: Float[Tensor, "batch elements *shape"],
        mask: Bool[Tensor, "batch elements"] | None = None,
        weights: Float[Tensor, "batch elements"] | None = None,
    ) -> Float[Tensor, "batch code"]:
        """Return one code per set."""
        return self.project(self.pooled(x, mask, weights))
