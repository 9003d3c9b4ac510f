"""Fixed codes of a set: the kernel mean by random features, the plain mean, and its leading directions."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_matrix, check_number
from holdfast.core.random import generator
from holdfast.nn.sets.protocol import PooledSetEncoder

__all__ = ["KernelMeanEncoder", "MeanEncoder", "median_bandwidth"]


def median_bandwidth(x: Float[Tensor, "n features"], *, limit: int = 1000) -> float:
    """Return the median distance of two different points as a bandwidth, from at most ``limit`` points evenly taken.

    Raises:
        ValueError: for fewer than two points, or where more than half of the distances are zero.

    Examples:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    check_matrix("points", x)
    if len(x) < 2:
        raise ValueError("a median distance needs at least two points, got sets of one point: give bandwidth a number")
    if len(x) > limit:
        x = x[torch.linspace(0, len(x) - 1, limit, device=x.device).long()]
    median = float(torch.pdist(x.double()).quantile(0.5))
    if median == 0:
        raise ValueError("more than half of the points are equal: the median distance is 0, give bandwidth a number")
    return median


class KernelMeanEncoder(PooledSetEncoder):
    r"""The kernel mean embedding of a set in random Fourier features of a Gaussian kernel; nothing is trained.

    .. math:: z = \tfrac1m \sum_j \bigl[\cos(W^\top x_j / b)\,;\,\sin(W^\top x_j / b)\bigr],\qquad W_{ik} \sim N(0, 1)

    :math:`\tfrac2l \langle z, z' \rangle` is an unbiased estimate of the mean over both sets of
    :math:`e^{-\lVert x - x' \rVert^2 / 2 b^2}`.

    Args:
        features: dimension d of an element.
        out_dim: length l of the code, an even number.
        bandwidth: b, or ``"median"`` for the median distance of the points that :meth:`fit` is given.
        seed: of W.

    Source: Rahimi and Recht, "Random features for large-scale kernel machines", NeurIPS 2007; Smola et al., "A
    Hilbert space embedding for distributions", 2007.

    Examples:
        >>> encoder = KernelMeanEncoder(3, out_dim=8).fit(torch.randn(2, 50, 3))
        >>> encoder(torch.zeros(1, 5, 3))
        tensor([[1., 1., 1., 1., 0., 0., 0., 0.]])
    """

    frequencies: Tensor
    scale: Tensor

    def __init__(
        self,
        features: int,
        *,
        out_dim: int = 32,
        bandwidth: float | Literal["median"] = "median",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("features", features, low=1, integer=True)
        check_number("out_dim", out_dim, low=2, integer=True)
        if out_dim % 2:
            raise ValueError(f"out_dim must be even (a cosine and a sine per frequency), got {out_dim}")
        if bandwidth != "median":
            check_number("bandwidth", bandwidth, low=0, open_low=True)
        self.element_shape, self.out_dim = (features,), out_dim
        self.bandwidth = bandwidth
        self.register_buffer("frequencies", torch.randn(features, out_dim // 2, generator=generator(seed)))
        self.register_buffer("scale", torch.tensor(math.nan if bandwidth == "median" else 1 / bandwidth))

    def fit(self, x: Float[Tensor, "... features"]) -> Self:
        """Set the bandwidth to the median distance between the given points, all sets together; return the encoder.

        Does nothing where the bandwidth is a number.
        """
        if self.bandwidth == "median":
            self.scale.fill_(1 / median_bandwidth(x.detach().reshape(-1, x.shape[-1])))
        return self

    def points(
        self, x: Float[Tensor, "batch elements features"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements code"]:
        """Return the random features of every element."""
        if not torch.compiler.is_compiling() and bool(self.scale.isnan()):
            raise ValueError("the bandwidth is not set: call fit with points of the training sets, or give a number")
        angle = x @ (self.frequencies * self.scale)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class MeanEncoder(PooledSetEncoder):
    r"""A linear function of the mean of a set: ``z = A mean_j x_j + b``.

    Args:
        features: dimension d of an element.
        out_dim: length l of the code; ``None`` takes the mean itself, with nothing to train.

    Examples:
        >>> MeanEncoder(2)(torch.tensor([[[0.0, 2.0], [2.0, 4.0]]]))
        tensor([[1., 3.]])
    """

    def __init__(self, features: int, *, out_dim: int | None = None) -> None:
        super().__init__()
        self.element_shape, self.out_dim = (features,), features if out_dim is None else out_dim
        self.code = nn.Identity() if out_dim is None else nn.Linear(features, out_dim)

    @classmethod
    def principal(cls, x: Float[Tensor, "n features"], out_dim: int) -> MeanEncoder:
        """Return the mean in the leading principal directions of the points ``x``, with nothing to train.

        Examples:
            >>> x = torch.tensor([[-3.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
            >>> MeanEncoder.principal(x, 1)(torch.tensor([[[2.0, 5.0]]])).abs()
            tensor([[2.]])
        """
        check_matrix("points", x)
        check_number("out_dim", out_dim, low=1, high=min(x.shape), integer=True)
        encoder = cls(x.shape[1], out_dim=out_dim)
        mean = x.mean(0)
        directions = torch.linalg.svd((x - mean).double(), full_matrices=False)[2][:out_dim].to(x.dtype)
        linear = encoder.code
        with torch.no_grad():
            for p, value in zip(linear.parameters(), (directions, -directions @ mean)):
                p.copy_(value)
        return encoder.requires_grad_(False)

    def points(
        self, x: Float[Tensor, "batch elements features"], weights: Float[Tensor, "batch elements"] | None
    ) -> Float[Tensor, "batch elements features"]:
        """Return the elements."""
        return x

    def project(self, pooled: Float[Tensor, "batch features"]) -> Float[Tensor, "batch code"]:
        """Return the linear function of the mean."""
        return self.code(pooled)
