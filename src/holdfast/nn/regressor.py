"""Neural regressors: real targets, standardised for training and given back on their own scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn

from holdfast.core.estimator import Regressor
from holdfast.nn.learner import NeuralEstimator, learner

__all__ = ["NeuralRegressor"]


class _Rescaled(nn.Module):
    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[:, 0] * self.std + self.mean


@learner
class NeuralRegressor(NeuralEstimator, Regressor):
    """A neural regressor on standardised targets; by itself it minimises the mean squared error."""

    @staticmethod
    def _sample_loss(outputs: Float[Tensor, "batch 1"], targets: Float[Tensor, " batch"]) -> Tensor:
        return (outputs[:, 0] - targets) ** 2

    def _encode_targets(self, y: Any) -> tuple[Tensor, int, tuple[int, ...]]:
        y = column_or_1d(np.asarray(y), warn=True).astype(np.float64)
        if not np.isfinite(y).all():
            raise ValueError(f"y must be finite, but row {int(np.argmin(np.isfinite(y)))} is not (NaN or infinity)")
        self.target_mean_ = float(y.mean())
        self.target_std_ = float(y.std()) or 1.0
        scaled = (y - self.target_mean_) / self.target_std_
        return torch.from_numpy(scaled.astype(np.float32)), 1, ()

    def predict(self, X: Any) -> np.ndarray:
        """Return predicted values of shape (n,)."""
        encoded = self._encode_input(X)
        outputs = self._outputs(self.network_, encoded)[:, 0].double().numpy()
        return outputs * self.target_std_ + self.target_mean_

    def _serving_module(self) -> nn.Module:
        return _Rescaled(self.network_, self.target_mean_, self.target_std_)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state, tensors = super()._get_state()
        return state | {"target": [self.target_mean_, self.target_std_]}, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        self.target_mean_, self.target_std_ = state["target"]
        super()._set_state(state, tensors, **objects)
