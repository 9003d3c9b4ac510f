"""Gaussians per class, and per group of features: densities, Mahalanobis distances and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_labels, check_number
from holdfast.metrics._inputs import as_float
from holdfast.metrics._scatter import ENTRIES, by_class, checked_cholesky, ledoit_wolf_weight

__all__ = ["ClassGroupGaussians", "aggregate_mahalanobis"]


class ClassGroupGaussians:
    r"""Class-conditional Gaussians :math:`\mathcal N(m_{ck}, S_{ck})`, one for each class and group of features.

    A sample is ``K`` groups of ``d`` features; with one group it is the classical class-conditional Gaussian, with
    a covariance per class or one that all classes share (``tied``). All is computed in float64 through Cholesky
    factors, for all classes and groups at once.

    Attributes:
        means: ``(C, K, d)``.
        scale_tril: lower Cholesky factors of the covariances, ``(C, K, d, d)``, or ``(1, K, d, d)`` when tied.
        counts: ``(C,)`` samples per class.
        shrinkage: ``(C or 1, K)`` weight given to the scaled identity.

    Source: Lee, Lee, Lee and Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", NeurIPS 2018, eq. 2 (tied); groups of features: Li et al., "Hierarchical Visual
    Categories Modeling: A Joint Representation Learning and Density Estimation Framework for Out-of-Distribution
    Detection", ICCV 2023.

    Examples:
        >>> import torch
        >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> y = torch.arange(200) % 2
        >>> model = ClassGroupGaussians().fit(x, y)
        >>> model.mahalanobis(x).shape
        torch.Size([200, 2, 1])
        >>> own = model.mahalanobis(x)[torch.arange(200), y, 0].mean()  # d (n - 1) / n
        >>> round(float(own), 6)
        2.97
    """

    means: Float[Tensor, "classes groups dim"]
    scale_tril: Float[Tensor, "covariances groups dim dim"]
    counts: Int[Tensor, " classes"]
    shrinkage: Float[Tensor, "covariances groups"]

    def __init__(self) -> None:
        self._grouped: bool | None = None

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        shrinkage: Literal["none", "ledoit_wolf"] | float = "none",
        ddof: int = 1,
        tied: bool = False,
        n_classes: int | None = None,
    ) -> ClassGroupGaussians:
        r"""Estimate means and covariances.

        Shrinkage :math:`\rho` gives :math:`(1 - \rho) S + \rho\, \mathrm{tr}(S)/d\; I`.

        Args:
            x: ``(n, K, d)``, or ``(n, d)`` for one group.
            y: ``(n,)`` class indices ``0 .. C-1``, each class present.
            shrinkage: ``"none"``, a number in ``[0, 1]``, or ``"ledoit_wolf"``: the asymptotically optimal weight,
                found for each class and group (Ledoit and Wolf, "A Well-Conditioned Estimator for
                Large-Dimensional Covariance Matrices", J. Multivariate Analysis 2004).
            ddof: 1 divides the scatter by ``n_c - 1`` (by ``n - C`` when tied), 0 by ``n_c`` (``n``).
            tied: one covariance for all classes, around each class's own mean.
            n_classes: ``C``; by default the largest label plus one.

        Raises:
            ValueError: for a class without samples, fewer than ``d + 1`` samples in a class without shrinkage, a
                singular covariance (class and group are named), or input that is not finite.
        """
        data = as_float("x", x)
        if data.ndim not in (2, 3):
            raise ValueError(f"x must have shape (n, groups, d) or (n, d), got {tuple(data.shape)}")
        grouped = data.ndim == 3
        data = data if grouped else data[:, None]
        labels = torch.as_tensor(y).to(data.device)
        if labels.ndim == 1 and len(labels) != len(data):
            raise ValueError(f"x has {len(data)} rows but y has {len(labels)} labels")
        if n_classes is None:
            n_classes = max(int(labels.max()), 0) + 1  # an all-negative y is named below
        check_number("n_classes", n_classes, low=1, integer=True)
        check_labels("y", labels, n_classes)
        check_choice("ddof", ddof, [0, 1])
        if isinstance(shrinkage, str):
            check_choice("shrinkage", shrinkage, ["none", "ledoit_wolf"])
        else:
            check_number("shrinkage", shrinkage, low=0, high=1)
        _, k, d = data.shape
        labels = labels.long()
        counts = torch.bincount(labels, minlength=n_classes)
        self._check_counts(counts, d, ddof, tied, free=shrinkage == "none" or shrinkage == 0)

        sums = data.new_zeros(len(counts), k, d).index_add_(0, labels, data)
        means = sums / counts[:, None, None]
        # A second pass removes the rounding error of means that are far from zero.
        rest = data.new_zeros(len(counts), k, d).index_add_(0, labels, data - means[labels])
        means = means + rest / counts[:, None, None]
        residual = data - means[labels]
        if tied:
            scatter = torch.einsum("nki,nkj->kij", residual, residual)[None]
            fourth = residual.square().sum(2).square().sum(0)[None]
            size, dof = counts.sum()[None], (counts - ddof).sum()[None]
        else:
            scatter = data.new_empty(len(counts), k, d, d)
            for chosen, rows, mask in by_class(labels, counts, k * d):
                block = (residual[rows] * mask[..., None, None]).transpose(1, 2)
                scatter[chosen] = block.mT @ block
            fourth = data.new_zeros(len(counts), k).index_add_(0, labels, residual.square().sum(2).square())
            size, dof = counts, counts - ddof
        if shrinkage == "ledoit_wolf":
            rho = ledoit_wolf_weight(scatter, fourth, size)
        else:
            rho = scatter.new_full(scatter.shape[:2], 0.0 if shrinkage == "none" else float(shrinkage))
        covariance = scatter / dof[:, None, None, None]
        scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        covariance = covariance * (1 - rho)[..., None, None]
        covariance.diagonal(dim1=-2, dim2=-1).add_((rho * scale)[..., None])
        self.means, self.counts, self.shrinkage, self._grouped = means, counts, rho, grouped
        self.scale_tril = checked_cholesky(covariance, tied)
        return self

    @property
    def tied(self) -> bool:
        """Whether all classes share the covariance."""
        return self._shape()[0] > 1 and len(self.scale_tril) == 1

    @property
    def covariance(self) -> Float[Tensor, "covariances groups dim dim"]:
        """Covariances, ``(C, K, d, d)`` or ``(1, K, d, d)`` when tied."""
        self._shape()
        return self.scale_tril @ self.scale_tril.mT

    def mahalanobis(self, x: Any) -> Float[Tensor, "n classes groups"]:
        r"""Squared Mahalanobis distances :math:`(x_k - m_{ck})^\top S_{ck}^{-1} (x_k - m_{ck})`, ``(n, C, K)``.

        Raises:
            ValueError: for features of another shape than those fitted.
        """
        data = self._features(x)
        c, k, d = self._shape()
        out = data.new_empty(len(data), c, k)
        step = max(1, ENTRIES // (c * k * d))
        shared = len(self.scale_tril) == 1
        center = self.means.mean(0, keepdim=True)
        whitened_means = self._whiten(self.means - center)  # used only where one factor serves all classes
        for start in range(0, len(data), step):
            block = data[start : start + step]
            if shared:
                z = self._whiten(block - center)[:, None] - whitened_means
            else:
                difference = (block[:, None] - self.means).permute(1, 2, 3, 0)
                z = torch.linalg.solve_triangular(self.scale_tril, difference, upper=False).permute(3, 0, 1, 2)
            out[start : start + step] = z.square().sum(-1)
        return out

    def log_prob(self, x: Any) -> Float[Tensor, "n classes groups"]:
        r"""Log densities :math:`\log \mathcal N(x_k; m_{ck}, S_{ck})`, ``(n, C, K)``."""
        distance = self.mahalanobis(x)
        half_log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (distance + self._shape()[2] * math.log(2 * math.pi)) - half_log_det

    def sample(self, c: int, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n *features"]:
        """Draw ``n`` samples of class ``c`` in the shape of the fitted features."""
        classes, k, d = self._shape()
        check_number("c", c, low=0, high=classes - 1, integer=True)
        check_number("n", n, low=0, integer=True)
        device = self.means.device
        eps = torch.randn(n, k, d, dtype=torch.float64, generator=generator, device=device)
        factor = self.scale_tril[c if len(self.scale_tril) > 1 else 0]
        draws = self.means[c] + torch.einsum("kij,nkj->nki", factor, eps)
        return draws if self._grouped else draws[:, 0]

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all fitted state as tensors, for :meth:`from_tensors` and safetensors files."""
        self._shape()
        return {
            "means": self.means,
            "scale_tril": self.scale_tril,
            "counts": self.counts,
            "shrinkage": self.shrinkage,
            "grouped": torch.tensor(bool(self._grouped)),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ClassGroupGaussians:
        """Rebuild a fitted model from :meth:`to_tensors`.

        Raises:
            ValueError: for a missing entry or shapes that do not agree.
        """
        names = ("means", "scale_tril", "counts", "shrinkage", "grouped")
        missing = [n for n in names if n not in tensors]
        if missing:
            raise ValueError(f"tensors lack {', '.join(missing)}; expected {', '.join(names)}")
        model = cls()
        model.means = as_float("means", tensors["means"], ndim=3)
        model.scale_tril = as_float("scale_tril", tensors["scale_tril"], ndim=4)
        model.shrinkage = as_float("shrinkage", tensors["shrinkage"], ndim=2)
        model.counts = tensors["counts"]
        c, k, d = model.means.shape
        if tuple(model.scale_tril.shape) not in {(c, k, d, d), (1, k, d, d)}:
            raise ValueError(
                f"scale_tril must have shape {(c, k, d, d)} or {(1, k, d, d)}, got {tuple(model.scale_tril.shape)}"
            )
        model._grouped = bool(tensors["grouped"])
        return model

    def _shape(self) -> tuple[int, int, int]:
        if self._grouped is None:
            raise RuntimeError("this ClassGroupGaussians is not fitted yet; call fit first")
        c, k, d = self.means.shape
        return c, k, d

    def _features(self, x: Any) -> Tensor:
        _, k, d = self._shape()
        data = as_float("x", x).to(self.means.device)
        expected = (k, d) if self._grouped else (d,)
        if tuple(data.shape[1:]) != expected:
            raise ValueError(f"x must have shape (n, {', '.join(map(str, expected))}), got {tuple(data.shape)}")
        return data if self._grouped else data[:, None]

    def _whiten(self, x: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(self.scale_tril[0], x.permute(1, 2, 0), upper=False)
        return z.permute(2, 0, 1)

    @staticmethod
    def _check_counts(counts: Tensor, d: int, ddof: int, tied: bool, free: bool) -> None:
        advice = "use shrinkage='ledoit_wolf', fewer features, or tied=True"
        if bool((counts == 0).any()):
            raise ValueError(f"class {int((counts == 0).nonzero()[0])} has no samples; every class below C needs some")
        if tied:
            n, c = int(counts.sum()), len(counts)
            if n - c < (d if free else 1):
                need = c + (d if free else 1)
                raise ValueError(
                    f"a tied covariance of {d} features over {c} classes needs at least {need} samples, got {n}; "
                    "use shrinkage='ledoit_wolf' or fewer features"
                )
            return
        need = d + 1 if free else 1 + ddof
        if bool((counts < need).any()):
            i = int((counts < need).nonzero()[0])
            raise ValueError(
                f"class {i} has {int(counts[i])} samples, but a covariance of {d} features "
                f"{'without shrinkage ' if free else ''}needs at least {need}; {advice}"
            )


def aggregate_mahalanobis(
    dist: Any, weights: Any, reduce_classes: Literal["min", "logsumexp"] = "min"
) -> Float[Tensor, " n"]:
    r"""Score of how far a sample is from every class; higher is further.

    .. math:: D_c = \sum_k w_{ck}\, \tfrac12\, \mathrm{dist}_{ck},\qquad
              s = \min_c D_c \quad\text{or}\quad s = -\log \sum_c e^{-D_c}

    Args:
        dist: ``(n, C, K)`` squared distances, from :meth:`ClassGroupGaussians.mahalanobis`.
        weights: ``(C, K)``, non-negative.
        reduce_classes: ``"min"``, or ``"logsumexp"`` for the soft minimum (never above the minimum).

    Source: Li et al., "Hierarchical Visual Categories Modeling: A Joint Representation Learning and Density
    Estimation Framework for Out-of-Distribution Detection", ICCV 2023 (``"min"``).

    Examples:
        >>> aggregate_mahalanobis([[[2.0, 4.0], [8.0, 8.0]]], [[0.5, 0.5], [0.5, 0.5]]).tolist()
        [1.5]
    """
    check_choice("reduce_classes", reduce_classes, ["min", "logsumexp"])
    d = as_float("dist", dist, ndim=3)
    w = as_float("weights", weights, ndim=2).to(d.device)
    if w.shape != d.shape[1:]:
        raise ValueError(f"weights must have shape {tuple(d.shape[1:])}, got {tuple(w.shape)}")
    if bool((w < 0).any()):
        raise ValueError(f"weights must be non-negative, got {float(w.min())}")
    per_class = 0.5 * torch.einsum("nck,ck->nc", d, w)
    return per_class.amin(1) if reduce_classes == "min" else -torch.logsumexp(-per_class, 1)
