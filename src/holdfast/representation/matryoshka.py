"""Training losses that make every prefix of an embedding useful, and the two ways to shorten one that was not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_labels, check_number
from holdfast.core.random import seed_from
from holdfast.nn.matryoshka import MatryoshkaHead, check_dims, truncate_embed

__all__ = ["MatryoshkaLoss", "MatryoshkaPairLoss", "PCATruncator", "PrefixCrossEntropy", "RandomSubset"]


class PrefixCrossEntropy(nn.Module):
    """Cross-entropy of a :class:`~holdfast.nn.MatryoshkaHead` on a prefix whose length says which head reads it.

    The base loss of classification for :class:`MatryoshkaLoss`.

    Raises:
        ValueError: for a label outside [0, n_out) or a prefix length without a head.

    Examples:
        >>> head = MatryoshkaHead([2, 4], n_out=3)
        >>> loss = MatryoshkaLoss(PrefixCrossEntropy(head), head.dims)
        >>> loss(torch.zeros(5, 4), torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([])
    """

    def __init__(self, head: MatryoshkaHead, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.head = head
        self.label_smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1, open_high=True)

    def forward(self, prefix: Float[Tensor, "batch m"], y: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        check_labels("y", y, self.head.n_out)
        logits = self.head.logits(prefix, prefix.shape[1])
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)


class MatryoshkaLoss(nn.Module):
    r"""Any loss on embeddings, summed over nested prefixes.

    .. math:: L(z, \dots) = \sum_{m \in M} c_m\, \ell\big(z_{1:m}, \dots\big)

    With ``normalize`` each prefix is divided by its own norm before :math:`\ell` sees it. Terms of weight zero are
    not computed. The sum grows with the number of lengths, and a learning rate tuned for one loss may be too high
    for it; ``reduction="mean"`` divides by :math:`|M|`.

    Args:
        base_loss: ``(prefix, *args) -> scalar``: a contrastive, triplet or squared loss, or
            :class:`PrefixCrossEntropy`. A module's parameters are trained along.
        dims: prefix lengths :math:`M`, strictly increasing. Start where the length is at least about the logarithm
            of the number of classes: shorter ones cost the longer ones accuracy.
        weights: :math:`c_m`, not negative, one per length; all one by default.
        normalize: L2-normalise each prefix.
        reduction: ``"sum"`` or ``"mean"`` over lengths.
        embeddings: how many leading arguments are embeddings and are cut, e.g. 3 for anchor, positive, negative.

    Raises:
        ValueError: for a wrong nesting list, weights of another length or negative, embeddings shorter than
            ``max(dims)``, or a prefix of norm zero where normalised (named by its row).

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Equation 1.

    Examples:
        >>> loss = MatryoshkaLoss(nn.MSELoss(), dims=[1, 2], embeddings=2)
        >>> loss(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))     # 1 + (1 + 9) / 2
        tensor(6.)
    """

    def __init__(
        self,
        base_loss: Callable[..., Tensor],
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        normalize: bool = False,
        reduction: Literal["sum", "mean"] = "sum",
        embeddings: int = 1,
    ) -> None:
        super().__init__()
        self.base_loss = base_loss
        self.dims = check_dims(dims)
        weights = [1.0] * len(self.dims) if weights is None else list(weights)
        if len(weights) != len(self.dims):
            raise ValueError(f"weights must hold one value per length: {len(self.dims)}, got {len(weights)}")
        self.weights = tuple(float(check_number(f"weights[{i}]", c, low=0)) for i, c in enumerate(weights))
        if not any(self.weights) or not all(map(math.isfinite, self.weights)):
            raise ValueError(f"weights must be finite and not all zero, got {list(self.weights)}")
        self.normalize = normalize
        self.reduction = check_choice("reduction", reduction, ["sum", "mean"])
        self.embeddings = int(check_number("embeddings", embeddings, low=1, integer=True))

    def terms(self, z: Float[Tensor, "batch dim"], *args: Any) -> dict[int, Float[Tensor, ""]]:
        """Return the unweighted loss of every length whose weight is not zero."""
        towers, rest = (z, *args[: self.embeddings - 1]), args[self.embeddings - 1 :]
        if len(towers) < self.embeddings:
            raise ValueError(f"the loss needs {self.embeddings} embeddings, got {len(towers)} arguments")
        for i, tower in enumerate(towers):
            if tower.ndim < 2 or tower.shape[-1] < self.dims[-1]:
                raise ValueError(
                    f"embedding {i} must have shape (batch, at least {self.dims[-1]}), got {tuple(tower.shape)}"
                )
            if tower.shape[-1] != z.shape[-1]:
                raise ValueError(f"embeddings differ in length: {z.shape[-1]} and {tower.shape[-1]}")
        return {
            m: self.base_loss(*(truncate_embed(t, m, self.normalize) for t in towers), *rest)
            for m, c in zip(self.dims, self.weights)
            if c
        }

    def forward(self, z: Float[Tensor, "batch dim"], *args: Any) -> Float[Tensor, ""]:
        """Return the weighted sum (or mean) over prefix lengths."""
        weight = dict(zip(self.dims, self.weights))
        total = torch.stack([weight[m] * term for m, term in self.terms(z, *args).items()]).sum()
        return total / len(self.dims) if self.reduction == "mean" else total


class MatryoshkaPairLoss(MatryoshkaLoss):
    r"""A two-tower loss, such as InfoNCE, on equally long prefixes of both towers, each normalised by itself.

    .. math:: L(z, z') = \sum_{m \in M} c_m\, \ell\big(z_{1:m}/|z_{1:m}|,\; z'_{1:m}/|z'_{1:m}|\big)

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Section 3.

    Examples:
        >>> loss = MatryoshkaPairLoss(nn.MSELoss(), dims=[1, 2])
        >>> z = torch.tensor([[3.0, 4.0]])
        >>> bool(loss(z, 5 * z) < 1e-12)
        True
    """

    def __init__(
        self,
        base_loss: Callable[..., Tensor],
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        normalize: bool = True,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(base_loss, dims, weights, normalize, reduction, embeddings=2)


class PCATruncator(TransformerMixin, BaseEstimator):
    """Shorten embeddings that were not trained for it: keep the leading principal components.

    Args:
        n_components: longest length that will be asked for.
        random_state: seed of the randomised solver that large matrices use.

    Raises:
        ValueError: for a length beyond ``n_components``.

    Examples:
        >>> z = np.random.default_rng(0).normal(size=(50, 8))
        >>> PCATruncator(4).fit(z).transform(z, 2).shape
        (50, 2)
    """

    def __init__(self, n_components: int, random_state: int | None = 0) -> None:
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, Z: Float[np.ndarray, "n d"], y: Any = None) -> Self:
        """Find the principal components of ``Z``."""
        check_number("n_components", self.n_components, low=1, high=min(np.shape(Z)), integer=True)
        self.pca_ = PCA(self.n_components, random_state=self.random_state).fit(np.asarray(Z))
        return self

    def transform(self, Z: Float[np.ndarray, "n d"], m: int | None = None) -> Float[np.ndarray, "n m"]:
        """Return the first ``m`` (default: all) component scores."""
        check_is_fitted(self, "pca_")
        m = self.n_components if m is None else m
        check_number("m", m, low=1, high=self.n_components, integer=True)
        return self.pca_.transform(np.asarray(Z))[:, :m]


class RandomSubset(TransformerMixin, BaseEstimator):
    """Shorten embeddings by keeping randomly chosen coordinates; the choices for two lengths are nested.

    Args:
        n_components: longest length that will be asked for.
        random_state: seed of the choice.

    Raises:
        ValueError: for a length beyond ``n_components``.

    Examples:
        >>> z = np.arange(12.0).reshape(2, 6)
        >>> RandomSubset(3, random_state=0).fit(z).transform(z).shape
        (2, 3)
    """

    def __init__(self, n_components: int, random_state: int | None = 0) -> None:
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, Z: Float[np.ndarray, "n d"], y: Any = None) -> Self:
        """Choose the coordinates."""
        d = np.shape(Z)[1]
        check_number("n_components", self.n_components, low=1, high=d, integer=True)
        rng = np.random.default_rng(seed_from(self.random_state))
        self.coordinates_ = rng.permutation(d)[: self.n_components]
        return self

    def transform(self, Z: Float[np.ndarray, "n d"], m: int | None = None) -> Float[np.ndarray, "n m"]:
        """Return the first ``m`` (default: all) chosen coordinates."""
        check_is_fitted(self, "coordinates_")
        m = self.n_components if m is None else m
        check_number("m", m, low=1, high=self.n_components, integer=True)
        return np.asarray(Z)[:, self.coordinates_[:m]]
