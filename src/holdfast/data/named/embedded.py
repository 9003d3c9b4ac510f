"""Data sets that ship with scikit-learn: one environment each, ready for shifts to be made."""

from __future__ import annotations

from typing import Any

import numpy as np

from holdfast.data.environments import Environments
from holdfast.data.named.files import Get

__all__ = ["breast_cancer", "diabetes", "iris", "sklearn_digits", "wine"]


def sklearn_digits(get: Get) -> Environments:
    """1,797 digits of 8 by 8 pixels, grey levels 0 to 1."""
    from sklearn.datasets import load_digits

    d: Any = load_digits()
    return Environments.from_arrays((d.images[:, None] / 16).astype(np.float32), d.target, kind="image")


def iris(get: Get) -> Environments:
    """150 flowers of three species: four lengths in cm."""
    from sklearn.datasets import load_iris

    d: Any = load_iris()
    return Environments.from_arrays(d.data, d.target_names[d.target])


def wine(get: Get) -> Environments:
    """178 wines of three cultivars: 13 chemical measurements."""
    from sklearn.datasets import load_wine

    d: Any = load_wine()
    return Environments.from_arrays(d.data, d.target_names[d.target])


def breast_cancer(get: Get) -> Environments:
    """569 tumours, malignant or benign: 30 measurements of cell nuclei."""
    from sklearn.datasets import load_breast_cancer

    d: Any = load_breast_cancer()
    return Environments.from_arrays(d.data, d.target_names[d.target])


def diabetes(get: Get) -> Environments:
    """442 patients: progression of diabetes after one year (regression) from ten measurements."""
    from sklearn.datasets import load_diabetes

    d: Any = load_diabetes()
    return Environments.from_arrays(d.data, d.target.astype(np.float64))
