"""Transport between Gaussians: the Bures-Wasserstein distance and its geodesics, for singular covariances too."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.core.checks import check_finite

__all__ = ["bures", "gaussian_geodesic", "gaussian_transport"]


def gaussian_transport(
    mean0: Float[Tensor, "*batch d"],
    cov0: Float[Tensor, "*batch d d"],
    mean1: Float[Tensor, "*batch d"],
    cov1: Float[Tensor, "*batch d d"],
) -> Float[Tensor, "*batch"]:
    r"""Squared Wasserstein-2 distance of Gaussians, with gradients.

    .. math:: \lVert m_0 - m_1 \rVert^2 + \mathrm{tr}(S_0) + \mathrm{tr}(S_1) -
              2\, \mathrm{tr}\bigl((S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    Covariances may be singular; where both sides have no width in a direction, the gradient for a covariance is that
    within its range (the distance has no finite slope out of it).

    Args:
        mean0, mean1: (*batch, d); batches broadcast.
        cov0, cov1: (*batch, d, d), symmetric positive semi-definite.

    Raises:
        TypeError: for other types than floats, or several.
        ValueError: for shapes that do not fit, values that are not finite, or covariances that are not symmetric
            positive semi-definite. Values are not looked at while ``torch.compile`` traces.

    Source: Dowson and Landau, "The Fréchet Distance between Multivariate Normal Distributions", J. Multivariate
    Analysis 1982; Bhatia, Jain and Lim, "On the Bures-Wasserstein distance between positive definite matrices",
    Expositiones Mathematicae 2019.

    Examples:
        >>> zero, eye = torch.zeros(2), torch.eye(2)
        >>> gaussian_transport(zero, 4 * eye, torch.tensor([3.0, 0.0]), eye)
        tensor(11.)
    """
    _check(mean0, cov0, mean1, cov1)
    return (mean0 - mean1).square().sum(-1) + bures(cov0, cov1)


def bures(
    cov0: Float[Tensor, "*batch d d"], cov1: Float[Tensor, "*batch d d"], names: tuple[str, str] = ("cov0", "cov1")
) -> Float[Tensor, "*batch"]:
    """Return the part of :func:`gaussian_transport` that is due to the covariances; ``names`` are for messages."""
    cross = psd_root(names[0], cov0) @ psd_root(names[1], cov1)
    if torch.is_grad_enabled() and cross.requires_grad:
        # The nuclear norm, whose gradient is the polar factor.
        overlap = (cross * polar_factor(cross).detach()).sum((-2, -1))
    else:
        overlap = torch.linalg.svdvals(cross).sum(-1)
    trace = cov0.diagonal(dim1=-2, dim2=-1).sum(-1) + cov1.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (trace - 2 * overlap).clamp_min(0)


def gaussian_geodesic(
    mean0: Float[Tensor, "*batch d"],
    cov0: Float[Tensor, "*batch d d"],
    mean1: Float[Tensor, "*batch d"],
    cov1: Float[Tensor, "*batch d d"],
    t: float | Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    r"""Mean and covariance at time ``t`` of the shortest way from one Gaussian to another (McCann's interpolation).

    .. math:: m_t = (1 - t)\, m_0 + t\, m_1,\qquad S_t = F_t F_t^\top,\qquad
              F_t = (1 - t)\, S_0^{1/2} + t\, S_1^{1/2}\, \Omega

    with the orthogonal :math:`\Omega` that brings the two roots nearest; for regular :math:`S_0` this is
    :math:`((1 - t) I + t T)\, S_0\, ((1 - t) I + t T)` with the optimal map T, and for singular ones, where there may
    be several shortest ways, it is one of them. The speed is constant: :math:`W_2(p_s, p_t) = |t - s|\, W_2(p_0, p_1)`.

    Args:
        mean0, mean1: (*batch, d); batches broadcast.
        cov0, cov1: (*batch, d, d), symmetric positive semi-definite.
        t: in [0, 1], one or one for each of the batch.

    Raises:
        TypeError: for other types than floats, or several.
        ValueError: for t outside [0, 1], shapes that do not fit, values that are not finite, or covariances that are
            not symmetric positive semi-definite.

    Source: McCann, "A Convexity Principle for Interacting Gases", Advances in Mathematics 1997, section 1.

    Examples:
        >>> zero, eye = torch.zeros(1), torch.eye(1)
        >>> gaussian_geodesic(zero, eye, zero + 4, 9 * eye, 0.5)
        (tensor([2.]), tensor([[4.]]))
    """
    _check(mean0, cov0, mean1, cov1)
    time = torch.as_tensor(t, dtype=mean0.dtype, device=mean0.device)
    if not torch.compiler.is_compiling() and not bool(((time >= 0) & (time <= 1)).all()):
        raise ValueError(f"t must lie in [0, 1], got {t if isinstance(t, (int, float)) else time.tolist()}")
    root0, root1 = psd_root("cov0", cov0), psd_root("cov1", cov1)
    turned = root1 @ polar_factor(root0 @ root1).mT
    at = time[..., None, None]
    factor = (1 - at) * root0 + at * turned
    return (1 - time[..., None]) * mean0 + time[..., None] * mean1, factor @ factor.mT


def psd_root(name: str, s: Tensor) -> Tensor:
    """Return the symmetric square root; gradients hold for equal eigenvalues too."""
    return _Root.apply(s, name, not torch.compiler.is_compiling())  # type: ignore[return-value]


def polar_factor(m: Tensor) -> Tensor:
    """Return the orthogonal factor nearest to ``m``; gradients hold for equal singular values too."""
    return _Polar.apply(m)  # type: ignore[return-value]


class _Root(torch.autograd.Function):
    """R = S^1/2, by R dR + dR R = dS."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, name: str, looks: bool) -> Tensor:
        if looks and not torch.allclose(s, s.mT, atol=_rounding(s) * float(s.abs().max())):
            raise ValueError(f"{name} must be symmetric")
        value, vector = torch.linalg.eigh((s + s.mT) / 2)
        if looks:
            bad = value[..., 0] < -_rounding(s) * value[..., -1].abs()
            if bool(bad.any()):
                least = float(value[..., 0][bad].min())
                raise ValueError(f"{name} must be positive semi-definite, but has the eigenvalue {least:g}")
        value = value.clamp_min(0).sqrt()
        ctx.save_for_backward(value, vector)
        return (vector * value[..., None, :]) @ vector.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        value, vector = ctx.saved_tensors
        inner = vector.mT @ ((grad + grad.mT) / 2) @ vector
        return vector @ (inner * _reciprocal_sums(value, 2.0)) @ vector.mT, None, None


class _Polar(torch.autograd.Function):
    """Q = U V^T of M = U diag(s) V^T, by dQ = U [(K - K^T) / (s_i + s_j)] V^T with K = U^T dM V."""

    @staticmethod
    def forward(ctx: Any, m: Tensor) -> Tensor:
        left, value, right = torch.linalg.svd(m)
        ctx.save_for_backward(left, value, right)
        return left @ right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        left, value, right = ctx.saved_tensors
        inner = (left.mT @ grad @ right.mT) * _reciprocal_sums(value, 1.0)
        return left @ (inner - inner.mT) @ right


def _reciprocal_sums(value: Tensor, power: float) -> Tensor:
    """Return 1 / (v_i + v_j), and 0 where the sum is no more than rounding."""
    total = value[..., :, None] + value[..., None, :]
    least = value.amax(-1)[..., None, None] * (10 * torch.finfo(value.dtype).eps) ** (1 / power)
    return torch.where(total > least, 1 / total, 0)


def _rounding(t: Tensor) -> float:
    return 1e-8 if t.dtype == torch.float64 else 1e-5


def _check(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> None:
    named = {"mean0": mean0, "cov0": cov0, "mean1": mean1, "cov1": cov1}
    for name, t in named.items():
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor, got {getattr(t, 'dtype', type(t).__name__)}")
        if t.dtype != mean0.dtype:
            raise TypeError(f"means and covariances must have one dtype, got {mean0.dtype} and {t.dtype}")
    d = mean0.shape[-1] if mean0.ndim else 0
    means = all(m.ndim and m.shape[-1] == d for m in (mean0, mean1))
    if d == 0 or not means or any(c.shape[-2:] != (d, d) for c in (cov0, cov1)):
        raise ValueError(
            f"means must have length {d} and covariances shape ({d}, {d}), got "
            + ", ".join(f"{k} {tuple(t.shape)}" for k, t in named.items())
        )
    if not torch.compiler.is_compiling():
        for name, t in named.items():
            check_finite(name, t.detach())
