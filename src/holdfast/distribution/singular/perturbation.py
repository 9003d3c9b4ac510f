"""Noise that is added to data before a fit."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.core.random import generator as make_generator
from holdfast.core.random import spawn_seed
from holdfast.nn.gaussian import normal

__all__ = ["PerturbedData", "data_scale", "perturb"]

_MOST = 4000


def data_scale(x: Float[Tensor, "n *shape"]) -> float:
    """Return the one number that data are scaled by: their largest standard deviation along any direction.

    One number for all coordinates keeps the geometry; one for each would change it, and blow up a constant one. It
    does not change when the data are turned, or when coordinates that say nothing are added.

    Args:
        x: points; of more than 4000 in more than 4000 dimensions, 4000 are looked at.

    Examples:
        >>> data_scale(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        1.0
    """
    flat = x.double().flatten(1)
    if min(flat.shape) > _MOST:
        flat = flat[:: -(-len(flat) // _MOST)]
    c = flat - flat.mean(0)
    gram = c @ c.T if len(c) < c.shape[1] else c.T @ c
    return float((torch.linalg.eigvalsh(gram)[-1].clamp_min(0) / len(c)).sqrt())


def perturb(
    x: Float[Tensor, "*shape"], sigma: float, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    r"""Return :math:`x + \sigma e` with :math:`e \sim \mathcal N(0, I)`; for :math:`\sigma = 0`, x itself.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023, section 3.

    Examples:
        >>> x = torch.ones(2)
        >>> perturb(x, 0.0) is x
        True
    """
    check_number("sigma", sigma, low=0)
    return x if sigma == 0 else x + sigma * normal(x.shape, x, generator)


class PerturbedData(Dataset[Any]):
    r"""Data with Gaussian noise: :math:`\tilde x_i = x_i + \tilde\sigma e_i`, for any model.

    "fresh" draws anew whenever a row is read, which is augmentation; "fixed" gives a row the same noise for ever, which
    is the estimator that the theory is about. Of an item that is a tuple, its first entry is the point.

    Args:
        dataset: points (n, ...), or a map-style dataset.
        sigma: standard deviation :math:`\tilde\sigma`, in the units of the data. Over :func:`data_scale` it is the
            noise level of a diffusion model of data with unit scale.
        mode: "fresh" or "fixed".
        seed: of the noise.

    Raises:
        ValueError: for a negative ``sigma``, another mode, or points that are not finite.
        TypeError: for points that are integers: noise on a code means nothing.

    Source: Chae et al., JMLR 2023, section 3.

    Examples:
        >>> data = PerturbedData(torch.zeros(4, 2), 0.1, mode="fixed", seed=0)
        >>> bool((data[[0, 1]] == data[[0, 1]]).all()), len(data)
        (True, 4)
    """

    def __init__(self, dataset: Any, sigma: float, mode: Literal["fresh", "fixed"] = "fresh", seed: int = 0) -> None:
        self.sigma = check_number("sigma", sigma, low=0)
        self.mode = check_choice("mode", mode, ["fresh", "fixed"])
        self.seed = int(check_number("seed", seed, low=0, integer=True))
        self._rng = make_generator(spawn_seed(self.seed, "fresh"))
        self.points: Tensor | None = None
        if isinstance(dataset, (Tensor, np.ndarray, list)):
            self.points = as_tensor(dataset if not isinstance(dataset, list) else np.asarray(dataset))
            _refuse_integers(self.points)
            check_finite("the points", self.points)
        elif not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
            raise TypeError(f"dataset must be points or have len() and items, got {type(dataset).__name__}")
        self.dataset: Any = dataset
        self._noise: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dataset if self.points is None else self.points)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, rows: int | list[int] | slice | Int[Tensor, " rows"]) -> Any:
        """Return the row, or of an array the rows, with noise."""
        if self.points is not None:
            x = self.points[rows]
            if self.sigma == 0:
                return x
            return x + self._fixed(self.points)[rows] if self.mode == "fixed" else perturb(x, self.sigma, self._rng)
        item = self.dataset[rows]
        first = isinstance(item, tuple)
        x = as_tensor(item[0] if first else item)
        _refuse_integers(x)
        rng = make_generator(spawn_seed(self.seed, "row", cast("int", rows))) if self.mode == "fixed" else self._rng
        noisy = perturb(x, self.sigma, rng)
        return (noisy, *item[1:]) if first else noisy

    def _fixed(self, points: Tensor) -> Tensor:
        if self._noise is None:
            rng = make_generator(spawn_seed(self.seed, "fixed"))
            self._noise = self.sigma * normal(points.shape, points, rng)
        return self._noise


def _refuse_integers(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"noise on codes means nothing, but the points are {x.dtype}; give real numbers, or if these are counts or "
            "grey levels convert them"
        )
