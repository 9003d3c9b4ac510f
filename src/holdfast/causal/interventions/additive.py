"""Sums of a function of the code and a function of the control variable, for several resamples at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import SplineTransformer
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.nn.feed_forward import feed_forward

__all__ = ["LEARNERS", "Additive", "AdditiveNetworks", "AdditiveSplines", "Learner"]

Learner = Literal["mlp", "spline", "linear"]
LEARNERS: tuple[Learner, ...] = ("mlp", "spline", "linear")


class Additive(ABC):
    """What is fitted to every resample: ``y = nu(code) + psi(control)``, psi absent where there is no control."""

    @abstractmethod
    def fit(
        self, code: Float[Tensor, "r n d"], control: Float[Tensor, "r n d"] | None, y: Float[Tensor, "r n"], seed: int
    ) -> None:
        """Fit one model to every resample."""

    @abstractmethod
    def nu(self, code: Float[Tensor, "r n d"]) -> Float[Tensor, "r n"]:
        """Return nu of every resample's model."""

    @abstractmethod
    def psi(self, control: Float[Tensor, "r n d"]) -> Float[Tensor, "r n"]:
        """Return psi of every resample's model."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the fitted state."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], d: int) -> None:
        """Take the fitted state."""


class _Basis:
    """Cubic splines of every entry with linear tails, or the entries themselves."""

    def __init__(self, learner: Learner, knots: int) -> None:
        self.learner, self.knots = learner, knots
        self.places: np.ndarray | None = None

    def fit(self, x: np.ndarray) -> None:
        if self.learner == "spline":
            quantiles = np.quantile(x, np.linspace(0, 1, self.knots), axis=0)
            # Equal values would give knots of no width.
            self.set(quantiles + np.linspace(0, 1e-9, self.knots)[:, None] * np.ptp(x, axis=0))

    def set(self, places: np.ndarray) -> None:
        self.places = places
        transformer = SplineTransformer(knots=cast("Any", places), degree=3, extrapolation="linear", include_bias=False)
        self.transformer = transformer.fit(places)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x if self.places is None else np.asarray(self.transformer.transform(x))


class AdditiveSplines(Additive):
    """Splines or straight lines, by ridge regression (lines alone: by least squares)."""

    def __init__(self, nu: Learner, psi: Learner | None, *, knots: int, ridge: float) -> None:
        self.bases = [_Basis(nu, knots), *([] if psi is None else [_Basis(psi, knots)])]
        self.straight = {nu, psi} <= {"linear", None}
        self.ridge = ridge

    def fit(self, code: Tensor, control: Tensor | None, y: Tensor, seed: int) -> None:
        """Solve for every resample; knots are those of the first."""
        inputs = [t.numpy() for t in (code, control) if t is not None]
        for basis, x in zip(self.bases, inputs):
            basis.fit(x[0])
        coefficients, intercepts = [], []
        for r in range(len(y)):
            columns = [basis(x[r]) for basis, x in zip(self.bases, inputs)]
            solver = LinearRegression() if self.straight else Ridge(alpha=self.ridge * y.shape[1])
            solver.fit(np.concatenate(columns, axis=1), y[r].numpy())
            coefficients.append(solver.coef_)
            intercepts.append(solver.intercept_)
        self.width = columns[0].shape[1]
        self.coefficients, self.intercepts = np.array(coefficients), np.array(intercepts)

    def nu(self, code: Tensor) -> Tensor:
        """Return nu, which has the intercept."""
        found = [self.bases[0](x.numpy()) @ c[: self.width] for x, c in zip(code, self.coefficients)]
        return torch.from_numpy(np.array(found) + self.intercepts[: len(found), None])

    def psi(self, control: Tensor) -> Tensor:
        """Return psi."""
        found = [self.bases[1](x.numpy()) @ c[self.width :] for x, c in zip(control, self.coefficients)]
        return torch.from_numpy(np.array(found))

    def tensors(self) -> dict[str, Tensor]:
        """Return coefficients and knots."""
        state = {"coefficients": torch.from_numpy(self.coefficients), "intercepts": torch.from_numpy(self.intercepts)}
        state["width"] = torch.tensor(self.width)
        return state | {
            f"knots.{i}": torch.from_numpy(b.places) for i, b in enumerate(self.bases) if b.places is not None
        }

    def restore(self, tensors: dict[str, Tensor], d: int) -> None:
        """Take coefficients and knots."""
        self.coefficients, self.intercepts = tensors["coefficients"].numpy(), tensors["intercepts"].numpy()
        self.width = int(tensors["width"])
        for i, basis in enumerate(self.bases):
            if f"knots.{i}" in tensors:
                basis.set(tensors[f"knots.{i}"].numpy())


class _Stack(nn.Module):
    """Networks of one form, evaluated side by side: (r, n, d) to (r, n)."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        parameters, _ = stack_module_state(cast("Any", nets))
        self.names = {name.replace(".", "_"): name for name in parameters}
        self.weights = nn.ParameterDict({k: nn.Parameter(parameters[v].detach()) for k, v in self.names.items()})
        self._form = [nets[0]]  # in a list, so that its own weights are not trained

    def forward(self, x: Float[Tensor, "r n d"]) -> Float[Tensor, "r n"]:
        given = {v: self.weights[k][: len(x)] for k, v in self.names.items()}
        return vmap(lambda p, rows: functional_call(self._form[0], p, (rows,)))(given, x)[..., 0]


class _Sum(nn.Module):
    def __init__(self, nu: _Stack, psi: _Stack | None) -> None:
        super().__init__()
        self.nu, self.psi = nu, psi

    def forward(self, code: Tensor, control: Tensor) -> Tensor:
        value = self.nu(code)
        return value if self.psi is None else value + self.psi(control)


class AdditiveNetworks(Additive):
    """Perceptrons (or a straight line beside one), trained together by squared loss."""

    def __init__(
        self, nu: Learner, psi: Learner | None, *, width: int, layers: int, weight_decay: float, **training: Any
    ) -> None:
        self.forms: tuple[Learner, Learner | None] = (nu, psi)
        self.width, self.layers, self.weight_decay = width, layers, weight_decay
        self.batch_size = training.pop("batch_size")
        self.training = training

    def _make(self, d: int, r: int, seed: int) -> _Sum:
        def stack(role: str, form: Learner) -> _Stack:
            nets: list[nn.Module] = []
            for i in range(r):
                with isolated_rng(spawn_seed(seed, role, i)):
                    layers = self.layers if form == "mlp" else 0
                    nets.append(feed_forward(d, self.width, 1, layers=layers, activation=nn.SiLU))
            return _Stack(nets)

        nu, psi = self.forms
        return _Sum(stack("nu", nu), None if psi is None else stack("psi", psi))

    def fit(self, code: Tensor, control: Tensor | None, y: Tensor, seed: int) -> None:
        """Train all resamples' networks in one loop; each has its own initial weights."""
        r, n, d = code.shape
        self.model = self._make(d, r, seed)
        inputs = [t.float() for t in (code, code if control is None else control, y)]

        def loss(model: nn.Module, batch: tuple[Tensor, ...], info: StepInfo) -> Tensor:
            u, v, target = batch
            # A sum over resamples: no weight is shared, so each is trained as if alone.
            return (model(u, v) - target).square().mean(1).sum()

        plan = BatchPlan(n, self.batch_size, seed=spawn_seed(seed, "batches"), drop_last=True)
        batches = Batches(plan, lambda rows: tuple(t[:, rows] for t in inputs))
        train(
            self.model,
            loss,
            batches,
            seed=spawn_seed(seed, "training"),
            schedule="cosine",
            weight_decay=self.weight_decay,
            **self.training,
        )
        self.model.cpu().double().requires_grad_(False)

    def nu(self, code: Tensor) -> Tensor:
        """Return nu."""
        return self.model.nu(code)

    def psi(self, control: Tensor) -> Tensor:
        """Return psi."""
        return cast("_Stack", self.model.psi)(control)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights."""
        return dict(self.model.state_dict())

    def restore(self, tensors: dict[str, Tensor], d: int) -> None:
        """Take the weights."""
        r = len(next(iter(tensors.values())))
        self.model = self._make(d, r, 0).double().requires_grad_(False)
        self.model.load_state_dict(tensors)
