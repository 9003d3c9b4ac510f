"""Heun's method over noise levels spaced for it, with optional added noise: the sampler of EDM."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.diffusion.denoiser import Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.paths import Path
from holdfast.diffusion.samplers.evaluation import Callback, normal_like, sampling
from holdfast.diffusion.samples import Samples

__all__ = ["edm_heun", "karras_sigmas", "time_of_sigma"]


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Float[Tensor, " steps"]:
    r"""Return noise levels from ``sigma_max`` down to ``sigma_min``, evenly spaced in :math:`\sigma^{1/\rho}`.

    Raises:
        ValueError: unless ``0 < sigma_min <= sigma_max``, ``rho > 0`` and there is a step.

    Source: Karras et al., NeurIPS 2022, equation 5.

    Examples:
        >>> karras_sigmas(3, 1.0, 4.0, rho=1.0).tolist()
        [4.0, 2.5, 1.0]
    """
    check_number("steps", steps, low=1, integer=True)
    check_number("sigma_min", sigma_min, low=0, open_low=True)
    check_number("sigma_max", sigma_max, low=sigma_min)
    check_number("rho", rho, low=0, open_low=True)
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + u * (low - high)) ** rho


def time_of_sigma(path: Path, sigma: Float[Tensor, " levels"]) -> Float[Tensor, " levels"]:
    r"""Return the times at which noise over signal, :math:`\sigma_t / \alpha_t`, has the given values.

    Raises:
        ValueError: for values that the path does not reach.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> time_of_sigma(LinearPath(), torch.tensor([1.0, 3.0], dtype=torch.float64)).tolist()
        [0.5, 0.75]
    """
    least, most = _range(path)
    sigma = sigma.double()
    if float(sigma.min()) < least * (1 - 1e-9) or float(sigma.max()) > most * (1 + 1e-9):
        raise ValueError(
            f"noise over signal of this {type(path).__name__} lies in [{least:g}, {most:g}], "
            f"got {float(sigma.min()):g} to {float(sigma.max()):g}"
        )
    low, high = torch.full_like(sigma, path.t_min), torch.full_like(sigma, path.t_max)
    for _ in range(64):  # bisection down to the last bit: the ratio rises with the time on every path
        middle = (low + high) / 2
        c = path.coefficients(middle)
        below = c.sigma < sigma * c.alpha
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _range(path: Path) -> tuple[float, float]:
    c = path.coefficients(torch.tensor([path.t_min, path.t_max], dtype=torch.float64))
    least, most = (c.sigma / c.alpha).tolist()
    return least, most


@torch.no_grad()
def edm_heun(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    generator: torch.Generator | None = None,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Heun's method in :math:`x_0 + \sigma\epsilon`, from ``sigma_max`` to 0 over :func:`karras_sigmas`.

    With churn, a step first raises the noise level from :math:`\sigma` to :math:`\hat\sigma = (1 + \gamma)\sigma`,
    :math:`\gamma = \min(\text{churn} / N, \sqrt 2 - 1)`, by fresh noise. The state of any path becomes one of this form
    when divided by its alpha, so networks trained on any path can be sampled. ``steps`` steps take
    ``2 * steps - 1`` evaluations.

    Args:
        model, y, guidance, progress, callback: see :func:`holdfast.diffusion.samplers.euler`. Guidance's interval is
            in the path's time; the callback sees the state divided by alpha.
        x: the state at the first time, at the path's own scale; see :func:`holdfast.diffusion.samplers.prior`.
        steps: noise levels N above 0.
        sigma_min, sigma_max: lowest and highest level of noise over signal; 0.002 and 80, or what the path has.
        rho: larger values put more levels near the data.
        churn, churn_range, churn_noise: how much noise is added in all, at which levels, and a factor on its standard
            deviation.
        generator: of the added noise; needed with ``churn > 0``.

    Raises:
        ValueError, TypeError: for arguments that do not fit each other, the path or the model.

    Source: Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based generative models",
    NeurIPS 2022, algorithms 1 and 2.

    Examples:
        >>> from holdfast.diffusion.edm import VEPath
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), VEPath())
        >>> out = edm_heun(model, torch.tensor([[-80.0], [0.0], [80.0]]), steps=20)
        >>> out.x.flatten().round(decimals=1).tolist(), out.calls
        ([2.5, 3.0, 3.5], 39)
    """
    check_number("churn", churn, low=0)
    check_number("churn_noise", churn_noise, low=0)
    if churn > 0 and generator is None:
        raise ValueError(f"churn={churn:g} draws noise: pass a generator")
    path = model.path
    least, most = _range(path)
    sigma_min = max(0.002, least) if sigma_min is None else sigma_min
    sigma_max = min(80.0, most) if sigma_max is None else sigma_max
    sigma = karras_sigmas(steps, sigma_min, sigma_max, rho)
    gamma = min(churn / steps, math.sqrt(2) - 1) * ((sigma >= churn_range[0]) & (sigma <= churn_range[1]))
    raised = torch.maximum(sigma, (sigma * (1 + gamma)).clamp(max=most))
    start, asked = time_of_sigma(path, sigma), time_of_sigma(path, raised)
    t, t_hat = start.tolist(), asked.tolist()
    alpha, alpha_hat = path.coefficients(start).alpha.tolist(), path.coefficients(asked).alpha.tolist()
    levels, raised = [*sigma.tolist(), 0.0], raised.tolist()

    with sampling(model, x, y=y, guidance=guidance, steps=steps, progress=progress, callback=callback) as run:
        x = x / alpha[0]
        for i, (s_hat, s_next) in enumerate(zip(raised, levels[1:])):
            if s_hat > levels[i] and generator is not None:
                spread = churn_noise * math.sqrt(s_hat**2 - levels[i] ** 2)
                x = x + spread * normal_like(x, generator)
            slope = (x - run.predict(alpha_hat[i] * x, t_hat[i], "data")) / s_hat
            ahead = x + (s_next - s_hat) * slope
            if s_next > 0:
                data = run.predict(alpha[i + 1] * ahead, t[i + 1], "data")
                slope = 0.5 * (slope + (ahead - data) / s_next)
                ahead = x + (s_next - s_hat) * slope
            x = ahead
            run.done(i + 1, t[i + 1] if s_next > 0 else path.t_min, x)
    return Samples(x, run.calls)
