"""When diffusion loses an attribute: the error of telling a sample from its edited twin after t steps."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_finite, check_number
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Predictor, as_times

__all__ = ["attribute_error", "attribute_error_mc", "loss_time"]


def attribute_error(
    delta_norm: float | Float[Tensor, "*shape"], abar: float | Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    r"""Error of the best denoiser in telling :math:`x_0` from its edited twin :math:`y_0` at cumulative signal abar.

    .. math:: \mathrm{Err} = \tfrac12\,\mathrm{OVL}\bigl(q(x_t|x_0), q(y_t|y_0)\bigr)
              = \tfrac12\Bigl[1 - \mathrm{erf}\frac{\sqrt{\bar\alpha_t}\,\lVert y_0 - x_0\rVert}
                {2\sqrt{2(1-\bar\alpha_t)}}\Bigr]

    One half (nothing is left of the attribute) for twins that are equal or at :math:`\bar\alpha = 0`; zero for
    twins that differ at :math:`\bar\alpha = 1`.

    Args:
        delta_norm: :math:`\lVert y_0 - x_0\rVert`, the size of the edit in pixel values.
        abar: cumulative signal :math:`\bar\alpha_t`; shapes broadcast.

    Raises:
        ValueError: for a negative or infinite norm, or a signal outside [0, 1].

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
    section 4 and appendix (attribute loss).

    Examples:
        >>> round(float(attribute_error(16.6, 0.0162)), 3), float(attribute_error(0.0, 0.5))
        (0.143, 0.5)
    """
    delta = torch.as_tensor(delta_norm, dtype=torch.float64)
    signal = torch.as_tensor(abar, dtype=torch.float64, device=delta.device)
    check_finite("delta_norm", delta)
    if bool((delta < 0).any()):
        raise ValueError(f"delta_norm is a norm, so it cannot be negative; got {float(delta.min()):g}")
    if not bool(((signal >= 0) & (signal <= 1)).all()):
        raise ValueError(f"abar must lie in [0, 1], got values from {float(signal.min()):g} to {float(signal.max()):g}")
    # Written without a quotient of zeros: equal twins cannot be told apart even without noise.
    ratio = torch.where(delta > 0, signal.sqrt() * delta / (1 - signal).sqrt(), torch.zeros(()).to(delta))
    return torch.special.erfc(ratio / (2 * math.sqrt(2))) / 2


def loss_time(delta_norm: float | Float[Tensor, " samples"], schedule: DDPMSchedule, tau: float = 0.25) -> int:
    r"""First time at which an attribute is lost with degree ``tau``; it stays lost from there on.

    .. math:: t^* = \min\{t : E_{x_0}\mathrm{Err}(x_0, g(x_0), t) \ge \tau\}, \qquad\text{for one norm: }
              \frac{\bar\alpha_t}{1 - \bar\alpha_t} \le
              \Bigl(\frac{2\sqrt 2\;\mathrm{erf}^{-1}(1 - 2\tau)}{\lVert\Delta\rVert}\Bigr)^2

    An attribute whose edits are larger (in the sense of stochastic dominance) is lost later.

    Args:
        delta_norm: size of the edit, or the sizes over a sample of the data.
        schedule: the noise levels.
        tau: degree in [0, 1/2).

    Returns:
        A time step, or ``schedule.steps`` if the attribute is never lost.

    Raises:
        ValueError: for a degree outside [0, 1/2), or a norm that :func:`attribute_error` refuses.

    Source: Yue et al., ICLR 2024, theorem of section 4.

    Examples:
        >>> schedule = DDPMSchedule(1000)
        >>> [loss_time(norm, schedule) for norm in (2.3, 5.4, 16.6)]
        [364, 528, 704]
    """
    check_number("tau", tau, low=0, high=0.5, open_high=True)
    norms = torch.as_tensor(delta_norm, dtype=torch.float64).flatten()
    if norms.numel() == 0:
        raise ValueError("delta_norm holds no norm")
    check_finite("delta_norm", norms)
    # Err rises with t, so that the first time is found by halving: ten evaluations, whatever the number of norms.
    low, high = 0, schedule.steps
    while low < high:
        middle = (low + high) // 2
        lost = float(attribute_error(norms, schedule.alpha_bar[middle].to(norms.device)).mean()) >= tau
        low, high = (low, middle) if lost else (middle + 1, high)
    return low


@torch.no_grad()
def attribute_error_mc(
    model: Predictor,
    x0: Float[Tensor, "pairs *shape"],
    y0: Float[Tensor, "pairs *shape"],
    t: float,
    n: int,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 4096,
) -> Float[Tensor, " pairs"]:
    r"""Measure the attribute error of a denoiser with ``n`` noisy copies of both twins of every pair.

    .. math:: \tfrac12\bigl\{P_{x_t}(\lVert\hat x_0 - x_0\rVert > \lVert\hat x_0 - y_0\rVert)
              + P_{y_t}(\lVert\hat y_0 - x_0\rVert < \lVert\hat y_0 - y_0\rVert)\bigr\}

    A tie counts one half. For the optimal model of the two points this is :func:`attribute_error`.

    Args:
        model: any predictor with a path, trained or exact.
        x0, y0: samples and their edited twins.
        t: time of the model's path.
        n: noisy copies of each.
        batch_size: samples per evaluation of the model.

    Raises:
        ValueError: for twins of different shapes, ``n`` below 1, or a time outside the path.

    Source: Yue et al., ICLR 2024, definition of the attribute loss, section 4.

    Examples:
        >>> from holdfast.diffusion.oracles.empirical import EmpiricalDenoiser
        >>> x, y = torch.zeros(1, 4), torch.ones(1, 4)
        >>> model, rng = EmpiricalDenoiser(torch.cat([x, y]), DDPMSchedule(1000)), torch.Generator().manual_seed(0)
        >>> error = float(attribute_error_mc(model, x, y, 300, 4000, generator=rng))
        >>> abs(error - float(attribute_error(2.0, model.path.alpha_bar[300]))) < 0.03
        True
    """
    if x0.shape != y0.shape or x0.ndim < 2:
        raise ValueError(f"x0 and y0 must have one shape (pairs, ...), got {tuple(x0.shape)} and {tuple(y0.shape)}")
    check_number("n", n, low=1, integer=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    model.path.check(torch.tensor([float(t)]))

    def confused(own: Tensor, other: Tensor) -> Tensor:
        wrong = torch.zeros(len(own), dtype=torch.float64, device=own.device)
        for rows in torch.arange(len(own), device=own.device).repeat_interleave(int(n)).split(int(batch_size)):
            a, b = own[rows], other[rows]
            eps = torch.randn(a.shape, generator=generator, device=a.device, dtype=a.dtype)
            times = as_times(t, a)
            guess = model.predict(model.path.noise(a, eps, times), times, target="data")
            near, far = ((guess - c).flatten(1).norm(dim=1) for c in (a, b))
            wrong.index_add_(0, rows, (near > far).double() + 0.5 * (near == far).double())
        return wrong / n

    return (confused(x0, y0) + confused(y0, x0)) / 2
