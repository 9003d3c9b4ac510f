"""The detector of grouped class Gaussians: every class is a product of Gaussian groups with weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.metrics.gaussian import ClassGroupGaussians, aggregate_mahalanobis
from holdfast.representation.category_modeling import as_groups
from holdfast.representation.ood.protocol import OODDetector

__all__ = ["GroupedGaussian"]


@dataclass(kw_only=True)
class GroupedGaussian(OODDetector):
    r"""Smallest over classes of the weighted sum of group-wise Mahalanobis distances.

    .. math:: s(x) = \min_c \sum_k \pi_{ck}\,\tfrac12 (x_k - m_{ck})^\top S_{ck}^{-1} (x_k - m_{ck})

    The weights enter linearly, so ``"weighted"`` is not a mixture's log-likelihood. ``"mixture"`` is the true one,
    :math:`-\log \sum_c \sum_k \pi_{ck}\,\mathcal N(x_k; m_{ck}, S_{ck})`; ``"product"`` is
    :math:`-\log \tfrac1C \sum_c \prod_k \mathcal N(x_k; m_{ck}, S_{ck})`, which counts correlated groups several
    times. A minimum over classes favours data with many of them: compare scores at equal numbers of classes only.

    Args:
        n_groups: K; features may come flat (n, K d) or grouped (n, K, d).
        aggregate: ``"weighted"``, ``"mixture"`` or ``"product"``.
        shrinkage: ``"none"``, ``"ledoit_wolf"`` or a number in [0, 1].

    ``fit`` takes ``weights`` (C, K), the mixture weights that training found; equal weights without them.

    Raises:
        ValueError: for features that do not divide into groups, a class with fewer than d + 1 rows without
            shrinkage, a singular covariance, or weights that are negative or of another shape.

    Source: Li, Zhou et al., "Hierarchical Visual Categories Modeling: A Joint Representation Learning and Density
    Estimation Framework for Out-of-Distribution Detection", ICCV 2023, density estimation and score.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 6))
        >>> detector = GroupedGaussian(n_groups=3).fit(x, np.arange(200) % 2)
        >>> near, far = detector.score(np.stack([np.zeros(6), np.full(6, 9.0)]))
        >>> near < far
        np.True_
    """

    needs_labels: ClassVar[bool] = True

    n_groups: int = 1
    aggregate: str = "weighted"
    shrinkage: Literal["none", "ledoit_wolf"] | float = "none"

    def _check_settings(self) -> None:
        check_number("n_groups", self.n_groups, low=1, integer=True)
        check_choice("aggregate", self.aggregate, ["weighted", "mixture", "product"])

    def fit(self, features: Any = None, labels: Any = None, logits: Any = None, *, weights: Any = None) -> Self:
        """Fit means and covariances of every class and group; see :class:`OODDetector`."""
        self._weights = None if weights is None else torch.as_tensor(weights).detach().cpu().double()
        return super().fit(features, labels, logits)

    def _grouped(self, features: Tensor) -> Tensor:
        if features.ndim == 2:
            return as_groups(features, self.n_groups)
        if features.ndim != 3 or features.shape[1] != self.n_groups:
            raise ValueError(f"features must have {self.n_groups} groups, got shape {tuple(features.shape)}")
        return features

    def _fit(self, features: Tensor, labels: Tensor, logits: Tensor | None) -> dict[str, Tensor]:
        model = ClassGroupGaussians().fit(self._grouped(features), labels, shrinkage=self.shrinkage)
        c, k = model.means.shape[:2]
        weights, self._weights = self._weights, None
        if weights is None:
            weights = torch.full((c, k), 1 / k, dtype=torch.float64)
        if tuple(weights.shape) != (c, k) or bool((weights < 0).any()) or not bool((weights.sum(1) > 0).all()):
            raise ValueError(f"weights must be non-negative of shape {(c, k)}, got {tuple(weights.shape)}")
        return model.to_tensors() | {"weights": weights}

    def _score(self, features: Tensor, logits: Tensor | None) -> Tensor:
        model, weights = ClassGroupGaussians.from_tensors(self.state_), self.state_["weights"]
        x = self._grouped(features)
        if self.aggregate == "weighted":
            return aggregate_mahalanobis(model.mahalanobis(x), weights)
        log_p = model.log_prob(x)
        if self.aggregate == "mixture":
            share = weights / weights.sum()
            return -torch.logsumexp((log_p + share.log()).flatten(1), 1)
        return -(torch.logsumexp(log_p.sum(2), 1) - torch.log(torch.tensor(float(log_p.shape[1]))))
