"""Adaptive prediction: ask cheap predictors first and go on only while they are unsure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite, check_labels, check_number

__all__ = ["AdaptiveCascade", "CascadePrediction", "CostAccuracy"]


class CascadePrediction(NamedTuple):
    """Predicted classes, the cost that was spent, and the stage that answered."""

    labels: Int[Tensor, " n"]
    costs: Float[Tensor, " n"]
    stages: Int[Tensor, " n"]


class CostAccuracy(NamedTuple):
    """One point of a cost-accuracy curve: the last predictor allowed, its mean cost, its accuracy."""

    last: float
    cost: float
    accuracy: float


class AdaptiveCascade:
    r"""Stop at the first predictor that is confident enough.

    Of predictors ordered by cost :math:`m_1 < \dots < m_J`, with confidence :math:`p_j = \max_c p_j(c \mid x)`, the
    first with :math:`p_j > \tau_j` answers, and the last one answers everything else. A sample that stops at stage
    *j* costs :math:`m_j`.

    Each threshold is chosen for its pair (*j*, *j* + 1) alone: the smallest on the grid whose rule "stage *j* where
    :math:`p_j > \tau`, else stage *j* + 1" is the most accurate on held-out data. Fit on data that trained none of
    the predictors: on training data every stage looks sure.

    Args:
        costs: one positive number per predictor, strictly increasing: prefix lengths, ensemble sizes, exit depths,
            milliseconds.

    Attributes:
        thresholds_: :math:`\tau_1, \dots, \tau_{J-1}`.

    Raises:
        ValueError: for costs that do not increase, or probabilities of wrong shape or that do not sum to one.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, Section 4.2.1 and Appendix D.1.

    Examples:
        >>> probs = torch.tensor([[[0.9, 0.1], [0.45, 0.55]], [[0.8, 0.2], [0.7, 0.3]]])      # (stage, sample, class)
        >>> cascade = AdaptiveCascade([8, 64]).fit(probs, torch.tensor([0, 0]))
        >>> cascade.predict(probs).labels, cascade.predict(probs).costs
        (tensor([0, 0]), tensor([ 8., 64.]))
    """

    def __init__(self, costs: Sequence[float]) -> None:
        self.costs = tuple(float(check_number(f"costs[{i}]", c, low=0, open_low=True)) for i, c in enumerate(costs))
        if not self.costs:
            raise ValueError("costs must hold one value per predictor, got none")
        if any(b <= a for a, b in pairwise(self.costs)):
            raise ValueError(f"costs must be strictly increasing, got {list(self.costs)}")
        self.thresholds_: tuple[float, ...] | None = () if len(self.costs) == 1 else None

    def fit(
        self, probs: Float[Tensor, "stages n classes"], y: Int[Tensor, " n"], grid: int | Sequence[float] = 100
    ) -> Self:
        """Choose every pair's threshold on held-out predictions.

        Args:
            probs: class probabilities of every predictor.
            y: true classes.
            grid: candidates: that many, evenly spaced on [0.1, 1], or the values themselves. 0 ("always stop") and
                1 ("never stop") are always among them, so a pair is never worse than its better half.
        """
        probs = self._check(probs)
        y = torch.as_tensor(y)
        check_labels("y", y, probs.shape[2])
        if len(y) != probs.shape[1]:
            raise ValueError(f"lengths differ: probs has {probs.shape[1]} samples, y has {len(y)}")
        if isinstance(grid, int):
            values = np.linspace(0.1, 1.0, int(check_number("grid", grid, low=2, integer=True)))
        else:
            values = np.asarray(grid, dtype=float)
        tau = torch.from_numpy(np.unique(np.concatenate([[0.0, 1.0], values])))
        confidence, labels = probs.max(2)
        right = labels == y
        thresholds = []
        for j in range(len(self.costs) - 1):
            stop = confidence[j].double() > tau[:, None]
            correct = torch.where(stop, right[j], right[j + 1]).sum(1)
            thresholds.append(float(tau[int((correct == correct.max()).nonzero()[0])]))
        self.thresholds_ = tuple(thresholds)
        return self

    def predict(
        self, probs: Float[Tensor, "stages n classes"], thresholds: Sequence[float] | None = None
    ) -> CascadePrediction:
        """Return classes, costs and stages for predictions that are already there.

        Args:
            probs: class probabilities of every predictor.
            thresholds: use these instead of the fitted ones.
        """
        probs = self._check(probs)
        tau = self._thresholds(thresholds)
        confidence, labels = probs.max(2)
        stages = self._stages(confidence, tau)
        cost = torch.tensor(self.costs, device=probs.device)
        return CascadePrediction(labels.gather(0, stages[None])[0], cost[stages], stages)

    def run(self, predictors: Sequence[Callable[[Any], Float[Tensor, "n classes"]]], x: Any) -> CascadePrediction:
        """Call predictor *j* only on the rows of ``x`` that no earlier one answered.

        Args:
            predictors: from rows to class probabilities, cheapest first.
            x: anything with a length that an index tensor can select rows of.
        """
        if len(predictors) != len(self.costs):
            raise ValueError(f"the cascade has {len(self.costs)} stages, got {len(predictors)} predictors")
        tau = [*self._thresholds(None), -1.0]
        labels, stages = torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.long)
        rows = torch.arange(len(x))
        for j, predict in enumerate(predictors):
            if not len(rows):
                break
            confidence, answer = _check_probabilities(torch.as_tensor(predict(x[rows]))).cpu().max(1)
            stop = confidence.double() > tau[j]
            labels[rows[stop]], stages[rows[stop]] = answer[stop], j
            rows = rows[~stop]
        return CascadePrediction(labels, torch.tensor(self.costs)[stages], stages)

    def curve(self, probs: Float[Tensor, "stages n classes"], y: Int[Tensor, " n"]) -> list[CostAccuracy]:
        """Return mean cost and accuracy when the cascade is capped at each of its stages."""
        probs = self._check(probs)
        tau = self._thresholds(None)
        points = []
        for j in range(1, len(self.costs) + 1):
            capped = AdaptiveCascade(self.costs[:j]).predict(probs[:j], tau[: j - 1])
            accuracy = float((capped.labels == torch.as_tensor(y)).double().mean())
            points.append(CostAccuracy(self.costs[j - 1], float(capped.costs.double().mean()), accuracy))
        return points

    def __repr__(self) -> str:
        return f"AdaptiveCascade(costs={list(self.costs)}, thresholds={self.thresholds_})"

    def _stages(self, confidence: Tensor, tau: Sequence[float]) -> Tensor:
        last = confidence.new_tensor([-1.0], dtype=torch.float64)
        limits = torch.cat([confidence.new_tensor(list(tau), dtype=torch.float64), last])
        # argmax returns the first of equal maxima: the first stage that is sure.
        return (confidence.double() > limits[:, None]).int().argmax(0)

    def _thresholds(self, thresholds: Sequence[float] | None) -> tuple[float, ...]:
        if thresholds is None:
            if self.thresholds_ is None:
                raise ValueError("the cascade has no thresholds yet: call fit, or pass them to predict")
            return self.thresholds_
        if len(thresholds) != len(self.costs) - 1:
            raise ValueError(f"thresholds must hold {len(self.costs) - 1} values, got {len(thresholds)}")
        return tuple(float(check_number(f"thresholds[{i}]", t, low=0, high=1)) for i, t in enumerate(thresholds))

    def _check(self, probs: Tensor) -> Tensor:
        probs = torch.as_tensor(probs)
        if probs.ndim != 3 or probs.shape[0] != len(self.costs):
            raise ValueError(
                f"probs must have shape (stages, n, classes) with {len(self.costs)} stages, got {tuple(probs.shape)}"
            )
        return _check_probabilities(probs)


def _check_probabilities(probs: Tensor) -> Tensor:
    check_finite("probs", probs)
    off = (probs.sum(-1) - 1).abs()
    if bool((off > 1e-3).any()) or bool((probs < 0).any()):
        raise ValueError(
            "probs must hold class probabilities: not negative and summing to 1, "
            f"got a sum that is off by {float(off.max()):.3g} and a smallest entry of {float(probs.min()):.3g}"
        )
    # Rounding can push a sure prediction above 1, where a threshold of 1 must still mean "never stop".
    return probs.clamp(max=1)
