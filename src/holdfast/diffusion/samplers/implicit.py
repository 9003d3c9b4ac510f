"""Denoising diffusion implicit models: few deterministic steps, and the way back from data to noise."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.diffusion.denoiser import Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.samplers.ancestral import check_clip, clamp, reverse_step
from holdfast.diffusion.samplers.evaluation import Callback, normal_like, sampling
from holdfast.diffusion.samplers.time_grid import TimeGrid, time_grid
from holdfast.diffusion.samples import Samples

__all__ = ["ddim", "ddim_invert"]


@torch.no_grad()
def ddim(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int | TimeGrid,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    clip: float | None = None,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Move along the line between predicted data and predicted noise.

    .. math:: x_s = \alpha_s\,\hat x_0 + \sqrt{\sigma_s^2 - c^2}\;\hat\epsilon + c\,z, \qquad
              c = \eta\,\frac{\sigma_s}{\sigma_t}\sqrt{\sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2}

    Deterministic at :math:`\eta = 0`; at 1 it is :func:`holdfast.diffusion.samplers.ddpm`. Works on any path. Data and
    noise stay consistent when predicted data are clamped.

    Args:
        model, x, steps, y, guidance, progress, callback: see :func:`holdfast.diffusion.samplers.euler`.
        eta: share of the posterior's standard deviation that is drawn anew.
        generator: of the noise; needed for ``eta > 0``.
        clip: predicted data are clamped to ``[-clip, clip]``; ``None`` leaves them.

    Raises:
        ValueError, TypeError: for arguments that do not fit each other or the model.

    Source: Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, equation 12.

    Examples:
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), DDPMSchedule(1000))
        >>> out = ddim(model, torch.tensor([[-1.0], [0.0], [1.0]]), steps=100)
        >>> out.x.flatten().round(decimals=1).tolist(), out.calls
        ([2.5, 3.0, 3.5], 100)
    """
    check_number("eta", eta, low=0, high=1)
    if eta > 0 and generator is None:
        raise ValueError(f"eta={eta:g} draws noise: pass a generator")
    check_clip(clip)
    grid = steps if isinstance(steps, TimeGrid) else time_grid(model.path, steps)
    with sampling(model, x, y=y, guidance=guidance, steps=grid.steps, progress=progress, callback=callback) as run:
        for i in range(grid.steps):
            data = clamp(run.predict(x, grid.t[i], "data"), clip)
            a, b, c = reverse_step(grid, i, eta)
            x = torch.add(a * data, x, alpha=b)
            if c > 0 and generator is not None:
                x = x + c * normal_like(x, generator)
            run.done(i + 1, grid.t[i + 1], x)
    return Samples(x, run.calls)


@torch.no_grad()
def ddim_invert(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int | TimeGrid,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Find the noise from which :func:`ddim` returns to ``x``: the same steps, walked from data to noise.

    .. math:: x_t = \frac{\alpha_t}{\alpha_s}\,x_s + \Big(\sigma_t - \frac{\alpha_t}{\alpha_s}\sigma_s\Big)\,
              \hat\epsilon(x_s, s)

    The noise is predicted at the nearer end of every step, so what comes back differs from ``x`` by an error that
    falls as one over the number of steps. The first step, from clean data, asks the model at the first time of the
    grid.

    Args:
        model, y, guidance, progress, callback: see :func:`holdfast.diffusion.samplers.euler`.
        x: data.
        steps: how many, or the :class:`TimeGrid` that :func:`ddim` will use.

    Raises:
        ValueError, TypeError: for arguments that do not fit each other or the model.

    Source: Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, section 4.3; Dhariwal and Nichol,
    NeurIPS 2021, appendix F.

    Examples:
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), DDPMSchedule(1000))
        >>> x = torch.tensor([[2.5], [3.5]])
        >>> noise = ddim_invert(model, x, steps=200).x
        >>> bool((ddim(model, noise, steps=200).x - x).abs().max() < 0.02)
        True
    """
    grid = steps if isinstance(steps, TimeGrid) else time_grid(model.path, steps)
    with sampling(model, x, y=y, guidance=guidance, steps=grid.steps, progress=progress, callback=callback) as run:
        for done, i in enumerate(reversed(range(grid.steps)), 1):
            r = grid.alpha[i] / grid.alpha[i + 1]
            at = grid.t[i] if grid.jumps(i) else grid.t[i + 1]
            eps = run.predict(x, at, "noise")
            x = torch.add(r * x, eps, alpha=grid.sigma[i] - r * grid.sigma[i + 1])
            run.done(done, grid.t[i], x)
    return Samples(x, run.calls)
