"""A classifier whose representation can be cut to any of several lengths, and that can decide how much it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.core.checks import check_same_length
from holdfast.core.inputs import Encoded
from holdfast.core.training import StepInfo
from holdfast.nn import Batch, FitContext, NeuralClassifier, learner
from holdfast.nn.matryoshka import MatryoshkaHead, check_dims, nesting_dims
from holdfast.nn.network import Network
from holdfast.representation.cascade import AdaptiveCascade
from holdfast.representation.matryoshka import MatryoshkaLoss, PrefixCrossEntropy

__all__ = ["MatryoshkaClassifier"]


class _FullSizeHead(MatryoshkaHead):
    """Nested heads of which a plain call answers by the longest."""

    def forward(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        return self.logits(z, self.dims[-1])


def _nested(network: Network) -> MatryoshkaHead:
    return cast("MatryoshkaHead", network.head)


class _NestedObjective(nn.Module):
    def __init__(self, weights: tuple[float, ...] | None) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, network: Network, batch: Batch, info: StepInfo) -> Mapping[str, Tensor]:
        head = _nested(network)
        loss = MatryoshkaLoss(PrefixCrossEntropy(head), head.dims, self.weights)
        return {"loss": loss(network.features(batch.x), batch.y)}


@learner
class MatryoshkaClassifier(NeuralClassifier):
    r"""Cross-entropy at every prefix length of one representation.

    .. math:: \min_\theta \frac1n \sum_i \sum_{m \in M} c_m\, \ell\big(W^{(m)} F_\theta(x_i)_{1:m} + b^{(m)}, y_i\big)

    ``transform`` returns the nested representation: its first *m* entries are a good representation too.
    ``predict`` reads all of it, ``predict_at`` a prefix, and ``predict_adaptive`` as much as each sample needs, by
    an :class:`~holdfast.representation.AdaptiveCascade` fitted on held-out rows: those of ``validation_fraction``,
    or others given to :meth:`fit_cascade`.

    Attributes:
        dims_: prefix lengths :math:`M`.
        cascade_: the fitted cascade, or ``None``.

    Raises:
        ValueError: for a wrong nesting list, a length that was not trained, or adaptive prediction without a cascade.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Equation 1 and Section 4.2.1.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> model = MatryoshkaClassifier(dims=(4, 8, 16), epochs=40, lr=1e-2, random_state=0).fit(x, y)
        >>> model.transform(x).shape, model.predict_at(x, 4).shape
        ((150, 16), (150,))
        >>> model.score(x, y) > 0.9
        True
    """

    dims: tuple[int, ...] | None = None
    """Prefix lengths, the last one the whole; doubling from 8 to the backbone's width by default. A linear layer
    brings the backbone to another full length."""
    efficient: bool = False
    """Tie the heads' weights: less memory, logits at any length, a little less accuracy at short ones."""
    length_weights: tuple[float, ...] | None = None
    """Weights :math:`c_m`, one per length; all one by default."""

    def _dims(self, context: FitContext) -> tuple[int, ...]:
        if self.dims is None:
            return tuple(nesting_dims(context.width, min(8, context.width)))
        return check_dims(self.dims)

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        dims = self._dims(context)
        if dims[-1] != context.width:
            encoder = nn.Sequential(encoder, nn.Linear(context.width, dims[-1]))
        return Network(encoder, _FullSizeHead(dims, context.n_outputs, self.efficient))

    def _make_objective(self, context: FitContext) -> nn.Module:
        # Refuse wrong weights before the first step.
        MatryoshkaLoss(torch.sum, self._dims(context), self.length_weights)
        return _NestedObjective(self.length_weights)

    def _after_fit(self, encoded: Encoded, targets: Tensor, groups: Tensor, seed: int) -> None:
        self.cascade_: AdaptiveCascade | None = None
        held = self._validation_rows(len(encoded))
        if len(held):
            self._fit_cascade(self._outputs(self.network_, encoded, held, self.network_.features), targets[held])

    @property
    def dims_(self) -> tuple[int, ...]:
        check_is_fitted(self, "network_")
        return _nested(self.network_).dims

    def fit_cascade(self, X: Any, y: Any, grid: int = 100) -> MatryoshkaClassifier:
        """Choose the cascade's thresholds on samples that did not train the network.

        Raises:
            ValueError: for labels that were not seen in training, or lengths that differ.
        """
        check_same_length(X=X, y=y)
        z = self._features(X)
        y = np.asarray(y)
        unknown = ~np.isin(y, self.classes_)
        if unknown.any():
            raise ValueError(f"y holds a class that was not seen in training: {y[unknown][:1].tolist()[0]!r}")
        self._fit_cascade(z, torch.from_numpy(np.searchsorted(self.classes_, y)), grid)
        return self

    def predict_proba_at(self, X: Any, m: int) -> np.ndarray:
        """Return class probabilities from the first ``m`` entries of the representation."""
        return self._proba_at(self._features(X), m).numpy()

    def predict_at(self, X: Any, m: int) -> np.ndarray:
        """Return the class that the first ``m`` entries of the representation say."""
        return self.classes_[self.predict_proba_at(X, m).argmax(1)]

    def predict_adaptive(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return classes, and how many entries of the representation each sample needed.

        Raises:
            ValueError: without a cascade: fit with ``validation_fraction``, or call :meth:`fit_cascade`.
        """
        z = self._features(X)
        if self.cascade_ is None:
            raise ValueError("no cascade was fitted: set validation_fraction, or call fit_cascade on held-out data")
        chosen = self.cascade_.predict(self._all_probabilities(z))
        return self.classes_[chosen.labels.numpy()], chosen.costs.numpy().astype(np.int64)

    def _features(self, X: Any) -> Tensor:
        return self._outputs(self.network_, self._encode_input(X), function=self.network_.features)

    @torch.no_grad()
    def _proba_at(self, z: Tensor, m: int) -> Tensor:
        head = _nested(self.network_)
        return head.logits(z.to(next(head.parameters()).device), m).softmax(1).cpu()

    def _all_probabilities(self, z: Tensor) -> Tensor:
        return torch.stack([self._proba_at(z, m) for m in self.dims_])

    def _fit_cascade(self, z: Tensor, targets: Tensor, grid: int = 100) -> None:
        self.cascade_ = AdaptiveCascade(self.dims_).fit(self._all_probabilities(z), targets, grid)

    def _extra_state(self) -> dict[str, Any]:
        return {"thresholds": None if self.cascade_ is None else list(self.cascade_.thresholds_ or ())}

    def _set_extra_state(self, extra: dict[str, Any]) -> None:
        self.cascade_ = None
        if extra["thresholds"] is not None:
            self.cascade_ = AdaptiveCascade(self._dims(self.context_))
            self.cascade_.thresholds_ = tuple(extra["thresholds"])
