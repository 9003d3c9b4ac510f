"""How good predicted classes and probabilities are, on average, by class, and for the worst group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.metrics._inputs import as_class_index, as_codes, as_float, as_probabilities

__all__ = [
    "WorstGroup",
    "accuracy",
    "balanced_accuracy",
    "balanced_topk_accuracy",
    "brier",
    "macro_f1",
    "nll",
    "topk_accuracy",
    "worst_group",
]


def accuracy(y: Any, pred: Any) -> float:
    """Share of predictions that are the label.

    Args:
        y: ``(n,)`` labels: integers, booleans or strings.
        pred: ``(n,)`` predicted labels.

    Raises:
        ValueError: for empty input or different lengths.

    Examples:
        >>> accuracy(["a", "b", "b", "a"], ["a", "b", "a", "a"])
        0.75
    """
    (a, b), _ = as_codes(y=y, pred=pred)
    return float((a == b).double().mean())


def balanced_accuracy(y: Any, pred: Any) -> float:
    r"""Mean over the classes present in ``y`` of the share that is predicted right.

    Examples:
        >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
        0.5
    """
    (a, b), values = as_codes(y=y, pred=pred)
    return _class_mean((a == b).double(), a, len(values))


def macro_f1(y: Any, pred: Any) -> float:
    r"""Mean over classes of :math:`F_1 = 2\,\mathrm{tp} / (2\,\mathrm{tp} + \mathrm{fp} + \mathrm{fn})`.

    Classes are those seen in ``y`` or in ``pred``; a class never predicted right counts 0.

    Examples:
        >>> macro_f1([0, 0, 1, 1], [0, 1, 1, 1])
        0.7333333333333334
    """
    (a, b), values = as_codes(y=y, pred=pred)
    n = len(values)
    true, said = torch.bincount(a, minlength=n), torch.bincount(b, minlength=n)
    hit = torch.bincount(a[a == b], minlength=n)
    return float((2 * hit.double() / (true + said)).mean())


def topk_accuracy(y: Any, scores: Any, k: int, *, classes: Any = None) -> float:
    """Share of samples whose class is among the ``k`` highest scores.

    Ties are broken at random, in expectation: constant scores give ``k / C``.

    Args:
        y: ``(n,)`` column indices, or values from ``classes``.
        scores: ``(n, C)``; logits or probabilities.
        k: between 1 and ``C``.
        classes: the label of each column; column indices by default.

    Examples:
        >>> topk_accuracy([0, 2], [[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]], k=2)
        0.5
    """
    return float(_topk(y, scores, k, classes)[0].mean())


def balanced_topk_accuracy(y: Any, scores: Any, k: int, *, classes: Any = None) -> float:
    """Mean over the classes present in ``y`` of their top-``k`` accuracy.

    Examples:
        >>> balanced_topk_accuracy([0, 0, 0, 1], [[0.9, 0.1]] * 4, k=1)
        0.5
    """
    hit, index, n_classes = _topk(y, scores, k, classes)
    return _class_mean(hit, index, n_classes)


def nll(y: Any, proba: Any, *, classes: Any = None) -> float:
    r"""Mean negative log-likelihood :math:`-\frac1n \sum_i \log p_{i, y_i}` in nats.

    Probabilities are floored at the machine epsilon of float64, so a confident mistake costs 36 nats, not infinity.

    Raises:
        ValueError: where a row of ``proba`` is not a distribution, or a label has no column.

    Examples:
        >>> round(nll([0, 1], [[0.5, 0.5], [0.0, 1.0]]), 6)
        0.346574
    """
    index, p = as_probabilities(y, proba, classes)
    own = p.gather(1, index[:, None])[:, 0]
    return float(-own.clamp_min(torch.finfo(p.dtype).eps).log().mean())


def brier(y: Any, proba: Any, *, classes: Any = None) -> float:
    r"""Brier score :math:`\frac1n \sum_i \sum_c (p_{ic} - \mathbb 1[y_i = c])^2`, in ``[0, 2]``.

    Examples:
        >>> brier([0, 1], [[0.5, 0.5], [0.0, 1.0]])
        0.25
    """
    index, p = as_probabilities(y, proba, classes)
    own = p.gather(1, index[:, None])[:, 0]
    return float((p.square().sum(1) - 2 * own + 1).mean())


@dataclass(frozen=True)
class WorstGroup:
    """A metric by group.

    Attributes:
        values: group name to value, in sorted order of names.
        counts: group name to samples.
        group: name of the worst group.
        worst: its value.
    """

    values: dict[Any, float]
    counts: dict[Any, int]
    group: Any
    worst: float

    @property
    def gap(self) -> float:
        """Distance between the best and the worst group."""
        return max(self.values.values()) - min(self.values.values())


def worst_group(
    metric: Callable[[Any, Any], float], y: Any, pred: Any, groups: Any, *, higher_is_better: bool = True
) -> WorstGroup:
    """Apply a metric to each group apart and name the worst.

    Args:
        metric: ``metric(y, pred) -> float``, e.g. :func:`accuracy` or :func:`nll`.
        y: ``(n,)`` labels.
        pred: ``(n,)`` predictions, or ``(n, C)`` probabilities, as ``metric`` wants them.
        groups: ``(n,)`` group of each sample (environment, attribute, class ...): integers or strings.
        higher_is_better: ``False`` for losses.

    Examples:
        >>> r = worst_group(accuracy, [0, 1, 1, 0], [0, 1, 0, 0], ["north", "north", "south", "south"])
        >>> r.worst, r.group, r.values
        (0.5, 'south', {'north': 1.0, 'south': 0.5})
    """
    (codes,), names = as_codes(groups=groups)
    y, pred = (v if isinstance(v, Tensor) else np.asarray(v) for v in (y, pred))
    if not len(codes) == len(y) == len(pred):
        raise ValueError(f"lengths differ: y has {len(y)}, pred has {len(pred)}, groups has {len(codes)}")
    values, counts = {}, {}
    for g, name in enumerate(names.tolist()):
        rows = (codes == g).nonzero()[:, 0]
        values[name] = float(metric(_take(y, rows), _take(pred, rows)))
        counts[name] = len(rows)
    broken = [n for n, v in values.items() if v != v]
    if broken:
        raise ValueError(f"the metric is not a number for group {broken[0]!r}")
    worst = (min if higher_is_better else max)(values, key=values.__getitem__)
    return WorstGroup(values, counts, worst, values[worst])


def _take(v: Tensor | np.ndarray, rows: Tensor) -> Tensor | np.ndarray:
    return v[rows.to(v.device)] if isinstance(v, Tensor) else v[rows.numpy()]


def _class_mean(per_sample: Tensor, index: Tensor, n_classes: int) -> float:
    count = torch.bincount(index, minlength=n_classes)
    total = torch.zeros(n_classes, dtype=per_sample.dtype, device=per_sample.device).index_add_(0, index, per_sample)
    seen = count > 0
    return float((total[seen] / count[seen]).mean())


def _topk(y: Any, scores: Any, k: int, classes: Any) -> tuple[Float[Tensor, " n"], Tensor, int]:
    s = as_float("scores", scores, ndim=2)
    check_number("k", k, low=1, high=s.shape[1], integer=True)
    index = as_class_index(y, s.shape[1], classes).to(s.device)
    if len(index) != len(s):
        raise ValueError(f"y has {len(index)} labels but scores has {len(s)} rows")
    own = s.gather(1, index[:, None])
    above, tied = (s > own).sum(1), (s == own).sum(1)
    return ((k - above).double() / tied).clamp(0, 1), index, s.shape[1]
