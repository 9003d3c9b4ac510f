"""How varied samples are within one request, and how much of the request a latent gives away."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_matrix, check_number, check_same_length
from holdfast.core.random import generator

__all__ = ["CompositionalSplit", "Leakage", "compositional_split", "diversity_ratio", "leakage"]


def _cells(c: Any) -> Tensor:
    values = as_tensor(c).double()
    check_matrix("c", values)
    return values


def diversity_ratio(samples: Any, real: Any, c: Any, c_real: Any = None) -> float:
    r"""Variance of entries within cells of equal attributes, of samples over that of real points.

    .. math:: \frac{\sum_g n_g \overline{\mathrm{var}}(\text{samples in } g)}
              {\sum_g n_g \overline{\mathrm{var}}(\text{real in } g)}

    over cells with at least two of both, weighted by the real points. 0: every request is answered by one point.

    Args:
        samples: (n, ...).
        real: (m, ...).
        c: attributes of the samples, and of the real points too unless ``c_real`` gives theirs.

    Raises:
        ValueError: for different lengths, or no cell with two of both.

    Examples:
        >>> x, c = torch.tensor([[0.0], [2.0], [5.0], [9.0]]), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
        >>> diversity_ratio(0.5 * x, x, c)
        0.25
    """
    x, y = (as_tensor(a).double().flatten(1) for a in (samples, real))
    cells_x = _cells(c)
    cells_y = cells_x if c_real is None else _cells(c_real)
    check_same_length(samples=x, c=cells_x)
    check_same_length(real=y, c_real=cells_y)
    _, group = torch.cat([cells_x, cells_y]).unique(dim=0, return_inverse=True)
    of_x, of_y = group[: len(x)], group[len(x) :]
    above = below = 0.0
    for g in range(int(group.max()) + 1):
        a, b = x[of_x == g], y[of_y == g]
        if min(len(a), len(b)) >= 2:
            above += len(b) * float(a.var(0).mean())
            below += len(b) * float(b.var(0).mean())
    if below == 0:
        raise ValueError("no combination of attributes has two samples and two different real points")
    return above / below


class Leakage(NamedTuple):
    """Accuracy of a linear probe for every attribute, on codes it was not fitted to, and that of the larger class."""

    accuracy: Float[np.ndarray, " attributes"]
    chance: Float[np.ndarray, " attributes"]


def leakage(z: Any, c: Any, *, seed: int = 0) -> Leakage:
    """Fit a logistic probe from codes to every binary attribute on one half, and score it on the other.

    Under a standard prior a code should tell nothing of the condition; under a learned one it may.

    Args:
        z: codes, (n, latent), drawn from the posterior: its means also tell of latents that are all noise, because the
            probe standardises.
        c: attributes, 0 or 1, (n, attributes).
        seed: of the halves.

    Raises:
        ValueError: for different lengths, or an attribute that is constant in a half.

    Examples:
        >>> z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> leakage(z, (z[:, :1] > 0).float()).accuracy.round(1)
        array([1.])
    """
    codes, values = (as_tensor(a).double().cpu().numpy() for a in (z, c))
    n = check_same_length(z=codes, c=values)
    order = np.random.default_rng(seed).permutation(n)
    first, second = order[: n // 2], order[n // 2 :]
    scaler = StandardScaler().fit(codes[first])
    accuracy, chance = [], []
    for k in range(values.shape[1]):
        y = values[:, k] > 0.5
        if len(set(y[first])) < 2:
            raise ValueError(f"attribute {k} is constant among the codes the probe is fitted to")
        probe = LogisticRegression(max_iter=1000).fit(scaler.transform(codes[first]), y[first])
        accuracy.append(probe.score(scaler.transform(codes[second]), y[second]))
        chance.append(max(y[second].mean(), 1 - y[second].mean()))
    return Leakage(np.array(accuracy), np.array(chance))


class CompositionalSplit(NamedTuple):
    """Rows for training, rows of held-out combinations, and those combinations."""

    train: Bool[Tensor, " n"]
    held_out: Bool[Tensor, " n"]
    combinations: Float[Tensor, "k attributes"]


def compositional_split(c: Any, held_out: Any, *, seed: int = 0) -> CompositionalSplit:
    """Hold combinations of attributes out of training, while every single value still occurs in it.

    Args:
        c: attributes, (n, attributes).
        held_out: combinations, (k, attributes); or how many to draw among those that occur.
        seed: of the draw.

    Raises:
        ValueError: where a single value would be left without a training row, more combinations are asked for than
            occur, or columns do not fit.

    Examples:
        >>> c = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> compositional_split(c, [[1.0, 1.0]]).train.tolist()
        [True, True, True, False]
    """
    values = _cells(c)
    if isinstance(held_out, (int, np.integer)) and not isinstance(held_out, bool):
        there = values.unique(dim=0)
        count = int(check_number("held_out", held_out, low=1, high=len(there) - 1, integer=True))
        rng = generator(seed)
        for _ in range(100):
            chosen = there[torch.randperm(len(there), generator=rng)[:count]]
            if _missing(values, chosen) is None:
                break
    else:
        chosen = as_tensor(held_out).double()
        check_matrix("held_out", chosen, columns=values.shape[1])
    lost = _missing(values, chosen)  # type: ignore[possibly-undefined]
    if lost is not None:
        raise ValueError(f"with these combinations held out, attribute {lost[0]} is never {lost[1]:g} in training")
    out = (values[:, None] == chosen[None]).all(-1).any(1)  # type: ignore[possibly-undefined]
    return CompositionalSplit(~out, out, chosen.float())  # type: ignore[possibly-undefined]


def _missing(values: Tensor, chosen: Tensor) -> tuple[int, float] | None:
    """Return an attribute and a value of it that occur, but not in a row outside the chosen combinations."""
    kept = values[~(values[:, None] == chosen[None]).all(-1).any(1)]
    for k in range(values.shape[1]):
        for v in values[:, k].unique().tolist():
            if not bool((kept[:, k] == v).any()):
                return k, v
    return None
