"""Label-distributionally robust losses with the Kullback-Leibler penalty: one temperature, many classical losses."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_finite, check_labels, check_matrix, check_number

__all__ = ["Normalization", "ldr_kl", "ldr_weights", "normalize_scores", "score_gaps"]

Normalization = Literal["none", "l1", "softplus_mean"]
Reduction = Literal["mean", "sum", "none"]
# Above this temperature lambda * (logsumexp - log K) cancels; log1p of a mean of expm1 does not.
_HOT = 50.0
# Mean absolute score below which a row is divided by this instead: a head that starts at zero must not explode.
_FLAT = 1e-5


def check_scores(scores: Tensor) -> Tensor:
    """Return ``scores`` as a finite float matrix of at least two classes (half precision becomes single)."""
    check_matrix("scores", scores)
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, got dtype {scores.dtype}")
    if scores.shape[0] == 0:
        raise ValueError("scores must hold at least one row, got an empty batch")
    if scores.shape[1] < 2:
        raise ValueError(f"scores must have at least 2 classes (columns), got {scores.shape[1]}")
    check_finite("scores", scores)
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def check_target(scores: Tensor, target: Tensor, *, soft: bool = True) -> bool:
    """Check ``target`` against ``scores``; return whether it is soft (rows of class probabilities)."""
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    n, k = scores.shape
    if target.ndim == 2 and soft:
        if not target.is_floating_point():
            raise TypeError(f"soft targets must be floating point, got dtype {target.dtype}")
        if target.shape != scores.shape:
            raise ValueError(f"soft targets must have shape {(n, k)} like the scores, got {tuple(target.shape)}")
        check_finite("target", target)
        total = target.sum(1)
        bad = ((total - 1).abs() > 1e-4) | (target.amin(1) < -1e-6)
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise ValueError(
                f"soft targets must be non-negative and sum to 1, but row {i} sums to {float(total[i]):g} "
                f"with minimum {float(target[i].min()):g}"
            )
        return True
    check_labels("target", target, k)
    if len(target) != n:
        raise ValueError(f"scores and target differ in length: {n} and {len(target)}")
    return False


def check_temperature(temperature: float | Tensor, n: int) -> None:
    """Raise unless ``temperature`` is a non-negative number (zero and infinity included) or a vector of ``n``."""
    if isinstance(temperature, Tensor):
        if temperature.shape not in ((), (n,)):
            raise ValueError(f"temperature must be a number or have shape ({n},), got {tuple(temperature.shape)}")
        if not bool((temperature >= 0).all()):
            raise ValueError(f"temperature must be in [0, inf], got minimum {float(temperature.min())}")
    else:
        check_number("temperature", temperature, low=0)


def check_margin(margin: float) -> None:
    """Raise unless ``margin`` is a finite number of at least zero."""
    check_number("margin", margin, low=0, high=math.inf, open_high=True)


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """Mean, sum or nothing."""
    check_choice("reduction", reduction, ["mean", "sum", "none"])
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def normalize_scores(scores: Float[Tensor, "batch k"], mode: Normalization) -> Float[Tensor, "batch k"]:
    r"""Scores on a common scale, so that one temperature fits every row and every moment of training.

    ``"l1"`` divides by the mean absolute score, ``"softplus_mean"`` takes a softplus and divides by its mean,
    ``"none"`` returns the scores. The gradient shrinks like :math:`1/\lVert f\rVert`, so a learning rate that suits
    raw scores does not suit normalised ones. A row whose mean absolute score is below 1e-5 is divided by 1e-5.

    Raises:
        ValueError: for an unknown mode, fewer than two classes or non-finite scores.

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification", ICML 2023,
    experiments.

    Examples:
        >>> import torch
        >>> normalize_scores(torch.tensor([[1.0, -3.0]]), "l1").abs().mean()
        tensor(1.)
    """
    check_choice("mode", mode, ["none", "l1", "softplus_mean"])
    return rescale(check_scores(scores), mode)


def rescale(f: Tensor, mode: Normalization) -> Tensor:
    """:func:`normalize_scores` without its checks, so that a head that uses it can be exported."""
    if mode == "none":
        return f
    if mode == "softplus_mean":
        f = F.softplus(f)
    return f / f.abs().mean(1, keepdim=True).clamp_min(_FLAT)


def score_gaps(
    scores: Float[Tensor, "batch k"], target: Int[Tensor, " batch"], margin: float = 0.0
) -> Float[Tensor, "batch k"]:
    r"""How far every class stands above the label: :math:`\delta_k = f_k - f_y + c\,\mathbb 1[k \ne y]`.

    Raises:
        ValueError: for a negative margin, a label outside ``[0, k)`` or non-finite scores.
        TypeError: for labels that are not integers.

    Examples:
        >>> import torch
        >>> score_gaps(torch.tensor([[1.0, 3.0]]), torch.tensor([0]), margin=0.5)
        tensor([[0.0000, 2.5000]])
    """
    f = check_scores(scores)
    check_target(f, target, soft=False)
    check_margin(margin)
    return gaps_of(f, target, margin)


def gaps_of(f: Tensor, target: Tensor, margin: float) -> Tensor:
    """:func:`score_gaps` of arguments that were checked."""
    y = target.unsqueeze(1)
    gaps = f - (f.gather(1, y) - margin)
    return gaps if margin == 0 else gaps.scatter(1, y, 0.0)


def _log_mean_exp(gaps: Tensor, temperature: float | Tensor) -> Tensor:
    """``temperature * log mean exp(gaps / temperature)`` over the last axis, for 0 < temperature < inf."""
    if isinstance(temperature, Tensor):
        lam, hottest = temperature.unsqueeze(-1), float(temperature.max())
    else:
        lam, hottest = temperature, temperature
    k = gaps.shape[-1]
    # Subtracting before dividing keeps the exponents exact where they are near 0, however cold it is.
    top = gaps.amax(-1, keepdim=True).detach()
    value = torch.logsumexp((gaps - top) / lam, -1) - math.log(k)
    if hottest <= _HOT:
        return temperature * value + top.squeeze(-1)
    z = gaps / lam
    flat = temperature * torch.log1p(torch.expm1(z.clamp(max=1.0)).mean(-1))
    return torch.where(z.amax(-1) <= 1.0, flat, temperature * value + top.squeeze(-1))


def _robust_value(gaps: Tensor, temperature: float | Tensor) -> Tensor:
    """The inner maximum over the simplex for every temperature in [0, inf], over the last axis of ``gaps``."""
    # Below eps^2 the penalty is under rounding error, and gaps / temperature would overflow.
    cold = torch.finfo(gaps.dtype).eps ** 2
    if not isinstance(temperature, Tensor):
        if temperature <= cold:
            return gaps.amax(-1)
        return gaps.mean(-1) if math.isinf(temperature) else _log_mean_exp(gaps, temperature)
    low, high = temperature <= cold, torch.isinf(temperature)
    if not bool((low | high).any()):
        return _log_mean_exp(gaps, temperature)
    value = _log_mean_exp(gaps, torch.where(low | high, torch.ones_like(temperature), temperature))
    return torch.where(low, gaps.amax(-1), torch.where(high, gaps.mean(-1), value))


def ldr_kl(
    scores: Float[Tensor, "batch k"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch k"],
    temperature: float | Float[Tensor, " batch"] = 1.0,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Label-distributionally robust loss: an adversary re-weights all classes and pays KL for leaving uniform.

    .. math:: \psi_\lambda(f, y) = \max_{p \in \Delta_K} \sum_k p_k \delta_k - \lambda\,\mathrm{KL}(p \,\|\, u)
        = \lambda \Bigl[\log \sum_k e^{\delta_k / \lambda} - \log K\Bigr],
        \qquad \delta_k = f_k - f_y + c\,\mathbb 1[k \ne y]

    Temperature 1 without margin is cross-entropy minus ``log K``; 0 is the Crammer-Singer loss
    :math:`\max_k \delta_k` (not consistent when no class has probability above one half); infinity is the linear
    loss :math:`\tfrac1K\sum_k\delta_k`, which is symmetric (:math:`\sum_y \psi = c(K-1)`) and so tolerates uniform
    label noise below :math:`(K-1)/K`. For every temperature between, the minimiser of the risk orders the classes as
    the posterior does, so it is top-k consistent for all k at once. Soft targets give the expectation over the label.

    Args:
        scores: raw scores f, one column per class.
        target: class indices, or rows of class probabilities.
        temperature: lambda in ``[0, inf]``, one number or one per row; 0 and ``inf`` are exact.
        margin: c >= 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: for non-finite scores, fewer than two classes, a label outside ``[0, k)``, soft targets that do
            not sum to 1, a negative temperature or margin, or lengths that differ.
        TypeError: for labels that are not integers.

    Source: Zhu, Ying and Yang, "Label Distributionally Robust Losses for Multi-class Classification: Consistency,
    Robustness and Adaptivity", ICML 2023, equation of the LDR-KL loss.

    Examples:
        >>> import math, torch
        >>> f, y = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([1])
        >>> a = ldr_kl(f, y, temperature=1.0)
        >>> b = torch.nn.functional.cross_entropy(f, y) - math.log(3)
        >>> bool(torch.isclose(a, b))
        True
        >>> ldr_kl(f, y, temperature=0), ldr_kl(f, y, temperature=math.inf)
        (tensor(2.), tensor(0.3333))
    """
    f = check_scores(scores)
    soft = check_target(f, target)
    check_temperature(temperature, len(f))
    check_margin(margin)
    if not soft:
        return reduce(_robust_value(gaps_of(f, target, margin), temperature), reduction)
    if margin == 0:
        # One label's gaps are another's plus a constant, and the loss shifts with that constant.
        value = _robust_value(f - f.amax(1, keepdim=True).detach(), temperature)
        expected = (target * (f - f.amax(1, keepdim=True).detach())).sum(1)
        return reduce(value - expected, reduction)
    k = f.shape[1]
    off = 1.0 - torch.eye(k, dtype=f.dtype, device=f.device)
    gaps = f.unsqueeze(1) - f.unsqueeze(2) + margin * off
    lam = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) and temperature.ndim else temperature
    return reduce((target * _robust_value(gaps, lam)).sum(1), reduction)


def ldr_weights(
    scores: Float[Tensor, "batch k"],
    target: Int[Tensor, " batch"],
    temperature: float | Float[Tensor, " batch"] = 1.0,
    margin: float = 0.0,
) -> Float[Tensor, "batch k"]:
    r"""The adversary's class weights :math:`p^*_k = \mathrm{softmax}(\delta / \lambda)_k` behind :func:`ldr_kl`.

    The gradient of the loss is :math:`p^* - e_y`. Temperature 0 puts equal weight on the tied largest gaps,
    infinity is uniform.

    Raises:
        ValueError: as :func:`ldr_kl`.

    Source: Zhu, Ying and Yang, ICML 2023, closed form of the inner maximum.

    Examples:
        >>> import torch
        >>> ldr_weights(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([1]), temperature=float("inf"))
        tensor([[0.3333, 0.3333, 0.3333]])
    """
    gaps = score_gaps(scores, target, margin)
    check_temperature(temperature, len(gaps))
    lam = torch.as_tensor(temperature, dtype=gaps.dtype, device=gaps.device).expand(len(gaps)).unsqueeze(1)
    top = (gaps == gaps.amax(1, keepdim=True)).to(gaps.dtype)
    cold = lam <= torch.finfo(gaps.dtype).eps ** 2
    soft = torch.softmax(gaps / torch.where(cold, torch.ones_like(lam), lam), 1)
    return torch.where(cold, top / top.sum(1, keepdim=True), soft)
