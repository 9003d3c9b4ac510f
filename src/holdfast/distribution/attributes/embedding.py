"""Attributes, some of them missing, as one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.checks import check_matrix, check_number
from holdfast.nn.feed_forward import feed_forward

__all__ = ["AttributeEmbedding"]

_WAVES = 2


class AttributeEmbedding(nn.Module):
    r"""Embed attributes by a perceptron; what stands in a missing entry changes nothing.

    Binary attributes enter as -1 and 1. Continuous ones are standardised and join :math:`\sin` and :math:`\cos` of
    :math:`k \pi u / 4`, k = 1, 2, so that extremes are told apart. Missing entries are set to 0 and a bit for every
    attribute says whether it is known.

    Args:
        attributes: number A.
        dim: length of the result.
        missing: whether entries may be missing.
        continuous: columns of attributes that are not binary; :meth:`fit` finds their mean, deviation and range.

    Raises:
        ValueError: for columns that are not there.

    Examples:
        >>> embed = AttributeEmbedding(2, 8)
        >>> known = torch.tensor([[True, False]])
        >>> a, b = (embed(torch.tensor([[1.0, v]]), known) for v in (0.0, 1.0))
        >>> bool((a == b).all())
        True
    """

    centre: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    is_continuous: Tensor

    def __init__(self, attributes: int, dim: int = 64, *, missing: bool = True, continuous: Sequence[int] = ()) -> None:
        super().__init__()
        self.attributes = int(check_number("attributes", attributes, low=1, integer=True))
        self.out_dim = int(check_number("dim", dim, low=1, integer=True))
        for k in continuous:
            check_number("continuous", k, low=0, high=attributes - 1, integer=True)
        self.missing = missing
        flags = torch.zeros(attributes, dtype=torch.bool)
        flags[list(continuous)] = True
        self.register_buffer("is_continuous", flags)
        # Of a binary attribute, centre and spread map 0 and 1 to -1 and 1.
        self.register_buffer("centre", torch.where(flags, 0.0, 0.5))
        self.register_buffer("spread", torch.where(flags, 1.0, 0.5))
        self.register_buffer("low", torch.full((attributes,), -math.inf))
        self.register_buffer("high", torch.full((attributes,), math.inf))
        inputs = attributes * (1 + missing) + 2 * _WAVES * int(flags.sum())
        self.net = feed_forward(inputs, dim, dim, layers=1, activation=nn.ReLU)

    def fit(
        self, c: Float[Tensor, "n attributes"], mask: Bool[Tensor, "n attributes"] | None = None
    ) -> AttributeEmbedding:
        """Take mean, deviation and range of the continuous attributes from their known entries."""
        check_matrix("c", c, columns=self.attributes)
        for k in self.is_continuous.nonzero().flatten().tolist():
            known = c[:, k] if mask is None else c[mask[:, k], k]
            if not len(known):
                raise ValueError(f"attribute {k} is known of no row")
            self.centre[k], self.low[k], self.high[k] = known.mean(), known.min(), known.max()
            self.spread[k] = known.std(unbiased=False).clamp_min(1e-8)
        return self

    def outside(
        self, c: Float[Tensor, "batch attributes"], mask: Bool[Tensor, "batch attributes"] | None = None
    ) -> Bool[Tensor, "batch attributes"]:
        """Say which known entries lie outside the range that :meth:`fit` saw."""
        out = (c < self.low) | (c > self.high)
        return out if mask is None else out & mask

    def forward(
        self, c: Float[Tensor, "batch attributes"], mask: Bool[Tensor, "batch attributes"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Return the embedding.

        Args:
            c: attributes.
            mask: which are known, all by default.

        Raises:
            ValueError: for attributes of another number, NaN or infinity in a known entry, a binary attribute that is
                neither 0 nor 1, or missing entries where ``missing`` is off.
        """
        if c.ndim != 2 or c.shape[1] != self.attributes:
            raise ValueError(f"attributes must have shape (batch, {self.attributes}), got {tuple(c.shape)}")
        known = torch.ones_like(c, dtype=torch.bool) if mask is None else mask
        if known.shape != c.shape or known.dtype != torch.bool:
            raise ValueError(f"mask must be boolean of shape {tuple(c.shape)}, got {known.dtype} {tuple(known.shape)}")
        if not self.missing and not bool(known.all()):
            raise ValueError("missing=False: every attribute must be known")
        u = torch.where(known, (c - self.centre) / self.spread, 0.0)
        if not bool(torch.isfinite(u).all()):
            row, column = (~torch.isfinite(u)).nonzero()[0].tolist()
            raise ValueError(
                f"attribute {column} of row {row} is {float(c[row, column])}; say what is missing by the mask"
            )
        wrong = known & ~self.is_continuous & (u.abs() != 1)
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(f"attribute {column} is binary: 0 or 1, but row {row} has {float(c[row, column]):g}")
        parts = [u]
        if bool(self.is_continuous.any()):
            chosen, there = u[:, self.is_continuous], known[:, self.is_continuous]
            for k in range(1, _WAVES + 1):
                angle = k * math.pi / 4 * chosen
                parts += [angle.sin(), torch.where(there, angle.cos(), 0.0)]
        if self.missing:
            parts.append(known.to(c.dtype))
        return self.net(torch.cat(parts, dim=1))
