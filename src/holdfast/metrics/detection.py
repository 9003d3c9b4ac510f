"""Detection of what does not belong, and prediction with the right to abstain.

One convention throughout: **a higher score means more out-of-distribution**, or more distrusted.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.metrics._inputs import as_float

__all__ = [
    "accuracy_at_coverage",
    "aupr_in",
    "aupr_out",
    "aurc",
    "auroc",
    "excess_aurc",
    "fpr_at_tpr",
    "ood_metrics",
    "risk_coverage_curve",
]


def auroc(id_scores: Any, ood_scores: Any) -> float:
    r"""Probability that an out-of-distribution sample scores higher than an in-distribution one.

    .. math:: P(s_{\text{out}} > s_{\text{in}}) + \tfrac12 P(s_{\text{out}} = s_{\text{in}})

    Swapping the two sets gives one minus the value.

    Raises:
        ValueError: for an empty set or a score that is not finite.

    Examples:
        >>> auroc(id_scores=[0.1, 0.2, 0.8], ood_scores=[0.5, 0.9])
        0.8333333333333334
    """
    inside, outside = _scores(id_scores, ood_scores)
    ordered = inside.sort().values
    below = torch.searchsorted(ordered, outside, right=False)
    not_above = torch.searchsorted(ordered, outside, right=True)
    return float((below + not_above).double().mean() / (2 * len(ordered)))


def aupr_out(id_scores: Any, ood_scores: Any) -> float:
    r"""Average precision with the out-of-distribution samples as positives.

    .. math:: \sum_t (R_t - R_{t-1}) P_t

    over the distinct scores as thresholds (no interpolation). Chance level: the share of out-of-distribution samples.

    Raises:
        ValueError: for an empty set or a score that is not finite.

    Examples:
        >>> aupr_out(id_scores=[0.1, 0.2], ood_scores=[0.5, 0.9])
        1.0
    """
    inside, outside = _scores(id_scores, ood_scores)
    return _average_precision(outside, inside)


def aupr_in(id_scores: Any, ood_scores: Any) -> float:
    """Average precision with the in-distribution samples as positives, ranked by the negated score.

    Examples:
        >>> aupr_in(id_scores=[0.1, 0.2], ood_scores=[0.5, 0.9])
        1.0
    """
    inside, outside = _scores(id_scores, ood_scores)
    return _average_precision(-inside, -outside)


def fpr_at_tpr(
    id_scores: Any,
    ood_scores: Any,
    tpr: float = 0.95,
    *,
    positive: Literal["in", "out"] = "in",
    interpolation: Literal["step", "linear"] = "step",
) -> float:
    """False positive rate at a true positive rate.

    Args:
        id_scores: in-distribution scores.
        ood_scores: out-of-distribution scores.
        tpr: the true positive rate, in ``(0, 1]``.
        positive: ``"in"``: accept the share ``tpr`` of in-distribution samples and count the out-of-distribution
            ones that slip through (the usual FPR95); ``"out"``: catch the share ``tpr`` of out-of-distribution
            samples and count the false alarms.
        interpolation: ``"step"``: at the first threshold that reaches ``tpr`` (a rate some threshold attains);
            ``"linear"``: on the line between the two neighbouring points of the ROC curve.

    Raises:
        ValueError: for an empty set, a score that is not finite, or ``tpr`` outside ``(0, 1]``.

    Examples:
        >>> fpr_at_tpr(id_scores=[0.1, 0.2, 0.3, 0.8], ood_scores=[0.25, 0.5, 0.9, 1.0], tpr=0.75)
        0.25
    """
    check_number("tpr", tpr, low=0, high=1, open_low=True)
    check_choice("positive", positive, ["in", "out"])
    check_choice("interpolation", interpolation, ["step", "linear"])
    inside, outside = _scores(id_scores, ood_scores)
    hits, alarms = _counts(-inside, -outside) if positive == "in" else _counts(outside, inside)
    true, false = hits / hits[-1], alarms / alarms[-1]
    i = int(torch.searchsorted(true, torch.tensor(tpr, dtype=true.dtype, device=true.device)))
    if interpolation == "step" or float(true[i]) == tpr:
        return float(false[i])
    t0, f0 = (float(true[i - 1]), float(false[i - 1])) if i else (0.0, 0.0)
    return f0 + (tpr - t0) / (float(true[i]) - t0) * (float(false[i]) - f0)


def ood_metrics(
    id_scores: Any,
    ood_scores: Any,
    *,
    positive: Literal["in", "out"] = "in",
    interpolation: Literal["step", "linear"] = "step",
) -> dict[str, float]:
    """The usual four numbers of out-of-distribution detection; a higher score means more out-of-distribution.

    ``positive`` and ``interpolation`` set the convention of ``"fpr95"`` alone, see :func:`fpr_at_tpr`.

    Raises:
        ValueError: for an empty set or a score that is not finite.

    Examples:
        >>> ood_metrics(id_scores=[0.0, 0.1], ood_scores=[0.8, 0.9])
        {'auroc': 1.0, 'fpr95': 0.0, 'aupr_in': 1.0, 'aupr_out': 1.0}
    """
    return {
        "auroc": auroc(id_scores, ood_scores),
        "fpr95": fpr_at_tpr(id_scores, ood_scores, 0.95, positive=positive, interpolation=interpolation),
        "aupr_in": aupr_in(id_scores, ood_scores),
        "aupr_out": aupr_out(id_scores, ood_scores),
    }


def risk_coverage_curve(loss: Any, distrust: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""Mean loss of the most trusted samples against their share, when the most distrusted are withheld first.

    .. math:: \text{coverage}_i = i / n,\qquad \text{risk}_i = \frac1i \sum_{j \le i} \ell_{(j)}

    with samples in order of distrust. Samples of equal distrust are in random order: the curve holds the expected
    value, so it does not depend on how rows are sorted.

    Args:
        loss: ``(n,)`` loss per sample; ``prediction != label`` gives selective error.
        distrust: ``(n,)``, higher is withheld first.

    Returns:
        coverage and risk, both ``(n,)`` float64.

    Examples:
        >>> coverage, risk = risk_coverage_curve(loss=[0, 0, 1, 1], distrust=[0.1, 0.2, 0.7, 0.9])
        >>> risk.tolist()
        [0.0, 0.0, 0.3333333333333333, 0.5]
    """
    x, d = as_float("loss", loss, ndim=1), as_float("distrust", distrust, ndim=1)
    if len(x) != len(d):
        raise ValueError(f"loss and distrust must have one length, got {len(x)} and {len(d)}")
    d = d.to(x.device)
    values, group = d.unique(return_inverse=True)
    size = torch.zeros(len(values), dtype=x.dtype, device=x.device).index_add_(0, group, torch.ones_like(x))
    mean = torch.zeros_like(size).index_add_(0, group, x) / size
    expected = mean[group.sort().values]
    count = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
    return count / len(x), expected.cumsum(0) / count


def aurc(loss: Any, distrust: Any) -> float:
    r"""Area under the risk-coverage curve, :math:`\frac1n \sum_i \text{risk}_i`; lower is better.

    A distrust that says nothing gives the mean loss.

    Source: Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers",
    ICLR 2019, section 2.

    Examples:
        >>> aurc(loss=[0, 1], distrust=[0.1, 0.9])
        0.25
    """
    return float(risk_coverage_curve(loss, distrust)[1].mean())


def excess_aurc(loss: Any, distrust: Any) -> float:
    """Area under the risk-coverage curve above that of the perfect ranking (distrust = loss); 0 is best.

    Source: Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers",
    ICLR 2019, section 2.

    Examples:
        >>> excess_aurc(loss=[0, 1], distrust=[0.1, 0.9])
        0.0
    """
    return aurc(loss, distrust) - aurc(loss, loss)


def accuracy_at_coverage(correct: Any, distrust: Any, coverage: float) -> float:
    """Accuracy on the share ``coverage`` of samples that are trusted most (rounded up to whole samples).

    Examples:
        >>> accuracy_at_coverage(correct=[1, 1, 0, 1], distrust=[0.1, 0.2, 0.9, 0.3], coverage=0.75)
        1.0
    """
    check_number("coverage", coverage, low=0, high=1, open_low=True)
    share, risk = risk_coverage_curve(1 - as_float("correct", correct, ndim=1), distrust)
    i = int(torch.searchsorted(share, torch.tensor(coverage, dtype=share.dtype, device=share.device)))
    return 1.0 - float(risk[i])


def _scores(id_scores: Any, ood_scores: Any) -> tuple[Tensor, Tensor]:
    inside, outside = as_float("id_scores", id_scores, ndim=1), as_float("ood_scores", ood_scores, ndim=1)
    return inside, outside.to(inside.device)


def _counts(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and negatives at or above each distinct score, scores falling."""
    score, order = torch.cat([positive, negative]).sort(descending=True)
    is_positive = (order < len(positive)).double()
    last_of_tie = torch.ones_like(score, dtype=torch.bool)
    last_of_tie[:-1] = score[:-1] != score[1:]
    hits = is_positive.cumsum(0)
    alarms = (1 - is_positive).cumsum(0)
    return hits[last_of_tie], alarms[last_of_tie]


def _average_precision(positive: Tensor, negative: Tensor) -> float:
    hits, alarms = _counts(positive, negative)
    gain = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return float((gain * hits / (hits + alarms)).sum())
