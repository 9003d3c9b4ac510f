"""Neural classifiers: labels in, class probabilities out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn

from holdfast.core.estimator import Classifier, decode_array, encode_array
from holdfast.nn.learner import NeuralEstimator, learner

__all__ = ["NeuralClassifier"]


class _Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(-1)


@learner
class NeuralClassifier(NeuralEstimator, Classifier):
    """A neural classifier; by itself it minimises the mean cross-entropy."""

    @staticmethod
    def _sample_loss(outputs: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def _score(self, outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    def _encode_targets(self, y: Any) -> tuple[Tensor, int, tuple[int, ...]]:
        y = column_or_1d(np.asarray(y), warn=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {self.classes_.tolist()}")
        counts = tuple(np.bincount(codes).tolist())
        return torch.from_numpy(codes.astype(np.int64)), len(self.classes_), counts

    def decision_function(self, X: Any) -> np.ndarray:
        """Return logits of shape (n, classes), or (n,) differences for two classes."""
        encoded = self._encode_input(X)
        logits = self._outputs(self.network_, encoded).numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities of shape (n, classes)."""
        encoded = self._encode_input(X)
        return self._outputs(self.network_, encoded).softmax(1).numpy()

    def _serving_module(self) -> nn.Module:
        return _Probabilities(self.network_)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state, tensors = super()._get_state()
        return state | {"classes": encode_array(self.classes_)}, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        self.classes_ = decode_array(state["classes"])
        super()._set_state(state, tensors, **objects)
