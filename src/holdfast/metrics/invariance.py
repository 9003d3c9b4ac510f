"""Whether a representation keeps what it should: symmetry errors, and what it still says about the environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.metrics._inputs import as_codes, as_float

__all__ = ["EnvironmentProbe", "environment_probe", "equivariance_error", "invariance_error"]

Action = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EnvironmentProbe:
    """How well a linear probe tells environments apart.

    Attributes:
        balanced_accuracy: mean over folds of the mean recall over environments.
        chance: what a probe that knows nothing reaches, one over the number of environments.
        folds: balanced accuracy of each fold.
        recall: environment to its mean recall over the folds.
    """

    balanced_accuracy: float
    chance: float
    folds: tuple[float, ...]
    recall: dict[Any, float]

    @property
    def leakage(self) -> float:
        """Balanced accuracy rescaled so that 0 is chance and 1 is perfect recovery."""
        return (self.balanced_accuracy - self.chance) / (1 - self.chance)


def environment_probe(
    representation: Any,
    environment: Any,
    *,
    n_folds: int = 5,
    weight_decay: float = 1e-3,
    max_samples: int | None = 10_000,
    seed: int = 0,
) -> EnvironmentProbe:
    """Recover the environment from a representation by cross-validated logistic regression.

    Features are standardised inside each fold, environments weigh equally, folds are stratified. At chance the
    representation holds nothing about the environment that a linear layer can read.

    Args:
        representation: ``(n, d)``.
        environment: ``(n,)`` integers or strings, at least two.
        n_folds: every environment needs at least so many samples.
        weight_decay: penalty on the mean loss, see ``LinearProbe``.
        max_samples: larger sets are subsampled, evenly over environments where they can be; ``None`` takes all.
        seed: of folds and subsampling.

    Raises:
        ValueError: for fewer than two environments, or one with fewer samples than folds.

    Source: the probe as a proxy of the divergence between domains: Ben-David et al., "Analysis of Representations for
    Domain Adaptation", NeurIPS 2006, section 5.

    Examples:
        >>> import torch
        >>> z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> site = ["a", "b"] * 30
        >>> z[::2, 0] += 8
        >>> environment_probe(z, site).balanced_accuracy, environment_probe(z, site).chance
        (1.0, 0.5)
    """
    x = as_float("representation", representation, ndim=2).cpu().numpy()
    (codes,), names = as_codes(environment=environment)
    code = codes.numpy()
    if len(code) != len(x):
        raise ValueError(f"representation has {len(x)} rows but environment has {len(code)}")
    if len(names) < 2:
        raise ValueError(f"a probe needs at least two environments, got only {names[0]!r}")
    check_number("n_folds", n_folds, low=2, integer=True)
    check_number("weight_decay", weight_decay, low=0, open_low=True)
    rng = np.random.default_rng(spawn_seed(seed, "environment probe"))
    if max_samples is not None:
        check_number("max_samples", max_samples, low=n_folds * len(names), integer=True)
        if len(x) > max_samples:
            rows = _even_subset(code, max_samples, rng)
            x, code = x[rows], code[rows]
    count = np.bincount(code)
    if count.min() < n_folds:
        few = int(count.argmin())
        raise ValueError(f"environment {names[few]!r} has {count[few]} samples, fewer than the {n_folds} folds")
    folds, recalls = [], []
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=int(rng.integers(2**31 - 1)))
    for fit, held in splitter.split(x, code):
        # The penalty is on one vector for two environments, which has twice the joint squared norm of a pair.
        c = (2.0 if len(names) == 2 else 1.0) / (len(fit) * weight_decay)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000, class_weight="balanced"))
        said = model.fit(x[fit], code[fit]).predict(x[held])
        recall = np.bincount(code[held], said == code[held]) / np.bincount(code[held])  # folds are stratified
        recalls.append(recall)
        folds.append(float(recall.mean()))
    mean = np.mean(recalls, 0)
    return EnvironmentProbe(
        float(np.mean(folds)), 1 / len(names), tuple(folds), dict(zip(names.tolist(), mean.tolist()))
    )


def equivariance_error(
    f: Callable[[Tensor], Tensor],
    action_in: Action | Sequence[Action],
    action_out: Action | Sequence[Action],
    x: Tensor,
) -> float:
    r"""Relative error of :math:`f(g x) = \rho(g) f(x)` over a batch and over the given group elements.

    .. math:: \sqrt{\frac{\sum_{g, i} \lVert f(g x_i) - \rho(g) f(x_i) \rVert^2}
                         {\sum_{g, i} \lVert \rho(g) f(x_i) \rVert^2}}

    Args:
        f: the map under test; a module is used in the mode it is in, without gradients.
        action_in: one group element's action on a batch of inputs, or a sequence of them.
        action_out: the same elements' actions on a batch of outputs, in the same order.
        x: batch of inputs.

    Raises:
        ValueError: for sequences of different length, or outputs that change shape.

    Examples:
        >>> import torch
        >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> flip = lambda v: v.flip(1)
        >>> equivariance_error(torch.relu, flip, flip, x)
        0.0
    """
    moves_in, moves_out = _sequence(action_in), _sequence(action_out)
    if len(moves_in) != len(moves_out):
        raise ValueError(f"action_in has {len(moves_in)} group elements but action_out has {len(moves_out)}")
    error = size = 0.0
    with torch.no_grad():
        base = f(x)
        for move_in, move_out in zip(moves_in, moves_out):
            expected = move_out(base).double()
            error += _squared_gap(f(move_in(x)), expected)
            size += float(expected.square().sum())
    return _relative(error, size)


def invariance_error(f: Callable[[Tensor], Tensor], action: Action | Sequence[Action], x: Tensor) -> float:
    r"""Relative error of :math:`f(g x) = f(x)`: what a group element moves, against how much outputs differ at all.

    .. math:: \sqrt{\frac{\sum_{g, i} \lVert f(g x_i) - f(x_i) \rVert^2}{|G| \sum_i \lVert f(x_i) - \bar f \rVert^2}}

    with the batch mean :math:`\bar f`. Adding a constant to ``f`` or scaling it changes nothing; about
    :math:`\sqrt 2` means that :math:`g x` is as far from ``x`` as another sample is.

    Args:
        f: the map under test; a module is used in the mode it is in, without gradients.
        action: one group element's action on a batch of inputs, or a sequence of them.
        x: batch of at least two inputs.

    Examples:
        >>> import torch
        >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> invariance_error(lambda v: v.square().sum(1), torch.neg, x)
        0.0
    """
    moves = _sequence(action)
    if len(x) < 2:
        raise ValueError(f"the spread of outputs needs at least two inputs, got {len(x)}")
    with torch.no_grad():
        base = f(x).double()
        error = sum(_squared_gap(f(move(x)), base) for move in moves)
        size = len(moves) * float((base - base.mean(0)).square().sum())
    return _relative(error, size)


def _sequence(action: Action | Sequence[Action]) -> list[Action]:
    if not isinstance(action, Sequence):
        return [action]
    if not action:
        raise ValueError("at least one group element is needed, got an empty sequence")
    return list(action)


def _squared_gap(value: Tensor, expected: Tensor) -> float:
    if value.shape != expected.shape:
        raise ValueError(f"outputs must keep their shape, got {tuple(value.shape)} and {tuple(expected.shape)}")
    return float((value.double() - expected).square().sum())


def _relative(error: float, size: float) -> float:
    if error != error or size != size:
        raise ValueError("f gives values that are not finite")
    if error == 0:
        return 0.0
    return float("inf") if size == 0 else (error / size) ** 0.5


def _even_subset(code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a subset of ``n``: one of each environment in turn until they run out."""
    order = rng.permutation(len(code))
    by_code = order[np.argsort(code[order], kind="stable")]
    count = np.bincount(code)
    turn = np.arange(len(code)) - np.repeat(np.cumsum(count) - count, count)
    return np.sort(by_code[np.lexsort((rng.random(len(code)), turn))[:n]])
