"""The coordinates in which points are encoded and generated."""

from __future__ import annotations

from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_matrix, check_number

__all__ = ["PointScaling"]


class PointScaling(nn.Module):
    r"""Standardised features, or the leading principal components at one common scale; and the way back.

    .. math:: y = (x - \mu) / \sigma \qquad\text{or}\qquad y = (x - \mu) V_k / s, \quad
              s^2 = \tfrac1k \textstyle\sum_{i \le k} \lambda_i

    Components keep their proportions, so that distances stay those of the points. A constant feature is centred.

    Args:
        features: d.
        components: k; ``None`` standardises every feature.

    Examples:
        >>> x = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.1])
        >>> scaling = PointScaling(3).fit(x)
        >>> torch.allclose(scaling.back(scaling(x)), x, atol=1e-5)
        True
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor | None

    def __init__(self, features: int, components: int | None = None) -> None:
        super().__init__()
        check_number("features", features, low=1, integer=True)
        self.features, self.components = features, components
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features if components is None else 1))
        if components is not None:
            check_number("components", components, low=1, high=features, integer=True)
        self.register_buffer("directions", None if components is None else torch.zeros(features, components))

    @property
    def out_dim(self) -> int:
        """Length of a point after scaling."""
        return self.features if self.components is None else self.components

    def fit(self, x: Float[Tensor, "n features"]) -> Self:
        """Take mean, scale and directions from the points ``x``."""
        check_matrix("points", x, columns=self.features)
        points = x.double()
        mean = points.mean(0)
        self.mean.copy_(mean)
        if self.directions is None:
            std = points.std(0, correction=0)
            self.scale.copy_(torch.where(std > 0, std, 1.0))
            return self
        k = self.directions.shape[1]
        if k > len(x):
            raise ValueError(f"{k} components need at least as many points, got {len(x)}")
        _, s, vh = torch.linalg.svd(points - mean, full_matrices=False)
        self.directions.copy_(vh[:k].T)
        size = float((s[:k].square().mean() / len(x)).sqrt())
        self.scale.fill_(size if size > 0 else 1.0)
        return self

    def forward(self, x: Float[Tensor, "*n features"]) -> Float[Tensor, "*n out"]:
        """Return scaled points."""
        centred = x - self.mean
        return (centred if self.directions is None else centred @ self.directions) / self.scale

    def back(self, y: Float[Tensor, "*n out"]) -> Float[Tensor, "*n features"]:
        """Return points in their own units; what the components leave out is the mean there."""
        scaled = y * self.scale
        return (scaled if self.directions is None else scaled @ self.directions.T) + self.mean
