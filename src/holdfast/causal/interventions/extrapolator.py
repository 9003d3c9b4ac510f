"""From features, actions and outcomes to the effect of actions that were never tried."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.causal.interventions.control_function import ControlFunctionRegressor
from holdfast.causal.interventions.inputs import as_matrix, as_outcome, check_actions
from holdfast.causal.interventions.instrumental import LinearEffect, two_stage_least_squares
from holdfast.causal.interventions.invariant_autoencoder import (
    InvariantAutoencoder,
    LambdaChoice,
    PlainAutoencoder,
    encode_all,
    reconstruction_error,
    select_lambda,
    train_invariant_autoencoder,
)
from holdfast.causal.interventions.linear_invariance import LinearInvariancePenalty, mmr_test
from holdfast.causal.interventions.report import DoPrediction, IdentifiabilityReport
from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_choice, check_finite, check_number, check_same_length
from holdfast.core.estimator import Estimator, own_module
from holdfast.core.random import isolated_rng, seed_from, spawn_seed
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.standardize import Standardize

__all__ = ["InterventionExtrapolator"]


class InterventionExtrapolator(Estimator):
    r"""Predict the mean outcome of actions outside the tried range, where features show a hidden state.

    .. math:: Z = M_0 A + V, \qquad X = g_0(Z), \qquad Y = l(Z) + U

    with V and U dependent (confounding) and A randomised. An autoencoder whose code is linear in the action, in the
    mean, recovers Z up to an affine map (:class:`InvariantAutoencoder`); a regression on the code with its control
    variable gives the effect of Z (:class:`ControlFunctionRegressor`), and the code is moved linearly to new actions.

    It rests on this structure, which :meth:`identifiability_report` checks as far as data can: a code that cannot be
    made linear in the action refutes it. Read the report before the curve.

    Args:
        dim: length d of the code; the number of actions by default, and at most that.
        lam: weight of the constraint; "reconstruction" or "test" choose it by :func:`select_lambda`.
        autoencoder: a module with ``encode``, ``decode`` and ``loss``, for images and whatever else; X is given to it
            as it is. By default perceptrons on standardised columns.
        regressor: a :class:`ControlFunctionRegressor`; by default perceptrons with 20 resamples for intervals.
        width, layers: of the default autoencoder.
        steps, batch_size, lr: of its training.
        features, bandwidth: of the constraint's kernel, in deviations of the actions.
        compare: fit for the report the same without the constraint, and a regression of the outcome on the action.
        allow_underidentified: accept fewer actions than d.
        device, verbose, random_state: as everywhere.

    Attributes:
        autoencoder_, regressor_: what was fitted.
        lam_: the weight used; ``lambda_choice_`` holds the search, if there was one.
        reconstruction_r2_, p_before_, p_after_: see :class:`IdentifiabilityReport`.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024.

    Examples:
        >>> from holdfast.data.worlds import simulate_linear_action_scm
        >>> world = simulate_linear_action_scm(300, seed=1)
        >>> quick = ControlFunctionRegressor("spline", "spline", n_bootstrap=10)
        >>> model = InterventionExtrapolator(regressor=quick, steps=50, compare=False, random_state=0)
        >>> model.fit(world.X, world.A, world.Y).predict_do([0.0, 2.0]).mean.shape
        (2,)
    """

    lam: float | Literal["reconstruction", "test"]
    bandwidth: float | Literal["median"]

    def __init__(
        self,
        dim: int | None = None,
        lam: float | Literal["reconstruction", "test"] = 10.0,
        autoencoder: nn.Module | None = None,
        regressor: ControlFunctionRegressor | None = None,
        *,
        width: int = 64,
        layers: int = 2,
        steps: int = 800,
        batch_size: int = 4096,
        lr: float = 4e-3,
        features: int = 50,
        bandwidth: float | Literal["median"] = "median",
        compare: bool = True,
        allow_underidentified: bool = False,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.dim = dim
        self.lam = lam
        self.autoencoder = autoencoder
        self.regressor = regressor
        self.width = width
        self.layers = layers
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.features = features
        self.bandwidth = bandwidth
        self.compare = compare
        self.allow_underidentified = allow_underidentified
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    # -- fitting -------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, A: Any, Y: Any) -> Self:
        """Learn the code and the effect.

        Args:
            X: (n, m) features, or (n, ...) for an autoencoder of your own.
            A: (n, k) randomised actions, of numbers.
            Y: (n,) outcomes, of numbers.

        Raises:
            ValueError: for NaN, text, lengths that differ, fewer actions than ``dim``, fewer than 50 rows for each
                number of the code, and actions that are constant, collinear or take fewer than ``dim`` + 2 values.
            TypeError: for an autoencoder without ``encode``, ``decode`` or ``loss``.

        Warns:
            UserWarning: for batches of fewer than ten rows for each action.
        """
        a, y = as_matrix("A", A), as_outcome(Y)
        x = self._features(X)
        n = check_same_length(X=x, A=a, Y=y)
        d = a.shape[1] if self.dim is None else int(check_number("dim", self.dim, low=1, integer=True))
        check_actions(a, d, allow_underidentified=self.allow_underidentified)
        if isinstance(self.lam, str):
            check_choice("lam", self.lam, ["reconstruction", "test"])
        else:
            check_number("lam", self.lam, low=0)
        for name in ("width", "steps", "batch_size"):
            check_number(name, getattr(self, name), low=1, integer=True)
        if min(n, self.batch_size) < 10 * (a.shape[1] + 1):
            warnings.warn(
                f"batches of {min(n, self.batch_size)} rows for {a.shape[1]} actions make the constraint noisy; take "
                "at least ten for each",
                UserWarning,
                stacklevel=2,
            )
        self.seed_ = seed_from(self.random_state)
        self.dim_, self.shape_, self.n_actions_in_ = d, tuple(x.shape[1:]), a.shape[1]
        self.action_range_ = torch.stack([a.amin(0), a.amax(0)])
        self.action_mean_ = a.mean(0)
        self.scale_ = self._scaling(x)
        scaled, actions = self._scaled(x), ((a - a.mean(0)) / a.std(0)).float()

        self.lambda_choice_: LambdaChoice | None = None
        if isinstance(self.lam, str):
            self.lambda_choice_ = select_lambda(
                self._make_autoencoder, scaled, actions, rule=self.lam, penalty=self._penalty(), seed=self.seed_,
                **self._training("choice of lam"),
            )  # fmt: skip
            self.lam_ = self.lambda_choice_.lam
        else:
            self.lam_ = float(self.lam)

        model = self._untrained(self.lam_)
        self.p_before_ = self._p_value(model, scaled, actions)
        result = train_invariant_autoencoder(model, scaled, actions, seed=self.seed_, **self._training("autoencoder"))
        self.history_ = result.history
        self.autoencoder_ = model.autoencoder.eval().requires_grad_(False)
        self.reconstruction_r2_ = 1 - reconstruction_error(model, scaled)
        self.p_after_ = self._p_value(model, scaled, actions)
        code = encode_all(model, scaled)
        self.regressor_ = self._regressor().fit(code, a, y)

        self.baselines_: dict[str, ControlFunctionRegressor] = {}
        self.linear_: LinearEffect | None = None
        if self.compare:
            if d <= a.shape[1]:
                self.linear_ = two_stage_least_squares(code, a, y)
            plain = self._untrained(0.0)
            train_invariant_autoencoder(plain, scaled, actions, seed=self.seed_, **self._training("comparison"))
            of_action = self._regressor().set_params(psi=None, n_bootstrap=0)
            self.baselines_ = {
                "no constraint": self._regressor().set_params(n_bootstrap=0).fit(encode_all(plain, scaled), a, y),
                "Y on A": of_action.fit(a, a, y),
            }
        return self

    def _features(self, X: Any) -> Tensor:
        if self.autoencoder is None:
            x = as_matrix("X", X).float()
            if x.shape[1] < 2:
                raise ValueError("X must have at least two columns; with one, pass it to ControlFunctionRegressor")
            return x
        x = as_tensor(X).detach().cpu()
        x = x if x.is_floating_point() and x.dtype != torch.float64 else x.float()
        check_finite("X", x)
        return x

    def _scaling(self, x: Tensor) -> Standardize:
        if self.autoencoder is not None:
            return Standardize(0)
        return Standardize(x.shape[1], x.double().mean(0).tolist(), x.double().std(0, correction=0).tolist())

    def _scaled(self, x: Tensor) -> Tensor:
        return self.scale_(x) if self.autoencoder is None else x

    def _penalty(self) -> LinearInvariancePenalty:
        return LinearInvariancePenalty(
            self.bandwidth, features=self.features, seed=spawn_seed(self.seed_, "random features")
        )

    def _make_autoencoder(self) -> nn.Module:
        if self.autoencoder is not None:
            return copy.deepcopy(self.autoencoder)
        (m,) = self.shape_
        options: dict[str, Any] = {"layers": self.layers, "activation": nn.SiLU}
        return PlainAutoencoder(
            feed_forward(m, self.width, self.dim_, **options), feed_forward(self.dim_, self.width, m, **options)
        )

    def _untrained(self, lam: float) -> InvariantAutoencoder:
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            return InvariantAutoencoder(self._make_autoencoder(), self._penalty(), lam)

    def _training(self, label: str) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "device": self.device,
            "progress": label if self.verbose else False,
        }

    def _regressor(self) -> ControlFunctionRegressor:
        given = ControlFunctionRegressor(n_bootstrap=20) if self.regressor is None else self.regressor
        chosen: Any = clone(given)
        return chosen.set_params(random_state=spawn_seed(self.seed_, "regression"), device=self.device)

    def _p_value(self, model: InvariantAutoencoder, x: Tensor, a: Tensor) -> float:
        code = encode_all(model.eval(), x)
        if code.ndim != 2 or code.shape[1] != self.dim_:
            raise ValueError(f"the autoencoder's code must have shape (n, {self.dim_}), got {tuple(code.shape)}")
        return mmr_test(code, a.double(), bandwidth=self.bandwidth, features=self.features, seed=self.seed_).p_value

    # -- use -----------------------------------------------------------------------------------------------------------

    def transform(self, X: Any) -> Float[np.ndarray, "n d"]:
        """Return codes: the hidden state up to an affine map, where the report has no doubts.

        Raises:
            ValueError: for another number of features, or NaN.
        """
        check_is_fitted(self, "autoencoder_")
        x = self._features(X)
        if tuple(x.shape[1:]) != self.shape_:
            raise ValueError(f"X must have rows of shape {self.shape_} as in fit, got {tuple(x.shape[1:])}")
        return encode_all(self.autoencoder_, self._scaled(x)).numpy()

    def predict_do(self, a: Any, ci: float = 0.95, *, strict: bool = False) -> DoPrediction:
        """Return ``E[Y | do(A = a)]`` with its interval.

        The interval is of the regression: resamples keep the autoencoder.

        Args:
            a: (m, k) actions; a vector is one action of k numbers, or m actions of one.
            ci: level.
            strict: give no interval where over 90% of the shifted codes lie outside the training codes.

        Raises:
            ValueError: for actions of another length, or NaN.

        Warns:
            UserWarning: where over 90% of the shifted codes lie outside.
        """
        check_is_fitted(self, "autoencoder_")
        actions = as_matrix("a", a, columns=self.n_actions_in_)
        mean = self.regressor_.predict_do(actions)
        low, high = self.regressor_.interval_do(actions, ci)
        outside = self.regressor_.diagnostics(actions).outside
        if (far := outside > 0.9).any():
            warnings.warn(
                f"{int(far.sum())} of {len(far)} actions move over 90% of the codes to where none was seen; what is "
                "predicted there is the shape of the regression, not data",
                UserWarning,
                stacklevel=2,
            )
            if strict:
                low, high = np.where(far, np.nan, low), np.where(far, np.nan, high)
        return DoPrediction(mean, low, high, outside)

    def predict_conditional(self, X: Any, a: Any) -> Float[np.ndarray, " n"]:
        """Return ``E[Y | X = x, do(A = a)]``: what units that look like ``x`` would have, had the action been ``a``.

        Args:
            X: (n, ...) features.
            a: one action for each row, or one for all.

        Raises:
            ValueError: for lengths that do not fit, or NaN.
        """
        return self.regressor_.predict_do_given(self.transform(X), as_matrix("a", a, columns=self.n_actions_in_))

    def identifiability_report(self, a: Any = None, ci: float = 0.95) -> IdentifiabilityReport:
        """Return what speaks for and against the extrapolation; print it.

        Args:
            a: actions of the curve; by default nine on the line through the mean along which actions vary most, to
                twice the tried range.
            ci: level of the interval.

        Raises:
            ValueError: for actions of another length.
        """
        check_is_fitted(self, "autoencoder_")
        actions = self._line() if a is None else as_matrix("a", a, columns=self.n_actions_in_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the report says it in words
            curve = self.predict_do(actions, ci)
        baselines: dict[str, np.ndarray] = {}
        if self.linear_ is not None:
            baselines["2SLS"] = self.linear_.predict_do(actions).numpy()
        for name, model in self.baselines_.items():
            baselines[name] = model.nu_of(actions) if name == "Y on A" else model.predict_do(actions)
        return IdentifiabilityReport(
            self.reconstruction_r2_,
            self.p_before_,
            self.p_after_,
            self.regressor_.condition_,
            actions.numpy(),
            curve,
            ci,
            baselines,
        )

    def _line(self) -> Tensor:
        low, high = self.action_range_
        half = (high - low) / 2
        direction = torch.zeros_like(half)
        direction[int(half.argmax())] = half.max()
        return (low + high) / 2 + torch.linspace(-2, 2, 9, dtype=half.dtype)[:, None] * direction

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "regressor_")

    # -- saving --------------------------------------------------------------------------------------------------------

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "autoencoder_")
        params = self.get_params(deep=False) | {"random_state": self.seed_}
        if self.autoencoder is not None:
            params["autoencoder"] = {"module": type(self.autoencoder).__qualname__}
        params["regressor"] = None if self.regressor is None else _plain(self.regressor)
        names = ("dim_", "shape_", "n_actions_in_", "lam_", "p_before_", "p_after_", "reconstruction_r2_", "history_")
        state: dict[str, Any] = {"params": params, "fitted": {k: getattr(self, k) for k in names}, "parts": {}}
        choice = self.lambda_choice_
        state["choice"] = None if choice is None else [choice.lam, *(list(t.items()) for t in choice[1:])]
        tensors = {"action_range": self.action_range_, "action_mean": self.action_mean_}
        modules = {"autoencoder": self.autoencoder_, "scale": self.scale_}
        for role, module in modules.items():
            tensors |= {f"{role}.{k}": v for k, v in module.state_dict().items()}
        for role, part in (("regressor", self.regressor_), *self.baselines_.items()):
            state["parts"][role], own = part._get_state()
            tensors |= {f"{role}.{k}": v for k, v in own.items()}
        state["linear"] = None if self.linear_ is None else self.linear_.intercept
        if self.linear_ is not None:
            for name in ("slope", "first_stage", "first_intercept"):
                tensors[f"linear.{name}"] = getattr(self.linear_, name)
        return state, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = dict(state["params"])
        if isinstance(params["autoencoder"], dict):
            params["autoencoder"] = own_module("autoencoder", params["autoencoder"], objects.get("backbone"))
        if params["regressor"] is not None:
            params["regressor"] = ControlFunctionRegressor(**params["regressor"])
        self.set_params(**params)
        self.seed_ = self.random_state
        for k, value in state["fitted"].items():
            setattr(self, k, tuple(value) if k == "shape_" else value)

        def own(role: str) -> dict[str, Tensor]:
            return {k[len(role) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{role}.")}

        self.action_range_, self.action_mean_ = tensors["action_range"], tensors["action_mean"]
        self.scale_ = Standardize(len(tensors["scale.mean"]))
        self.scale_.load_state_dict(own("scale"))
        with isolated_rng(self.seed_):
            self.autoencoder_ = self._make_autoencoder().eval().requires_grad_(False)
        self.autoencoder_.load_state_dict(own("autoencoder"))
        fitted: dict[str, ControlFunctionRegressor] = {}
        for role, part in state["parts"].items():
            fitted[role] = ControlFunctionRegressor()
            fitted[role]._set_state(part, own(role))
        self.regressor_ = fitted.pop("regressor")
        self.baselines_ = fitted
        self.linear_ = None
        if state["linear"] is not None:
            t = own("linear")
            self.linear_ = LinearEffect(t["slope"], state["linear"], t["first_stage"], t["first_intercept"])
        choice = state["choice"]
        self.lambda_choice_ = None if choice is None else LambdaChoice(choice[0], *(dict(t) for t in choice[1:]))


def _plain(regressor: ControlFunctionRegressor) -> dict[str, Any]:
    params = regressor.get_params(deep=False)
    seed = params["random_state"]
    return params | {"random_state": None if seed is None else seed_from(seed)}
