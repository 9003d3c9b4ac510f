"""What a velocity model loses: to noise, to its features, and to the head that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_finite, check_number, check_same_length
from holdfast.core.random import generator

__all__ = ["decompose_velocity_error"]

_ALPHAS = tuple(10.0**k for k in range(-4, 5))


def decompose_velocity_error(
    features: Float[Tensor, "n d"],
    velocities: Float[Tensor, "n k"],
    head: Float[Tensor, "n k"] | Callable[[Tensor], Tensor],
    regressor: Literal["ridge", "mlp"] | Callable[[Tensor], Tensor] = "ridge",
    *,
    optimal: Float[Tensor, "n k"] | None = None,
    held_out: float = 0.5,
    seed: int = 0,
) -> dict[str, float]:
    r"""Split the error of a head on features into what no model avoids, what the features lack, and the head's own.

    With :math:`v^* = E[v \mid x_t]` and any features :math:`r = r(x_t)`,

    .. math:: E\lVert v - g(r)\rVert^2 = \underbrace{E\lVert v - v^*\rVert^2}_{\text{irreducible}}
              + \underbrace{E\lVert v^* - E[v \mid r]\rVert^2}_{\text{representation}}
              + \underbrace{E\lVert E[v \mid r] - g(r)\rVert^2}_{\text{head}}

    :math:`E[v \mid r]` is fitted on some of the rows and everything is measured on the others, as a mean over rows
    and columns. A fitted regressor is not the conditional mean, and samples are finite, so products that vanish in
    expectation remain: they are given as ``cross``, and the four add up to ``total`` exactly. The representation
    term is what this regressor cannot read from the features.

    Args:
        features: :math:`r(x_t)`, one row per noisy sample (or patch).
        velocities: drawn targets :math:`v`.
        head: its predictions, or a function of the features.
        regressor: "ridge" (penalty by leave-one-out error), "mlp", or the known function :math:`E[v \mid r]`.
        optimal: :math:`v^*` at the samples, exact or of the best model there is, whose error then bounds the
            irreducible one from above. Without it ``irreducible_bound`` is 0, and ``representation`` holds both.
        held_out: share of rows that measure; a known regressor needs no fit, and all rows measure.
        seed: of the split, and of the perceptron.

    Returns:
        ``irreducible_bound``, ``representation``, ``head``, ``cross`` and ``total``.

    Raises:
        ValueError: for lengths or shapes that do not match, or entries that are not finite.

    Source: the tower property; the reading as representation and generation follows Liu et al., "Efficient
    generative model training via embedded representation warmup", 2025, section 3.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> r, noise = torch.randn(400, 3, generator=rng), torch.randn(400, 3, generator=rng)
        >>> parts = decompose_velocity_error(r, 2 * r + noise, lambda r: torch.zeros_like(r), optimal=2 * r)
        >>> sorted(parts), round(parts["head"] / parts["total"], 1)  # 4 of 5
        (['cross', 'head', 'irreducible_bound', 'representation', 'total'], 0.8)
    """
    if features.ndim != 2 or velocities.ndim != 2:
        raise ValueError(
            f"features and velocities must be (n, d) and (n, k), got {tuple(features.shape)}, {tuple(velocities.shape)}"
        )
    check_same_length(features=features, velocities=velocities, optimal=optimal)
    check_number("held_out", held_out, low=0, high=1, open_low=True, open_high=True)
    r, v = features.detach().double(), velocities.detach().double()
    g = head(features).detach().double() if callable(head) else head.detach().double()
    for name, value in (("head", g), ("optimal", optimal)):
        if value is not None and value.shape != v.shape:
            raise ValueError(f"{name} must have the velocities' shape {tuple(v.shape)}, got {tuple(value.shape)}")
    for name, value in (("features", r), ("velocities", v), ("head", g)):
        check_finite(name, value)
    if callable(regressor):
        rows = torch.arange(len(r))
        m = regressor(features).detach().double()
    else:
        check_choice("regressor", regressor, ("ridge", "mlp"))
        order = torch.randperm(len(r), generator=generator(seed))
        count = max(1, min(len(r) - 2, round(held_out * len(r))))
        rows, fitted = order[:count], order[count:]
        model = _regressor(regressor, seed).fit(r[fitted].numpy(), v[fitted].numpy())
        m = torch.from_numpy(np.asarray(model.predict(r[rows].numpy())).reshape(count, -1))
    m = m[rows] if len(m) != len(rows) else m
    v, g = v[rows], g[rows]
    best = v if optimal is None else optimal.detach().double()[rows]

    total, irreducible, lack, own = (float(e.square().mean()) for e in (v - g, v - best, best - m, m - g))
    return {
        "irreducible_bound": irreducible,
        "representation": lack,
        "head": own,
        "cross": total - irreducible - lack - own,
        "total": total,
    }


def _regressor(kind: str, seed: int) -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "ridge":
        return make_pipeline(StandardScaler(), RidgeCV(_ALPHAS))
    perceptron = MLPRegressor(hidden_layer_sizes=(128,), early_stopping=True, max_iter=200, random_state=seed)
    return make_pipeline(StandardScaler(), perceptron)
