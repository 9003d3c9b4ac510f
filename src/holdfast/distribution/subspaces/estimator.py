"""From vectors to a few subspaces, a law on them, and a denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import ClusterMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.estimator import Estimator
from holdfast.core.random import generator, seed_from, spawn_seed
from holdfast.distribution.subspaces.clustering import check_samples, k_subspaces
from holdfast.distribution.subspaces.dimensions import estimate_dims
from holdfast.distribution.subspaces.fit import fit_subspace_denoiser, recovery, recovery_table
from holdfast.distribution.subspaces.mixture import MixtureOfLowRankGaussians

__all__ = ["SubspaceClustering"]

_FLOOR = 1e-6


class SubspaceClustering(ClusterMixin, TransformerMixin, DensityMixin, Estimator):
    r"""Vectors as a mixture of K Gaussians on low-dimensional subspaces, plus noise of one variance.

    Samples are centred and scaled, subspaces are fitted by denoising (:func:`fit_subspace_denoiser`) or by
    K-subspaces, and every subspace gets its weight and its variances. The result clusters, denoises, scores and
    samples; few samples are enough, two for every dimension of a subspace whatever the dimension of the space.

    Args:
        n_subspaces: K. To choose it, fit several and take the smallest :meth:`bic`.
        dims: dimension of every subspace, one number for all or one each; ``None`` estimates them
            (:func:`estimate_dims`).
        solver: ``"denoising"`` or ``"k_subspaces"``, which needs no training.
        centre: take the mean out; subspaces go through it. ``False`` where they are known to go through 0: the mean of
            few samples would move them off it.
        steps, restarts, noise_range, batch_size, lr: of the denoising solver.
        n_init: starts of the clusterings.
        device, verbose, random_state: as everywhere.

    Attributes:
        mixture_: the law without noise, a :class:`MixtureOfLowRankGaussians` in the units of the data.
        noise_: standard deviation of the residual along every direction outside.
        dims_, counts_, labels_: dimension and samples of every subspace, and the subspace of every training sample.
        recovery_: what the theory says of every subspace, see :func:`recovery`.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024.

    Examples:
        >>> from holdfast.distribution.subspaces import make_subspace_samples
        >>> data = make_subspace_samples(16, (2, 3), 30, residual=0.1, seed=0)
        >>> model = SubspaceClustering(2, solver="k_subspaces", centre=False, random_state=0)
        >>> model = model.fit(data.x.numpy())
        >>> sorted(model.dims_), model.recovery_
        ([2, 3], ('reliable', 'reliable'))
    """

    def __init__(
        self,
        n_subspaces: int = 1,
        dims: int | Sequence[int] | None = None,
        solver: Literal["denoising", "k_subspaces"] = "denoising",
        centre: bool = True,
        steps: int = 1000,
        restarts: int = 16,
        noise_range: tuple[float, float] = (0.02, 0.5),
        batch_size: int = 96,
        lr: float = 0.5,
        n_init: int = 10,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_subspaces = n_subspaces
        self.dims = dims
        self.solver: Literal["denoising", "k_subspaces"] = solver
        self.centre = centre
        self.steps = steps
        self.restarts = restarts
        self.noise_range = noise_range
        self.batch_size = batch_size
        self.lr = lr
        self.n_init = n_init
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the subspaces of the rows of ``X``, (N, n) real numbers.

        Raises:
            ValueError: for dimensions that do not fit, fewer samples than subspaces, or values that are not finite.
        """
        check_choice("solver", self.solver, ("denoising", "k_subspaces"))
        K = int(check_number("n_subspaces", self.n_subspaces, low=1, integer=True))
        x = torch.from_numpy(np.array(validate_data(self, X, dtype=np.float64, ensure_min_samples=2)))
        if x.shape[1] < 2:
            raise ValueError(f"a subspace needs at least 2 features to lie in, got n_features = {x.shape[1]}")
        self.seed_ = seed_from(self.random_state)
        mean = x.mean(0) if self.centre else torch.zeros(x.shape[1], dtype=x.dtype)
        centred = x - mean
        rng = generator(spawn_seed(self.seed_, "clusterings"))
        size = float(centred.square().sum(1).mean().sqrt())
        if size == 0:
            raise ValueError("X is constant: it spans no subspace")
        if self.dims is None:
            dims = estimate_dims(centred, K, n_init=self.n_init, generator=rng).dims
        else:
            dims = (self.dims,) * K if isinstance(self.dims, (int, np.integer)) else tuple(self.dims)
            if len(dims) != K:
                raise ValueError(f"dims must be one number, or one for each of {K} subspaces, got {self.dims}")
        _, dims = check_samples(centred, dims)
        if self.solver == "k_subspaces":
            found = k_subspaces(centred, dims, n_init=self.n_init, generator=rng)
        else:
            unit = size / math.sqrt(sum(dims) / K)  # unit variance along a subspace, for which the noise is meant
            found = fit_subspace_denoiser(
                centred / unit,
                dims,
                steps=self.steps,
                restarts=self.restarts,
                noise_range=self.noise_range,
                batch_size=self.batch_size,
                lr=self.lr,
                device=self.device,
                progress="subspaces" if self.verbose else False,
                seed=self.seed_,
            )
        self.labels_ = found.labels.numpy()
        self._set_law(centred, mean, [U.double() for U in found.bases], found.labels, size)
        return self

    def _set_law(self, x: Tensor, mean: Tensor, bases: list[Tensor], labels: Tensor, size: float) -> None:
        """Variances along every subspace, one outside, and the weights."""
        K, n = len(bases), x.shape[1]
        parts = [x[labels == k] for k in range(K)]
        counts = [len(rows) for rows in parts]
        outside = sum(float((rows - rows @ U @ U.mT).square().sum()) for rows, U in zip(parts, bases))
        free = sum(m * (n - U.shape[1]) for m, U in zip(counts, bases))
        noise = max(math.sqrt(outside / free), _FLOOR * size)
        turned, variances = [], []
        for rows, U in zip(parts, bases):
            second = (rows @ U).mT @ (rows @ U) / max(1, len(rows))
            values, turn = torch.linalg.eigh(second)
            turned.append(U @ turn.flip(1))
            variances.append((values.flip(0) - noise**2).clamp_min((_FLOOR * size) ** 2))
        weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        self.mixture_ = MixtureOfLowRankGaussians(turned, weights, variances, [mean] * K)
        self.noise_, self.dims_, self.counts_ = noise, self.mixture_.dims, tuple(counts)
        self.recovery_ = tuple(recovery(m, d) for m, d in zip(counts, self.dims_))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every subspace for every row."""
        rows = self._rows(X)
        return self.mixture_.responsibilities(rows, 1.0, self.noise_).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable subspace of every row."""
        return self.predict_proba(X).argmax(1)

    def transform(self, X: Any, noise: float | None = None) -> np.ndarray:
        """Return the denoised rows, the mean of the clean ones given these.

        Args:
            X: rows.
            noise: their standard deviation of noise; that of the training data by default.
        """
        rows = self._rows(X)
        level = self.noise_ if noise is None else check_number("noise", noise, low=0, open_low=True)
        return self.mixture_.posterior_mean(rows, 1.0, level).numpy()

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the log-density of every row; low where the law of the data has changed."""
        rows = self._rows(X)
        return self.mixture_.log_prob_noisy(rows, 1.0, self.noise_).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density."""
        return float(self.score_samples(X).mean())

    def bic(self, X: Any) -> float:
        """Return the Bayesian information criterion on ``X``, smaller is better."""
        rows = self._rows(X)
        n, K = self.mixture_.dim, len(self.dims_)
        free = sum(d * (2 * n - d + 1) / 2 for d in self.dims_) + K - 1 + 1 + (n if self.centre else 0)
        return -2 * len(rows) * self.score(X) + free * math.log(len(rows))

    def sample(self, n_samples: int = 1, noise: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return new rows, with or without noise, and their subspaces."""
        check_is_fitted(self, "mixture_")
        rng = generator(spawn_seed(self.seed_, "sample"))
        x, y = self.mixture_.sample_labelled(int(check_number("n_samples", n_samples, low=1, integer=True)), rng)
        if noise:
            x = x + self.noise_ * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        return x.numpy(), y.numpy()

    def report(self) -> str:
        """Return one line per subspace: samples, dimension, their ratio and what the theory says of it."""
        check_is_fitted(self, "mixture_")
        return recovery_table(self.counts_, self.dims_)

    def _rows(self, X: Any) -> Tensor:
        check_is_fitted(self, "mixture_")
        return torch.from_numpy(np.array(validate_data(self, X, dtype=np.float64, reset=False)))

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "mixture_")
        params: dict[str, Any] = self.get_params(deep=False) | {"random_state": self.seed_}
        params["noise_range"] = list(self.noise_range)
        if params["dims"] is not None and not isinstance(params["dims"], (int, np.integer)):
            params["dims"] = [int(d) for d in params["dims"]]
        fitted = {"seed_": self.seed_, "noise_": self.noise_, "counts": list(self.counts_), "dims": list(self.dims_)}
        law = self.mixture_.law
        tensors = {"frames": law.frames, "eigenvalues": law.eigenvalues, "log_weights": law.log_weights}
        tensors |= {"mean": self.mixture_.mean, "labels": torch.from_numpy(self.labels_)}
        return {"params": params, "fitted": fitted}, {k: v.contiguous() for k, v in tensors.items()}

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = dict(state["params"])
        params["noise_range"] = tuple(params["noise_range"])
        self.set_params(**params)
        fitted = state["fitted"]
        dims = [int(d) for d in fitted["dims"]]
        self.seed_, self.noise_, self.counts_ = fitted["seed_"], fitted["noise_"], tuple(fitted["counts"])
        bases = [U[:, :d] for U, d in zip(tensors["frames"], dims)]
        variances = [v[:d] for v, d in zip(tensors["eigenvalues"], dims)]
        self.mixture_ = MixtureOfLowRankGaussians(
            bases, tensors["log_weights"].exp(), variances, [tensors["mean"]] * len(dims)
        )
        self.dims_ = self.mixture_.dims
        self.recovery_ = tuple(recovery(m, d) for m, d in zip(self.counts_, self.dims_))
        self.labels_ = tensors["labels"].numpy()
        self.n_features_in_ = self.mixture_.dim
