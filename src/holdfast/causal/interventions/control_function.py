"""Regression on a confounded state with a control variable, and what it says of actions that were not tried."""

from __future__ import annotations

from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from holdfast.causal.interventions.additive import (
    LEARNERS,
    Additive,
    AdditiveNetworks,
    AdditiveSplines,
    Learner,
)
from holdfast.causal.interventions.inputs import as_matrix, as_outcome
from holdfast.causal.interventions.instrumental import affine_fit
from holdfast.core.checks import check_choice, check_number, check_same_length
from holdfast.core.estimator import Estimator
from holdfast.core.random import generator, seed_from, spawn_seed

__all__ = ["ControlFunctionRegressor", "ShiftDiagnostics"]

_NEIGHBOURS, _MASS, _SHIFTED = 10, 0.99, 500
_ROWS = 2**17  # codes that nu sees at once


class ShiftDiagnostics(NamedTuple):
    """How far an action moves codes out of what was seen.

    Attributes:
        outside: (m,) share of shifted codes outside the region that holds 99% of the training codes' density.
        condition: of the standardised code beside its control variable; above 100 the two functions can hardly be
            told apart.
    """

    outside: Float[np.ndarray, " m"]
    condition: float


class ControlFunctionRegressor(Estimator):
    r"""Effect of an action through a state that is seen (or a code of it), in spite of hidden confounding.

    With :math:`(W, \alpha)` the least squares of the code on the action and :math:`V = \phi - (W A + \alpha)`,

    .. math:: E[Y \mid \phi, A] = \nu(\phi) + \psi(V), \qquad
              E[Y \mid do(A = a)] = \tfrac1n \sum_i \nu(W a + \alpha + V_i),

    with :math:`\tfrac1n \sum_i \psi(V_i) = 0`. It holds for actions that were never tried as long as shifted codes
    :math:`W a + \alpha + V_i` fall where codes were seen; :meth:`diagnostics` says how many do.

    Inputs are whitened by the covariance of the code, and the outcome is standardised.

    Args:
        nu, psi: "mlp", "spline" (a sum over entries of the code, linear outside the knots; ridge) or "linear" (least
            squares; with ``nu`` and ``psi`` both linear and k = d this is two-stage least squares). ``psi=None`` leaves
            the control variable out: a plain regression, biased by confounding.
        width, layers, steps, batch_size, lr, weight_decay: of perceptrons.
        knots, ridge: of splines; ``ridge`` is the penalty for each row.
        n_bootstrap: resamples of the rows that are fitted beside, for intervals; 0 for none.
        device, random_state: as everywhere.

    Attributes:
        W_, alpha_: (d, k), (d,) effect of the action on the code.
        control_: (n, d) control variables.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024, theorem 1;
    Newey, Powell and Vella, "Nonparametric estimation of triangular simultaneous equations models", Econometrica 1999.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> a, v = rng.uniform(-1, 1, 2000), rng.normal(size=2000)
        >>> z = a + v
        >>> model = ControlFunctionRegressor("spline", "spline", random_state=0).fit(z, a, np.sin(z) + v)
        >>> np.abs(model.predict_do([0.0, 2.0]) - np.sin([0, 2]) * np.exp(-0.5)).max() < 0.15
        np.True_
    """

    nu: Learner
    psi: Learner | None

    def __init__(
        self,
        nu: Learner = "mlp",
        psi: Learner | None = "mlp",
        *,
        width: int = 64,
        layers: int = 2,
        steps: int = 800,
        batch_size: int = 512,
        lr: float = 3e-3,
        weight_decay: float = 1e-3,
        knots: int = 10,
        ridge: float = 1e-4,
        n_bootstrap: int = 0,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.nu = nu
        self.psi = psi
        self.width = width
        self.layers = layers
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.knots = knots
        self.ridge = ridge
        self.n_bootstrap = n_bootstrap
        self.device = device
        self.random_state = random_state

    # -- fitting -------------------------------------------------------------------------------------------------------

    def fit(self, code: Any, action: Any, y: Any) -> Self:
        """Fit both functions.

        Args:
            code: (n, d) state or code.
            action: (n, k).
            y: (n,) outcomes.

        Raises:
            ValueError: for text, NaN, lengths that differ, a code that is constant in some direction, or options that
                do not fit.
        """
        model = self._make()
        z, a, target = as_matrix("code", code), as_matrix("action", action), as_outcome(y)
        n = check_same_length(code=z, action=a, y=target)
        check_number("n_bootstrap", self.n_bootstrap, low=0, integer=True)
        self.seed_ = seed_from(self.random_state)
        self.n_actions_in_, self.n_codes_in_ = a.shape[1], z.shape[1]
        self.mean_ = z.mean(0)
        covariance = (z - self.mean_).T @ (z - self.mean_) / n
        spread = covariance.diagonal().clamp_min(1e-300).sqrt()
        if n <= z.shape[1] or float(torch.linalg.eigvalsh(covariance / spread / spread[:, None])[0]) < 1e-10:
            raise ValueError("the code has no variance in some direction: shorten it")
        self.factor_ = torch.linalg.cholesky(covariance)
        w = self._whiten(z)
        self.y_mean_, self.y_scale_ = float(target.mean()), float(target.std()) or 1.0

        rng = generator(spawn_seed(self.seed_, "bootstrap"))
        rows = torch.cat([torch.arange(n)[None], torch.randint(n, (self.n_bootstrap, n), generator=rng)])
        fits = [affine_fit(w[i], a[i]) for i in rows]
        self._W, self._alpha = (torch.stack(t) for t in zip(*fits))
        codes = w[rows]
        self._control = codes - (a[rows] @ self._W.mT + self._alpha[:, None])
        y_ = (target[rows] - self.y_mean_) / self.y_scale_
        model.fit(codes, self._control if self.psi is not None else None, y_, self.seed_)
        self.additive_ = model
        # What psi has on average belongs to nu, so that psi is centred.
        self._offset = self._psi(self._control).mean(1) if self.psi is not None else torch.zeros(len(rows)).double()
        self._codes = w
        self._set_region()
        return self

    def _make(self) -> Additive:
        check_choice("nu", self.nu, LEARNERS)
        check_choice("psi", self.psi, [*LEARNERS, None])
        for name in ("width", "steps", "batch_size"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("layers", self.layers, low=0, integer=True)
        check_number("lr", self.lr, low=0, open_low=True)
        check_number("weight_decay", self.weight_decay, low=0)
        check_number("knots", self.knots, low=2, integer=True)
        check_number("ridge", self.ridge, low=0)
        if {self.nu, self.psi} >= {"mlp", "spline"}:
            raise ValueError("a perceptron and splines are not fitted together; take one of them for both functions")
        if "mlp" in (self.nu, self.psi):
            return AdditiveNetworks(
                self.nu,
                self.psi,
                width=self.width,
                layers=self.layers,
                weight_decay=self.weight_decay,
                steps=self.steps,
                batch_size=self.batch_size,
                lr=self.lr,
                device=self.device,
            )
        return AdditiveSplines(self.nu, self.psi, knots=self.knots, ridge=self.ridge)

    def _whiten(self, z: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor_, (z - self.mean_).T, upper=False).T

    def _set_region(self) -> None:
        w = self._codes.numpy()
        k = min(_NEIGHBOURS, len(w) - 1)
        self._tree = KDTree(w)
        radius = np.asarray(self._tree.query(w, k + 1)[0])[:, -1]  # the code itself is its first neighbour
        self._radius = float(np.quantile(radius, _MASS))
        both = [self._codes] + ([self._control[0]] if self.psi is not None else [])
        columns = torch.cat([t / t.std(0).clamp_min(1e-300) for t in both], dim=1)
        s = torch.linalg.svdvals(columns - columns.mean(0))
        self.condition_ = float(s[0] / s[-1].clamp_min(1e-300))

    @property
    def W_(self) -> Float[Tensor, "d k"]:
        """Effect of the action on the code."""
        check_is_fitted(self, "additive_")
        return self.factor_ @ self._W[0]

    @property
    def alpha_(self) -> Float[Tensor, " d"]:
        """Code at action zero."""
        check_is_fitted(self, "additive_")
        return self.factor_ @ self._alpha[0] + self.mean_

    @property
    def control_(self) -> Float[Tensor, "n d"]:
        """What the action leaves of every code."""
        check_is_fitted(self, "additive_")
        return self._control[0] @ self.factor_.T

    # -- use -----------------------------------------------------------------------------------------------------------

    def _psi(self, control: Tensor) -> Tensor:
        return self.additive_.psi(control)

    def nu_of(self, code: Any) -> Float[np.ndarray, " n"]:
        """Return :math:`\\nu` of codes, in the units of the outcome."""
        check_is_fitted(self, "additive_")
        w = self._whiten(as_matrix("code", code, columns=self.n_codes_in_))
        value = self.additive_.nu(w[None])[0] + self._offset[0]
        return (value * self.y_scale_ + self.y_mean_).numpy()

    def psi_of(self, control: Any) -> Float[np.ndarray, " n"]:
        """Return :math:`\\psi` of control variables, centred on those of training; 0 without a control function."""
        check_is_fitted(self, "additive_")
        v = as_matrix("control", control, columns=self.n_codes_in_)
        if self.psi is None:
            return np.zeros(len(v))
        w = torch.linalg.solve_triangular(self.factor_, v.T, upper=False).T
        return ((self._psi(w[None])[0] - self._offset[0]) * self.y_scale_).numpy()

    def _curves(self, a: Tensor, first: bool) -> Float[Tensor, "r m"]:
        r, n, _ = self._control[:1].shape if first else self._control.shape
        centre = a @ self._W[:r].mT + self._alpha[:r, None]
        out = []
        for rows in centre.split(max(1, _ROWS // (r * n)), dim=1):
            shifted = rows[:, :, None] + self._control[:r, None]
            out.append(self.additive_.nu(shifted.flatten(1, 2)).unflatten(1, (-1, n)).mean(2))
        return (torch.cat(out, dim=1) + self._offset[:r, None]) * self.y_scale_ + self.y_mean_

    def predict_do(self, a: Any) -> Float[np.ndarray, " m"]:
        """Return ``E[Y | do(A = a)]`` for every row of ``a``.

        Raises:
            ValueError: for actions of another length, or NaN.
        """
        return self._curves(self._actions(a), first=True)[0].numpy()

    def interval_do(self, a: Any, ci: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of an interval of ``E[Y | do(A = a)]``: the prediction, less and plus a normal multiple of
        the deviation over resamples. NaN without resamples.

        Raises:
            ValueError: as :meth:`predict_do`, or for a level outside (0, 1).
        """
        check_number("ci", ci, low=0, high=1, open_low=True, open_high=True)
        curves = self._curves(self._actions(a), first=False)
        if len(curves) < 3:
            nothing = np.full(curves.shape[1], np.nan)
            return nothing, nothing.copy()
        half = float(norm.ppf(0.5 + ci / 2)) * curves[1:].std(0)
        return (curves[0] - half).numpy(), (curves[0] + half).numpy()

    def predict_do_given(self, code: Any, a: Any) -> Float[np.ndarray, " m"]:
        r"""Return ``E[Y | code, do(A = a)]``: what units that look like ``code`` would have, had the action been ``a``.

        .. math:: \nu(\phi) + \psi\bigl(\phi - (W a + \alpha)\bigr)

        The code is kept and its control variable is computed anew. ``a`` is one action for each code, or one for all.

        Raises:
            ValueError: for lengths that do not fit, or NaN.
        """
        z, actions = as_matrix("code", code, columns=self.n_codes_in_), self._actions(a)
        if len(actions) not in (1, len(z)):
            raise ValueError(f"give one action for each of the {len(z)} codes, or one for all; got {len(actions)}")
        control = z - (actions @ self.W_.T + self.alpha_)
        return self.nu_of(z) + self.psi_of(control)

    def diagnostics(self, a: Any) -> ShiftDiagnostics:
        """Return the share of shifted codes that leave the training codes, and the condition number.

        The region is where the ten nearest training codes are as near as they are for 99% of the training codes.
        """
        actions = self._actions(a)
        centre = actions @ self._W[0].T + self._alpha[0]
        step = max(1, self._control.shape[1] // _SHIFTED)
        shifted = centre[:, None] + self._control[0, ::step][None]
        k = min(_NEIGHBOURS, len(self._codes) - 1)
        radius = np.asarray(self._tree.query(shifted.flatten(0, 1).numpy(), cast("Any", [k]))[0])[:, 0]
        outside = (radius > self._radius).reshape(len(actions), -1).mean(1)
        return ShiftDiagnostics(outside, self.condition_)

    def _actions(self, a: Any) -> Tensor:
        check_is_fitted(self, "additive_")
        return as_matrix("a", a, columns=self.n_actions_in_)

    # -- saving --------------------------------------------------------------------------------------------------------

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "additive_")
        params = self.get_params(deep=False) | {"random_state": self.seed_}
        numbers = ("n_actions_in_", "n_codes_in_", "y_mean_", "y_scale_")
        arrays = ("mean_", "factor_", "_W", "_alpha", "_control", "_offset", "_codes")
        tensors = {name: getattr(self, name) for name in arrays}
        tensors |= {f"additive.{k}": v for k, v in self.additive_.tensors().items()}
        return {"params": params, "fitted": {k: getattr(self, k) for k in numbers}}, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        self.set_params(**state["params"])
        self.seed_ = self.random_state
        for k, value in state["fitted"].items():
            setattr(self, k, value)
        prefix = "additive."
        for k, value in tensors.items():
            if not k.startswith(prefix):
                setattr(self, k, value)
        self.additive_ = self._make()
        own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        self.additive_.restore(own, self.n_codes_in_)
        self._set_region()
