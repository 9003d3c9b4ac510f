"""Vectors near a curve or a surface: a generator behind scikit-learn's conventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.engine import pick_device
from holdfast.core.estimator import Estimator
from holdfast.core.random import generator, isolated_rng, seed_from, spawn_seed
from holdfast.distribution.singular.choice import GRID, Criterion, generation_error, select_perturbation
from holdfast.distribution.singular.fit import Objective, fit_likelihood
from holdfast.distribution.singular.generator import LatentGaussianGenerator
from holdfast.distribution.singular.latents import Charts, CircleLatent, NormalLatent, UniformLatent
from holdfast.distribution.singular.points import check_points, read_points
from holdfast.distribution.singular.report import singularity_report
from holdfast.nn.coders import MLPDecoder

__all__ = ["PerturbedGenerator"]


class PerturbedGenerator(Estimator):
    r"""Learn the law of vectors on or near a low-dimensional set by likelihood, and sample from it.

    Noise is added to the data before the fit (:func:`fit_likelihood`); samples carry none. There is no
    ``score_samples``: such data have no density to report.

    Args:
        latent: "normal", "uniform", or "circle" for closed curves; the last two need ``objective="quadrature"``.
        latent_dim: length of the latent.
        charts: pieces the data fall into, each with a latent of its own.
        perturbation: deviation of the added noise in the units of the data; "validate" tries ``grid`` and keeps what
            gives the best samples (:func:`select_perturbation`); "rule" takes the size that the theory gives for the
            estimated dimension (:func:`perturbation_level`).
        grid, criterion, folds: of "validate"; the grid is in units of the data's scale.
        objective: "vae", "iwae" or "quadrature".
        draws, nodes: of "iwae" and of "quadrature".
        mode: noise drawn "fresh" at each step, or "fixed" for each row.
        width, layers: of the networks.
        steps, batch_size, lr, lr_sigma: of training.
        device, verbose, random_state: as everywhere.

    Attributes:
        model_: the :class:`LatentGaussianGenerator`.
        perturbation_: deviation of the noise that was added.
        sigma_: deviation that the model learned; above ``perturbation_`` by the data's own noise and by misfit.
        curve_: of "validate", the error of every deviation tried.
        report_: what is to be said of the fit, in words.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023.

    Examples:
        >>> from holdfast.distribution.singular import make_space_curve
        >>> X = make_space_curve(300, seed=0).numpy()
        >>> model = PerturbedGenerator(perturbation="rule", steps=100, random_state=0).fit(X)
        >>> model.sample(5).shape
        (5, 10)
    """

    def __init__(
        self,
        latent: Literal["normal", "uniform", "circle"] = "normal",
        latent_dim: int = 2,
        charts: int = 1,
        perturbation: float | Literal["validate", "rule"] = "validate",
        grid: Sequence[float] = GRID,
        criterion: Criterion = "sw1",
        folds: int = 3,
        objective: Objective = "vae",
        draws: int = 10,
        nodes: int = 256,
        mode: Literal["fresh", "fixed"] = "fresh",
        width: int = 64,
        layers: int = 2,
        steps: int = 2000,
        batch_size: int = 128,
        lr: float = 2e-3,
        lr_sigma: float = 5e-3,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.latent: Literal["normal", "uniform", "circle"] = latent
        self.latent_dim = latent_dim
        self.charts = charts
        self.perturbation: float | Literal["validate", "rule"] = perturbation
        self.grid = grid
        self.criterion: Criterion = criterion
        self.folds = folds
        self.objective: Objective = objective
        self.draws = draws
        self.nodes = nodes
        self.mode: Literal["fresh", "fixed"] = mode
        self.width = width
        self.layers = layers
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.lr_sigma = lr_sigma
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from the rows of ``X``, (n, d) real numbers; they are centred and divided by one number here.

        Raises:
            ValueError, TypeError: see :func:`fit_likelihood`.
        """
        x = check_points(X)
        if x.ndim != 2:
            raise ValueError(f"X must have shape (n, d), got {tuple(x.shape)}")
        if isinstance(self.perturbation, str):
            check_choice("perturbation", self.perturbation, ["validate", "rule"])
        else:
            check_number("perturbation", self.perturbation, low=0)
        self.seed_, self.n_features_in_ = seed_from(self.random_state), x.shape[1]
        options: dict[str, Any] = {
            "objective": self.objective,
            "mode": self.mode,
            "draws": self.draws,
            "nodes": self.nodes,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "lr_sigma": self.lr_sigma,
            "device": self.device,
            "progress": "generator" if self.verbose else False,
        }
        self.curve_: dict[float, float] = {}
        if self.perturbation == "validate":
            choice = select_perturbation(
                self._make, x, self.grid, self.criterion, self.folds, seed=spawn_seed(self.seed_, "choice"), **options
            )
            self.perturbation_, self.curve_ = choice.sigma, choice.curve
        elif self.perturbation == "rule":
            self.perturbation_ = singularity_report(x, seed=self.seed_).level
        else:
            self.perturbation_ = float(self.perturbation)
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            self.model_ = self._make()
        fit = fit_likelihood(self.model_, x, self.perturbation_, seed=self.seed_, **options)
        self.sigma_, self.history_, self.report_ = fit.sigma_hat, fit.trace, str(fit)
        return self

    def _make(self) -> LatentGaussianGenerator:
        check_choice("latent", self.latent, ["normal", "uniform", "circle"])
        check_number("charts", self.charts, low=1, integer=True)
        if self.latent == "circle":
            latent = CircleLatent()
        else:
            latent = (NormalLatent if self.latent == "normal" else UniformLatent)(self.latent_dim)
        law = latent if self.charts == 1 else Charts(latent, self.charts)
        decoder = MLPDecoder(law.dim, (self.n_features_in_,), width=self.width, layers=self.layers)
        return LatentGaussianGenerator(decoder, law)

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> Float[np.ndarray, "n d"]:
        """Draw rows of the law without noise; the same ones each time unless ``random_state`` is given."""
        check_is_fitted(self, "model_")
        seed = self.seed_ if random_state is None else seed_from(random_state)
        device = torch.device(pick_device(self.device))
        model = self.model_.to(device).eval()
        return model.sample(n_samples, generator(spawn_seed(seed, "sample"), device)).cpu().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the sliced Wasserstein-1 distance between samples and clean rows; the higher the better."""
        check_is_fitted(self, "model_")
        x = read_points(X)
        if x.ndim != 2 or x.shape[1] != self.n_features_in_:
            raise ValueError(f"X must have shape (n, {self.n_features_in_}), got {tuple(x.shape)}")
        return -generation_error(torch.from_numpy(self.sample(4000)), x.float().cpu(), "sw1")

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "model_")
        params: dict[str, Any] = self.get_params(deep=False) | {"random_state": self.seed_, "grid": list(self.grid)}
        names = ("seed_", "n_features_in_", "perturbation_", "sigma_", "history_", "report_")
        fitted: dict[str, Any] = {k: getattr(self, k) for k in names}
        fitted["curve_"] = [[sigma, error] for sigma, error in self.curve_.items()]
        return {"params": params, "fitted": fitted}, dict(self.model_.state_dict())

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        self.set_params(**(state["params"] | {"grid": tuple(state["params"]["grid"])}))
        fitted = dict(state["fitted"])
        self.curve_ = dict(fitted.pop("curve_"))
        for k, value in fitted.items():
            setattr(self, k, value)
        with isolated_rng(self.seed_):
            self.model_ = self._make().eval()
        # The centre is a number before a fit, and a vector after.
        self.model_.location = torch.zeros_like(tensors["location"])
        self.model_.load_state_dict(tensors)
