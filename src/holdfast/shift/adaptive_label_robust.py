"""The label-distributionally robust loss whose temperature moves by itself, one per training example."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_labels, check_number
from holdfast.shift.label_robust import (
    Normalization,
    Reduction,
    check_margin,
    check_scores,
    check_target,
    gaps_of,
    ldr_kl,
    normalize_scores,
    reduce,
)

__all__ = ["AdaptiveLDR", "adaptive_temperature"]

Solver = Literal["fixed_point", "one_step"]
# Points of the search for the best stationary temperature, and entries of one pass over them.
_GRID, _PASS = 13, 1 << 18


def _kl_to_uniform(gaps: Tensor, lam: Tensor) -> Tensor:
    """KL(p || u) for p = softmax(gaps / lam); gaps (..., K), lam (...)."""
    log_p = F.log_softmax(gaps / lam.unsqueeze(-1), -1)
    log_k = math.log(gaps.shape[-1])
    return ((log_p.exp() * log_p).sum(-1) + log_k).clamp(0, log_k)


def _moments(d: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL(p || u), the entropic value and the first two moments of d under p; the largest d of a row is 0."""
    log_p = F.log_softmax(d / lam.unsqueeze(-1), -1)
    log_mean = -log_p.amax(-1) - math.log(d.shape[-1])
    weighted = log_p.exp_() * d
    first = weighted.sum(-1)
    second = weighted.mul_(d).sum(-1)
    return first / lam - log_mean, lam * log_mean, first, second


def adaptive_temperature(
    gaps: Float[Tensor, "batch k"], temperature: float = 1.0, alpha: float = 2.0, tolerance: float = 1e-6
) -> Float[Tensor, " batch"]:
    r"""The temperature that maximises the entropic loss minus its price, exactly and for every row at once.

    .. math:: \lambda^* = \arg\max_{\lambda > 0} \psi_\lambda - \tfrac a2 (\lambda - \lambda_0)^2, \qquad
        \lambda^* = \lambda_0 \Bigl(1 - \frac{\mathrm{KL}(p^*(\lambda^*) \| u)}{\alpha \log K}\Bigr), \quad
        a = \frac{\alpha \log K}{\lambda_0}

    so :math:`\lambda^* \in [\lambda_0 (1 - 1/\alpha), \lambda_0]`: the upper end for a doubtful label (uniform
    weights), the lower end for a confident one. The right side grows with :math:`\lambda`, so iterating it from both
    ends encloses every stationary point; rows whose enclosure stays wide (the objective need not be concave there)
    are searched on a grid; Newton steps inside the bracket finish.

    Raises:
        ValueError: for a temperature that is not positive and finite, or alpha <= 1 (lambda could reach 0).

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification", ICML 2023, the
    adaptive loss (ALDR-KL) and its stationary temperature; the global search is ours.

    Examples:
        >>> import torch
        >>> adaptive_temperature(torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, -9.0]]), temperature=1.0)
        tensor([1.0000, 0.5000])
    """
    lam0 = check_number("temperature", temperature, low=0, high=math.inf, open_low=True, open_high=True)
    check_number("alpha", alpha, low=1, high=math.inf, open_low=True, open_high=True)
    return _maximiser(check_scores(gaps.detach()), lam0, alpha, tolerance)


def _maximiser(d: Tensor, lam0: float, alpha: float, tolerance: float = 1e-6) -> Tensor:
    """:func:`adaptive_temperature` of arguments that were checked."""
    d = d - d.amax(1, keepdim=True)
    price = alpha * math.log(d.shape[1]) / lam0
    # Single precision cannot resolve less than a few rounding errors of the temperature.
    close = lam0 * max(tolerance, 8 * torch.finfo(d.dtype).eps)
    low, high = d.new_full((len(d),), lam0 * (1 - 1 / alpha)), d.new_full((len(d),), lam0)
    cell = lam0 / (alpha * (_GRID - 1))
    for _ in range(2):
        kl = _moments(d, torch.stack([low, high]))[0]
        low, high = lam0 - kl / price
    left, right = low - close, high + close
    lam = (low + high) / 2
    wide = high - low > cell
    if bool(wide.any()):
        rows = wide.nonzero().squeeze(1)
        lam[rows], left[rows], right[rows] = _best_cell(d[rows], low[rows], high[rows], lam0, price, cell)
    return _polish(d, lam, left, right, lam0, price, close).clamp(lam0 * (1 - 1 / alpha), lam0)


def _best_cell(
    d: Tensor, low: Tensor, high: Tensor, lam0: float, price: float, cell: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Best of a grid over [low, high] with spacing of at most a cell, and its two neighbours."""
    points = max(3, math.ceil(float((high - low).max()) / cell) + 1)
    share = torch.linspace(0, 1, points, dtype=d.dtype, device=d.device)
    grid = low + (high - low) * share.unsqueeze(1)
    parts = grid.split(max(1, _PASS // d.numel()))
    value = torch.cat([_moments(d, part)[1] for part in parts])
    best = (value - price / 2 * (grid - lam0).square()).argmax(0)
    span = (high - low) / (points - 1)
    lam = low + span * best
    return lam, torch.maximum(lam - span, low), torch.minimum(lam + span, high)


def _polish(d: Tensor, lam: Tensor, left: Tensor, right: Tensor, lam0: float, price: float, close: float) -> Tensor:
    """Newton steps on the derivative of the objective, kept inside the bracket by bisection."""
    for _ in range(60):
        kl, _, first, second = _moments(d, lam)
        # The objective's derivative is -slope; positive slope means the maximum lies to the left.
        slope = kl + price * (lam - lam0)
        curve = price - (second - first.square()) / lam**3
        falls = slope > 0
        left, right = torch.where(falls, left, lam), torch.where(falls, lam, right)
        newton = lam - slope / curve
        inside = (curve > 0) & (newton >= left) & (newton <= right)
        new = torch.where(inside, newton, (left + right) / 2)
        moved, lam = (new - lam).abs(), new
        # A Newton step of 1e-4 leaves an error of its square.
        if bool((moved <= torch.where(inside, 1e-4 * lam0, close)).all()):
            break
    return lam


class AdaptiveLDR(nn.Module):
    r"""Adaptive label-distributionally robust loss (ALDR-KL): every training example owns a temperature.

    .. math:: \psi(f, y) = \max_{\lambda > 0} \lambda \Bigl[\log \sum_k e^{\delta_k / \lambda} - \log K\Bigr]
        - \frac{\alpha \log K}{2 \lambda_0} (\lambda - \lambda_0)^2

    Uncertain examples keep the hot, noise-robust temperature :math:`\lambda_0`; confident ones move down to
    :math:`\lambda_0 (1 - 1/\alpha)`. The gradient goes through the scores alone (envelope theorem). Inference is
    untouched: take the arg max of the scores.

    Args:
        num_samples: N, rows of the training set; the table ``temperatures`` (N,) is part of the ``state_dict``.
        num_classes: K.
        temperature: :math:`\lambda_0 > 0`.
        alpha: :math:`\alpha > 1`.
        margin: c >= 0.
        solver: ``"fixed_point"`` finds the exact maximiser with the margin inside, to 1e-6; ``"one_step"`` is the
            authors' released rule: one update of the stored temperature, from weights without the margin.
        normalize: see :func:`holdfast.shift.normalize_scores`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    ``forward(scores, target, index)`` takes the examples' rows *in the training set*: with a ``Subset`` these are
    the rows of the data set behind it, or the table mixes examples. The table is written in training mode only.

    Raises:
        ValueError: for alpha <= 1, a temperature that is not positive, ``index`` missing, out of range or repeated
            within a batch, and bad scores or labels as in :func:`holdfast.shift.ldr_kl`.

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
    Robustness and Adaptivity", ICML 2023, the ALDR-KL loss and its training algorithm.

    Examples:
        >>> import torch
        >>> loss = AdaptiveLDR(num_samples=100, num_classes=3, temperature=1.0)
        >>> f = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
        >>> value = loss(f, torch.tensor([1, 0]), index=torch.tensor([40, 7]))
        >>> [round(float(t), 2) for t in loss.temperatures[[40, 7, 0]]]
        [0.5, 1.0, 1.0]
    """

    temperatures: Tensor

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        temperature: float = 1.0,
        alpha: float = 2.0,
        margin: float = 0.1,
        solver: Solver = "fixed_point",
        normalize: Normalization = "none",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.num_samples = int(check_number("num_samples", num_samples, low=1, integer=True))
        self.num_classes = int(check_number("num_classes", num_classes, low=2, integer=True))
        self.temperature = float(
            check_number("temperature", temperature, low=0, high=math.inf, open_low=True, open_high=True)
        )
        self.alpha = float(check_number("alpha", alpha, low=1, high=math.inf, open_low=True, open_high=True))
        check_margin(margin)
        self.margin = float(margin)
        self.solver = check_choice("solver", solver, ["fixed_point", "one_step"])
        self.normalize = check_choice("normalize", normalize, ["none", "l1", "softplus_mean"])
        self.reduction = check_choice("reduction", reduction, ["mean", "sum", "none"])
        self.register_buffer("temperatures", torch.full((self.num_samples,), self.temperature))

    def forward(
        self,
        scores: Float[Tensor, "batch k"],
        target: Int[Tensor, " batch"],
        index: Int[Tensor, " batch"] | None = None,
    ) -> Tensor:
        """Loss of a batch whose rows are the examples ``index`` of the training set."""
        f = normalize_scores(scores, self.normalize)
        if f.shape[1] != self.num_classes:
            raise ValueError(f"scores must have {self.num_classes} columns, got {f.shape[1]}")
        check_target(f, target, soft=False)
        index = self._check_index(index, len(f))
        with torch.no_grad():
            lam = self._solve(f.detach(), target, index)
            if self.training:
                self.temperatures[index] = lam.to(self.temperatures.dtype)
            price = self.alpha * math.log(self.num_classes) / (2 * self.temperature)
            paid = price * (lam - self.temperature).square()
        loss = self._value(f, target, lam)
        return reduce(loss - paid, self.reduction)

    def _solve(self, f: Tensor, target: Tensor, index: Tensor) -> Tensor:
        if self.solver == "fixed_point":
            return _maximiser(gaps_of(f, target, self.margin), self.temperature, self.alpha)
        kl = _kl_to_uniform(f, self.temperatures[index].to(f.dtype))
        return self.temperature * (1 - kl / (self.alpha * math.log(self.num_classes)))

    def _value(self, f: Tensor, target: Tensor, lam: Tensor) -> Tensor:
        if float(self.temperature) > 50.0:
            return ldr_kl(f, target, lam, self.margin, reduction="none")
        # lambda * (cross-entropy of the scores with the label's lowered by the margin, over lambda) in one fused op.
        z = f
        if self.margin:
            z = f.scatter_add(1, target.unsqueeze(1), f.new_full((len(f), 1), -self.margin))
        fused = F.cross_entropy(z / lam.unsqueeze(1), target, reduction="none")
        return lam * (fused - math.log(self.num_classes))

    def _check_index(self, index: Tensor | None, n: int) -> Tensor:
        if index is None:
            raise ValueError("index is needed: the rows of the training set that the batch holds")
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            check_labels("index", index, self.num_samples)
        if len(index) != n:
            raise ValueError(f"scores and index differ in length: {n} and {len(index)}")
        ordered = index.sort().values
        if bool((ordered[0] < 0) | (ordered[-1] >= self.num_samples)):
            check_labels("index", index, self.num_samples)
        twice = ordered[1:] == ordered[:-1]
        if bool(twice.any()):
            row = int(ordered[1:][twice][0])
            raise ValueError(
                f"index holds row {row} more than once; a batch must not repeat an example, because each owns one "
                "temperature (sample without replacement within a batch)"
            )
        return index

    def extra_repr(self) -> str:
        return (
            f"{self.num_samples}, {self.num_classes}, temperature={self.temperature:g}, alpha={self.alpha:g}, "
            f"margin={self.margin:g}, solver={self.solver!r}, normalize={self.normalize!r}"
        )
