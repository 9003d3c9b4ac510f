"""What everything that fits has in common: scikit-learn's conventions, environments as metadata, saving."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from torch import Tensor

__all__ = ["Classifier", "Estimator", "Regressor", "decode_array", "encode_array"]


class Estimator(BaseEstimator):
    """Base of everything that fits.

    scikit-learn's rules hold: the constructor only stores hyper-parameters, what is learned ends in an underscore,
    and ``fit`` returns ``self``. Environments travel as metadata (``environment=``), so ``Pipeline``,
    ``cross_val_score`` and ``GridSearchCV`` route them after ``set_fit_request(environment=True)``.

    A subclass states its fitted state as JSON plus tensors (:meth:`_get_state`, :meth:`_set_state`); that is all
    :meth:`save` writes and all loading reads, so a model file can never run code.
    """

    @abstractmethod
    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the fitted state: JSON-ready values and named tensors."""

    @abstractmethod
    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        """Restore what :meth:`_get_state` returned."""

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator to ``path`` as safetensors and JSON; see :func:`holdfast.core.saving.save`."""
        from holdfast.core.saving import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path, **objects: Any) -> Self:
        """Read an estimator of this class from ``path``.

        Raises:
            TypeError: when the file holds an estimator of another class.
        """
        from holdfast.core.saving import load

        loaded = load(path, classes=(cls,), **objects)
        if not isinstance(loaded, cls):
            raise TypeError(f"{path} holds a {type(loaded).__name__}, not a {cls.__name__}")
        return loaded


class Classifier(ClassifierMixin, TransformerMixin, Estimator):
    """An estimator that predicts class probabilities and exposes its representation."""

    classes_: np.ndarray

    @abstractmethod
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities of shape (n, n_classes), columns in the order of ``classes_``."""

    @abstractmethod
    def transform(self, X: Any) -> np.ndarray:
        """Return the representation of every sample, shape (n, d)."""

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of every sample."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    @abstractmethod
    def export(self, path: str | Path, format: Literal["torch_export", "onnx"] = "torch_export") -> Path:
        """Write the model for serving, without Python code of this library."""


class Regressor(RegressorMixin, TransformerMixin, Estimator):
    """An estimator that predicts real values and exposes its representation."""

    @abstractmethod
    def predict(self, X: Any) -> np.ndarray:
        """Return predicted values of shape (n,)."""

    @abstractmethod
    def transform(self, X: Any) -> np.ndarray:
        """Return the representation of every sample, shape (n, d)."""


def own_module(role: str, described: dict[str, str], given: Any) -> Any:
    """Return the module of the user's own that a file describes and does not hold, or say how to give it."""
    if given is None:
        (name,) = described.values()
        raise ValueError(f"this model was fitted with your own {role} {name}; pass load(path, backbone=...)")
    return given


def encode_array(a: np.ndarray) -> dict[str, Any]:
    """Return a JSON-ready form of a small array of numbers, booleans or strings.

    Examples:
        >>> encode_array(np.array(["cat", "dog"]))["values"]
        ['cat', 'dog']
    """
    return {"dtype": "object" if a.dtype == object else a.dtype.str, "values": a.tolist()}


def decode_array(d: dict[str, Any]) -> np.ndarray:
    """Undo :func:`encode_array`."""
    return np.array(d["values"], dtype=np.dtype(d["dtype"]))
