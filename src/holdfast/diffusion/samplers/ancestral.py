"""Ancestral sampling: one draw from the process's own posterior per step."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.denoiser import Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.samplers.evaluation import Callback, normal_like, sampling
from holdfast.diffusion.samplers.time_grid import TimeGrid, time_grid
from holdfast.diffusion.samples import Samples

__all__ = ["ddpm", "reverse_step"]


def reverse_step(grid: TimeGrid, i: int, eta: float = 1.0) -> tuple[float, float, float]:
    r"""Return (a, b, c) of step ``i``, which is :math:`x_s = a\,\hat x_0 + b\,x_t + c\,z`.

    .. math:: c = \eta\,\frac{\sigma_s}{\sigma_t}\sqrt{\sigma_t^2 - (\alpha_t / \alpha_s)^2\sigma_s^2}, \qquad
              b = \sqrt{\sigma_s^2 - c^2} / \sigma_t, \qquad a = \alpha_s - b\,\alpha_t

    With :math:`\eta = 1` this is the posterior :math:`q(x_s \mid x_t, x_0)`, with 0 the deterministic step; each has
    the right marginal at :math:`s` when :math:`\hat x_0` is right.

    Source: Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, equations 12 and 16, for any
    alpha and sigma.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> reverse_step(time_grid(LinearPath(), 2), 1)
        (1.0, 0.0, 0.0)
    """
    alpha_t, alpha_s = grid.alpha[i : i + 2]
    sigma_t, sigma_s = grid.sigma[i : i + 2]
    added = max(0.0, sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2)
    c = eta * sigma_s / sigma_t * added**0.5
    b = max(0.0, sigma_s**2 - c**2) ** 0.5 / sigma_t
    return alpha_s - b * alpha_t, b, c


@torch.no_grad()
def ddpm(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int | TimeGrid,
    generator: torch.Generator,
    variance: Literal["posterior", "forward", "learned"] = "posterior",
    clip: float | None = None,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Draw every state from :math:`q(x_s \mid x_t, \hat x_0(x_t))`, down to the data.

    Works on any path; with a :class:`holdfast.diffusion.ddpm.DDPMSchedule` and as many steps as it has levels it is
    the sampler of the original paper. The last step, to the data, adds no noise.

    Args:
        model, x, steps, y, guidance, progress, callback: see :func:`holdfast.diffusion.samplers.euler`.
        generator: of the noise.
        variance: that of the ``"posterior"`` (:math:`\tilde\beta_t`, right for data at one point); that of the
            ``"forward"`` step (:math:`\beta_t`, right for white data); or ``"learned"``, for a network whose further
            channels v interpolate between the two logarithms, :math:`\exp(u\ln\beta_t + (1 - u)\ln\tilde\beta_t)` with
            :math:`u = (v + 1) / 2`.
        clip: predicted data are clamped to ``[-clip, clip]``; ``None`` leaves them.

    Raises:
        ValueError, TypeError: for arguments that do not fit each other or the model.

    Source: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, algorithm 2 and section
    3.2; learned variance by Nichol and Dhariwal, ICML 2021, equation 15.

    Examples:
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), DDPMSchedule(200, beta_end=0.08))
        >>> rng = torch.Generator().manual_seed(0)
        >>> out = ddpm(model, torch.randn(4000, 1, generator=rng), steps=200, generator=rng)
        >>> round(out.x.mean().item(), 1), round(out.x.std().item(), 1), out.calls
        (3.0, 0.5, 200)
    """
    check_choice("variance", variance, ("posterior", "forward", "learned"))
    check_clip(clip)
    grid = steps if isinstance(steps, TimeGrid) else time_grid(model.path, steps)
    with sampling(model, x, y=y, guidance=guidance, steps=grid.steps, progress=progress, callback=callback) as run:
        for i in range(grid.steps):
            t, share = grid.t[i], None
            if variance == "learned":
                data, share = run.data_and_variance(x, t)
            else:
                data = run.predict(x, t, "data")
            a, b, c = reverse_step(grid, i)
            x = torch.add(a * clamp(data, clip), x, alpha=b)
            if c > 0:
                ratio = grid.sigma[i] / grid.sigma[i + 1]  # of the forward step's standard deviation to the posterior's
                if share is not None:
                    x = x + c * ratio**share * normal_like(x, generator)
                else:
                    x = x + c * (ratio if variance == "forward" else 1.0) * normal_like(x, generator)
            run.done(i + 1, grid.t[i + 1], x)
    return Samples(x, run.calls)


def check_clip(clip: float | None) -> None:
    """Raise unless ``clip`` is positive or ``None``."""
    if clip is not None:
        check_number("clip", clip, low=0, open_low=True)


def clamp(data: Tensor, clip: float | None) -> Tensor:
    """Clamp predicted data to ``[-clip, clip]``."""
    return data if clip is None else data.clamp(-clip, clip)
