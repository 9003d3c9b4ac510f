"""Linear instrumental variables: two-stage least squares."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.causal.interventions.inputs import as_matrix, as_outcome
from holdfast.core.checks import check_same_length

__all__ = ["LinearEffect", "two_stage_least_squares"]


class LinearEffect(NamedTuple):
    """An outcome that is affine in a state which is affine in the action.

    Attributes:
        slope: (d,) effect of the state on the outcome.
        intercept: of the outcome.
        first_stage: (d, k) effect of the action on the state.
        first_intercept: (d,) of the state.
    """

    slope: Float[Tensor, " d"]
    intercept: float
    first_stage: Float[Tensor, "d k"]
    first_intercept: Float[Tensor, " d"]

    def predict_do(self, a: Any) -> Float[Tensor, " m"]:
        """Return ``E[Y | do(A = a)]``, a plane in a."""
        actions = as_matrix("a", a, columns=self.first_stage.shape[1])
        return (actions @ self.first_stage.T + self.first_intercept) @ self.slope + self.intercept


def affine_fit(y: Float[Tensor, "n d"], x: Float[Tensor, "n k"]) -> tuple[Tensor, Tensor]:
    """Return W (d, k) and the intercept (d,) of the least squares of ``y`` on ``[x, 1]``."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    W = torch.linalg.lstsq(x - mean_x, y - mean_y).solution.T
    return W, mean_y - W @ mean_x


def two_stage_least_squares(Z: Any, A: Any, Y: Any) -> LinearEffect:
    r"""Effect of a confounded state on an outcome, with randomised actions as instruments.

    .. math:: \hat\beta = \bigl(Z^\top P_A Z\bigr)^{-1} Z^\top P_A Y, \qquad P_A = A (A^\top A)^{-1} A^\top

    all centred. With as many actions as states it is also what a regression on the state and on its residual of the
    action gives (a linear control function).

    Args:
        Z: (n, d) state, or a code.
        A: (n, k) actions, k at least d.
        Y: (n,) outcomes.

    Raises:
        ValueError: for fewer actions than states, actions that do not move the state in every direction, or lengths
            that differ.

    Source: Theil, "Repeated least-squares applied to complete equation systems", 1953.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> a, v = torch.randn(2, 2000, 1, generator=rng)
        >>> z = a + v
        >>> effect = two_stage_least_squares(z, a, 2 * z[:, 0] + 3 * v[:, 0])
        >>> abs(float(effect.slope) - 2) < 0.3
        True
    """
    z, a, y = as_matrix("Z", Z), as_matrix("A", A), as_outcome(Y)
    check_same_length(Z=z, A=a, Y=y)
    d = z.shape[1]
    if a.shape[1] < d:
        raise ValueError(f"{d} states need at least {d} actions as instruments, got {a.shape[1]}")
    W, alpha = affine_fit(z, a)
    moved = a @ W.T + alpha
    moved = moved - moved.mean(0)
    s = torch.linalg.svdvals(moved / z.std(0))
    if float(s[-1]) <= 1e-8 * len(z) ** 0.5:
        raise ValueError("the actions do not move the state in every direction: the effect cannot be told")
    slope = torch.linalg.lstsq(moved, (y - y.mean())[:, None]).solution[:, 0]
    return LinearEffect(slope, float(y.mean() - z.mean(0) @ slope), W, alpha)
