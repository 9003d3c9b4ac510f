"""How much noise to add: chosen by what comes out, on data that the fit did not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.distribution.singular.fit import fit_likelihood
from holdfast.distribution.singular.generator import LatentGaussianGenerator
from holdfast.distribution.singular.perturbation import data_scale
from holdfast.distribution.singular.points import check_points
from holdfast.metrics.transport import energy_distance, mmd2, sliced_wasserstein

__all__ = ["GRID", "Criterion", "PerturbationChoice", "generation_error", "select_perturbation"]

Criterion = Literal["sw1", "energy", "mmd"]

GRID = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Deviations that are tried, in units of the data's scale."""


@dataclass(frozen=True)
class PerturbationChoice:
    """What :func:`select_perturbation` found.

    Attributes:
        sigma: the chosen deviation, in the units of the data.
        curve: the error of every deviation, its mean over folds.
        errors: of every deviation, the error in every fold.
        criterion: what the errors are.
    """

    sigma: float
    curve: dict[float, float]
    errors: dict[float, list[float]]
    criterion: str

    def __str__(self) -> str:
        lines = [f"added noise  {self.criterion}"]
        lines += [f"{s:11.4g}  {e:.4g}{'  <- chosen' if s == self.sigma else ''}" for s, e in self.curve.items()]
        return "\n".join(lines)


def generation_error(samples: Tensor, real: Tensor, criterion: Criterion = "sw1", *, seed: int = 0) -> float:
    """Distance between generated points and real ones without noise: sliced W1, energy distance or squared MMD.

    Examples:
        >>> x = torch.zeros(4, 1)
        >>> generation_error(x + 2, x)
        2.0
    """
    check_choice("criterion", criterion, ["sw1", "energy", "mmd"])
    a, b = samples.flatten(1), real.flatten(1)
    if criterion == "sw1":
        return sliced_wasserstein(a, b, p=1, n_projections=200, seed=seed)
    return energy_distance(a, b) if criterion == "energy" else mmd2(a, b)


def select_perturbation(
    model_factory: Callable[[], LatentGaussianGenerator],
    X: Any,
    grid: Sequence[float] = GRID,
    criterion: Criterion = "sw1",
    folds: int = 3,
    *,
    samples: int = 4000,
    seed: int = 0,
    **options: Any,
) -> PerturbationChoice:
    """Choose how much noise to add, by the distance of samples to clean points that were held out.

    Values of the likelihood cannot choose: they belong to different data. Of all deviations the smallest is taken that
    is not worse than the best by more than a standard error of their difference over the folds; with one fold, which
    holds back a fifth of the data, the best.

    Args:
        model_factory: makes a new generator; called once for every deviation and fold, with the same weights.
        X: (n, ...) real numbers.
        grid: deviations, in units of the data's scale.
        criterion: "sw1", "energy" or "mmd", see :func:`generation_error`.
        folds: of cross-validation.
        samples: points generated for every error.
        seed: of everything.
        options: of :func:`fit_likelihood`.

    Raises:
        ValueError: for an empty grid, negative deviations, and what :func:`fit_likelihood` refuses.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023, section 5.

    Examples:
        >>> from torch import nn
        >>> from holdfast.distribution.singular import NormalLatent
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) @ torch.ones(1, 3)
        >>> make = lambda: LatentGaussianGenerator(nn.Linear(1, 3), NormalLatent(1))
        >>> choice = select_perturbation(make, x, (0.1, 3.0), folds=1, steps=150, lr=2e-2, device="cpu")
        >>> round(choice.sigma, 2), len(choice.curve)
        (0.17, 2)
    """
    check_number("folds", folds, low=1, integer=True)
    levels = sorted({float(check_number("grid", g, low=0)) for g in grid})
    if not levels:
        raise ValueError("grid is empty: give at least one deviation, 0 for none")
    x = check_points(X)
    scale = data_scale(x)
    order = torch.randperm(len(x), generator=generator(spawn_seed(seed, "folds")))
    parts = [order[: max(1, len(x) // 5)]] if folds == 1 else list(order.tensor_split(folds))
    errors: dict[float, list[float]] = {g * scale: [] for g in levels}
    for k, held in enumerate(parts):
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[held] = False
        real = x[held]
        for sigma, found in errors.items():
            with isolated_rng(spawn_seed(seed, "weights", k)):
                model = model_factory()
            fit_likelihood(model, x[kept], sigma, seed=spawn_seed(seed, "fit", k), **options)
            # Equal draws for all deviations of a fold: their differences are of the models alone.
            drawn = model.sample(samples, generator(spawn_seed(seed, "samples", k), model.raw.device)).cpu()
            found.append(generation_error(drawn, real, criterion, seed=spawn_seed(seed, "lines")))
    curve = {sigma: sum(e) / len(e) for sigma, e in errors.items()}
    return PerturbationChoice(_smallest(curve, errors), curve, errors, criterion)


def _smallest(curve: dict[float, float], errors: dict[float, list[float]]) -> float:
    """The smallest deviation whose error is within a standard error of the best's, fold against fold."""
    best = min(curve, key=curve.__getitem__)
    for sigma in sorted(curve):
        gaps = torch.tensor(errors[sigma]) - torch.tensor(errors[best])
        spread = float(gaps.std() / math.sqrt(len(gaps))) if len(gaps) > 1 else 0.0
        if float(gaps.mean()) <= spread:
            return sigma
    return best
