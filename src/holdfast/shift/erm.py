"""Empirical risk minimisation: the baseline that every method has to beat."""

from __future__ import annotations

from holdfast.nn import NeuralClassifier, NeuralRegressor, learner

__all__ = ["ERM", "ERMRegressor"]


@learner
class ERM(NeuralClassifier):
    r"""Empirical risk minimisation: the mean cross-entropy over all environments pooled.

    .. math:: \min_\theta \frac1n \sum_i \ell(f_\theta(x_i), y_i)

    Source: Vapnik, *Statistical Learning Theory*, 1998; as the baseline of domain generalisation, Gulrajani &
    Lopez-Paz, *In search of lost domain generalization*, ICLR 2021.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> model = ERM(epochs=40, lr=1e-2, random_state=0).fit(x, y)
        >>> model.score(x, y) > 0.9
        True
    """


@learner
class ERMRegressor(NeuralRegressor):
    """Empirical risk minimisation of the mean squared error, for real-valued targets.

    Examples:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 60)[:, None]
        >>> model = ERMRegressor(epochs=100, lr=1e-2, random_state=0).fit(x, 3 * x[:, 0])
        >>> model.score(x, 3 * x[:, 0]) > 0.9
        True
    """
