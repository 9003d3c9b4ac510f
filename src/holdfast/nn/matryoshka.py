"""Nested embeddings: the list of prefix lengths, the heads that read prefixes, and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["MatryoshkaHead", "check_dims", "nesting_dims", "truncate_embed"]


def check_dims(dims: Sequence[int], d: int | None = None) -> tuple[int, ...]:
    """Return a nesting list as a tuple: positive integers in strictly increasing order, none above ``d``.

    Raises:
        TypeError: for an entry that is not an integer.
        ValueError: for an empty list, an entry below 1 or above ``d``, or an order that does not increase.

    Examples:
        >>> check_dims([8, 16, 64], d=64)
        (8, 16, 64)
    """
    out = tuple(int(check_number(f"dims[{i}]", m, low=1, integer=True)) for i, m in enumerate(dims))
    if not out:
        raise ValueError("dims must hold at least one prefix length, got none")
    for a, b in pairwise(out):
        if b <= a:
            raise ValueError(f"dims must be strictly increasing, got {list(out)}")
    if d is not None and out[-1] > d:
        raise ValueError(f"dims must not exceed the embedding's {d} dimensions, got {list(out)}")
    return out


def nesting_dims(d: int, start: int = 8, base: int = 2) -> list[int]:
    r"""Return the prefix lengths :math:`s, s b, s b^2, \dots`, closed by the full length :math:`d`.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Section 3.

    Raises:
        ValueError: for ``d`` below ``start``, ``start`` below 1 or ``base`` below 2.

    Examples:
        >>> nesting_dims(64)
        [8, 16, 32, 64]
        >>> nesting_dims(768, start=12)
        [12, 24, 48, 96, 192, 384, 768]
        >>> nesting_dims(100, start=25, base=3)
        [25, 75, 100]
    """
    start = int(check_number("start", start, low=1, integer=True))
    base = int(check_number("base", base, low=2, integer=True))
    d = int(check_number("d", d, low=start, integer=True))
    dims = []
    m = start
    while m < d:
        dims.append(m)
        m *= base
    return [*dims, d]


def truncate_embed(z: Float[Tensor, "*batch dim"], m: int, normalize: bool = True) -> Float[Tensor, "*batch m"]:
    r"""Return the prefix :math:`z_{1:m}`, divided by its own norm where ``normalize``.

    Normalisation follows truncation: a prefix of a unit vector is no unit vector.

    Raises:
        ValueError: for ``m`` outside [1, d], or a prefix of norm zero (named by its row).

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.

    Examples:
        >>> truncate_embed(torch.tensor([[3.0, 4.0, 100.0]]), 2)
        tensor([[0.6000, 0.8000]])
    """
    m = int(check_number("m", m, low=1, high=z.shape[-1], integer=True))
    prefix = z[..., :m]
    if not normalize:
        return prefix
    norm = prefix.norm(dim=-1, keepdim=True)
    zero = (norm == 0).reshape(-1)
    if bool(zero.any()):
        row = int(zero.nonzero()[0])
        raise ValueError(f"the prefix of length {m} has norm zero in row {row}: it has no direction to normalise")
    return prefix / norm


class MatryoshkaHead(nn.Module):
    r"""Linear classifiers of every prefix of an embedding.

    .. math:: f_m(z) = W^{(m)} z_{1:m} + b^{(m)}, \qquad m \in M

    With ``efficient`` the weights are tied: :math:`W^{(m)} = W_{:, 1:m}` and one bias serves all, which saves
    memory by a factor of about :math:`\sum M / d` and gives logits for every prefix length, trained or not. The
    shared bias leans short prefixes towards the full model's prior.

    Args:
        dims: prefix lengths, strictly increasing.
        n_out: outputs of every head.
        efficient: one shared weight matrix.
        bias: with an additive bias.

    Shapes: embedding (B, d) with d at least ``max(dims)`` to a list of ``len(dims)`` tensors (B, n_out).

    Raises:
        ValueError: for a wrong nesting list, an embedding that is too short, or a length that has no head.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Equation 1.

    Examples:
        >>> head = MatryoshkaHead([2, 4, 8], n_out=3)
        >>> [tuple(logits.shape) for logits in head(torch.zeros(5, 8))]
        [(5, 3), (5, 3), (5, 3)]
        >>> head.truncate(4)
        Linear(in_features=4, out_features=3, bias=True)
    """

    def __init__(self, dims: Sequence[int], n_out: int, efficient: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.n_out = int(check_number("n_out", n_out, low=1, integer=True))
        self.efficient = efficient
        widths = self.dims[-1:] if efficient else self.dims
        self.heads = nn.ModuleList(nn.Linear(m, self.n_out, bias=bias) for m in widths)

    def forward(self, z: Float[Tensor, "batch dim"]) -> list[Float[Tensor, "batch out"]]:
        """Return the logits of every prefix, shortest first."""
        return [self.logits(z, m) for m in self.dims]

    def logits(self, z: Float[Tensor, "batch dim"], m: int) -> Float[Tensor, "batch out"]:
        """Return the logits that read the first ``m`` entries."""
        if z.shape[-1] < m:
            raise ValueError(f"the embedding has {z.shape[-1]} dimensions, the head of length {m} needs {m}")
        weight, bias = self._parameters_at(m)
        return F.linear(z[..., :m], weight, bias)

    def truncate(self, m: int) -> nn.Linear:
        """Return the head of length ``m`` as a plain layer with its own copy of the weights."""
        weight, bias = self._parameters_at(m)
        layer = nn.Linear(m, self.n_out, bias=bias is not None, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        return layer

    def extra_repr(self) -> str:
        return f"dims={list(self.dims)}, n_out={self.n_out}, efficient={self.efficient}"

    def _parameters_at(self, m: int) -> tuple[Tensor, Tensor | None]:
        if self.efficient:
            m = int(check_number("m", m, low=1, high=self.dims[-1], integer=True))
            shared = cast("nn.Linear", self.heads[0])
            return shared.weight[:, :m], shared.bias
        if m not in self.dims:
            raise ValueError(f"m must be one of the trained lengths {list(self.dims)}, got {m}")
        own = cast("nn.Linear", self.heads[self.dims.index(m)])
        return own.weight, own.bias
