"""The scores of a cell: classification, calibration, and how much of the environment a representation keeps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from holdfast.metrics.calibration import expected_calibration_error, reliability_curve
from holdfast.metrics.classification import accuracy, balanced_accuracy, brier, macro_f1, nll

__all__ = ["calibration_points", "classification_scores", "environment_probe"]


def classification_scores(p: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Return every score of probabilities ``p`` for class codes ``labels``.

    Example:
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
    p: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], n_bins: int = 10
) -> list[list[float]]:
    """Return the reliability curve as ``[confidence, accuracy, samples]`` for every bin that is not empty.

    Example:
        >>> calibration_points(np.array([[0.9, 0.1], [0.7, 0.3]]), np.array([0, 1]), n_bins=2)
        [[0.8, 0.5, 2]]
    """
    curve = reliability_curve(labels, p, n_bins)
    return [[round(float(c), 5), round(float(a), 5), int(n)] for c, a, n in zip(*curve)]


def environment_probe(
    z: Float[np.ndarray, "n d"],
    environment: Shaped[np.ndarray, " n"],
    z_test: Float[np.ndarray, "m d"],
    environment_test: Shaped[np.ndarray, " m"],
) -> dict[str, float]:
    """Return how often a logistic regression on ``z`` tells the environment of ``z_test``, and the largest share.

    Accuracy above chance means that the representation still says where a sample comes from.

    Example:
        >>> z, e = np.array([[-1.0], [1.0]] * 20), np.array(["A", "B"] * 20)
        >>> environment_probe(z, e, z, e)
        {'accuracy': 1.0, 'chance': 0.5}
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(z, environment)
    largest = np.unique(environment_test, return_counts=True)[1].max()
    return {
        "accuracy": accuracy(environment_test, probe.predict(z_test)),
        "chance": float(largest / len(environment_test)),
    }
