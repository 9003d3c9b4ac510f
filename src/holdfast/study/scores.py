"""The scores of a cell: classification and calibration."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from holdfast.metrics.calibration import expected_calibration_error, reliability_curve
from holdfast.metrics.classification import accuracy, balanced_accuracy, brier, macro_f1, nll

__all__ = ["calibration_points", "classification_scores"]


def classification_scores(
    p: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
) -> dict[str, float]:
    """Return every score of probabilities ``p`` for class codes ``labels``.

    Examples:
        >>> classification_scores(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]))["accuracy"]
        1.0
    """
    said = p.argmax(1)
    return {
        "n": len(labels),
        "accuracy": accuracy(labels, said),
        "balanced_accuracy": balanced_accuracy(labels, said),
        "macro_f1": macro_f1(labels, said),
        "nll": nll(labels, p),
        "brier": brier(labels, p),
        "ece": expected_calibration_error(labels, p),
    }


def calibration_points(
    p: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    n_bins: int = 10,
) -> list[list[float]]:
    """Return the reliability curve as ``[confidence, accuracy, samples]`` for every bin that is not empty.

    Examples:
        >>> calibration_points(np.array([[0.9, 0.1], [0.7, 0.3]]), np.array([0, 1]), n_bins=2)
        [[0.8, 0.5, 2]]
    """
    curve = reliability_curve(labels, p, n_bins)
    return [[round(float(c), 5), round(float(a), 5), int(n)] for c, a, n in zip(*curve)]
