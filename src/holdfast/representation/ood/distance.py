"""Detectors that measure how far features are from those of the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_number
from holdfast.metrics.gaussian import ClassGroupGaussians
from holdfast.representation.ood.protocol import OODDetector

__all__ = ["KNN", "Mahalanobis", "ViM"]

_BLOCK = 1 << 22


def _flat(features: Tensor) -> Tensor:
    return features.flatten(1)


@dataclass(kw_only=True)
class Mahalanobis(OODDetector):
    r"""Distance to the nearest class mean under one covariance for all classes:
    :math:`\min_c (x - m_c)^\top S^{-1} (x - m_c)`.

    Args:
        tied: one covariance for all classes (the source's choice), or one for each.
        shrinkage: ``"none"``, ``"ledoit_wolf"`` or a number in [0, 1]; needed when features are linearly dependent.

    Source: Lee, Lee, Lee and Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", NeurIPS 2018, equation 2.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(100, 2))
        >>> near, far = Mahalanobis().fit(x, np.arange(100) % 2).score([[0.0, 0.0], [9.0, 9.0]])
        >>> near < far
        np.True_
    """

    needs_labels: ClassVar[bool] = True

    tied: bool = True
    shrinkage: Literal["none", "ledoit_wolf"] | float = "ledoit_wolf"

    def _fit(self, features: Tensor, labels: Tensor, logits: Tensor | None) -> dict[str, Tensor]:
        model = ClassGroupGaussians().fit(_flat(features), labels, shrinkage=self.shrinkage, tied=self.tied)
        return model.to_tensors()

    def _score(self, features: Tensor, logits: Tensor | None) -> Tensor:
        return ClassGroupGaussians.from_tensors(self.state_).mahalanobis(_flat(features)).squeeze(2).amin(1)


@dataclass(kw_only=True)
class KNN(OODDetector):
    r"""Distance to the k-th nearest training feature, all on the unit sphere.

    Args:
        k: which neighbour; at most the number of training rows.

    Source: Sun, Ming, Zhu and Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.

    Examples:
        >>> KNN(k=1).fit([[1.0, 0.0], [0.0, 1.0]]).score([[2.0, 0.0], [-1.0, 0.0]]).round(4)
        array([0.    , 1.4142])
    """

    k: int = 50

    def _check_settings(self) -> None:
        check_number("k", self.k, low=1, integer=True)

    def _fit(self, features: Tensor, labels: Tensor | None, logits: Tensor | None) -> dict[str, Tensor]:
        if len(features) < self.k:
            raise ValueError(f"k={self.k} neighbours need at least {self.k} training rows, got {len(features)}")
        return {"bank": F.normalize(_flat(features), dim=1)}

    def _score(self, features: Tensor, logits: Tensor | None) -> Tensor:
        bank = self.state_["bank"]
        parts = F.normalize(_flat(features), dim=1).split(max(1, _BLOCK // len(bank)))
        # Unit vectors: the k-th nearest is the k-th largest cosine.
        cosine = torch.cat([(part @ bank.T).topk(self.k, dim=1).values[:, -1] for part in parts])
        return (2 - 2 * cosine).clamp(min=0).sqrt()


@dataclass(kw_only=True)
class ViM(OODDetector):
    r"""Virtual-logit matching: the part of a feature outside the principal space, against the energy of the logits.

    .. math:: s = a\,\lVert R^\top (x - o) \rVert - \log \sum_c e^{z_c}, \qquad
        a = \frac{\sum_i \max_c z_{ic}}{\sum_i \lVert R^\top (x_i - o) \rVert}, \qquad o = -W^+ b

    R spans the complement of the leading eigenvectors of the features around o; W and b are the classifier's last
    layer, recovered by least squares from features and logits.

    Args:
        n_components: dimension of the principal space; ``None`` is the source's rule (1000 from 2048 features on, 512
            from 768, else half).

    Source: Wang, Li, Feng and Zhang, "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022, equations
    5-8.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 4)) * [3, 3, 0.1, 0.1]
        >>> vim = ViM(n_components=2).fit(x, logits=5 + x[:, :2])
        >>> near, far = vim.score([[1.0, 1, 0, 0], [1.0, 1, 5, 5]], logits=[[6.0, 6.0], [6.0, 6.0]])
        >>> near < far
        np.True_
    """

    needs_logits: ClassVar[bool] = True

    n_components: int | None = None

    def _check_settings(self) -> None:
        if self.n_components is not None:
            check_number("n_components", self.n_components, low=1, integer=True)

    def _fit(self, features: Tensor, labels: Tensor | None, logits: Tensor) -> dict[str, Tensor]:
        x = _flat(features)
        d = x.shape[1]
        keep = self.n_components
        if keep is None:
            keep = 1000 if d >= 2048 else 512 if d >= 768 else max(1, d // 2)
        if keep >= d:
            raise ValueError(f"n_components must be below the {d} features, got {keep}")
        design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        layer = torch.linalg.lstsq(design, logits, driver="gelsd").solution
        origin = -torch.linalg.pinv(layer[:-1].T) @ layer[-1]
        centred = x - origin
        basis = torch.linalg.eigh(centred.T @ centred / len(x)).eigenvectors
        residual = basis[:, : d - keep]
        norm = (centred @ residual).norm(dim=1).sum()
        scale = logits.amax(1).sum() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        return {"origin": origin, "residual": residual, "scale": scale.reshape(1)}

    def _score(self, features: Tensor, logits: Tensor) -> Tensor:
        s = self.state_
        outside = ((_flat(features) - s["origin"]) @ s["residual"]).norm(dim=1)
        return s["scale"] * outside - torch.logsumexp(logits, 1)
