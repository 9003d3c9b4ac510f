"""Deterministic samplers of the probability-flow ODE: Euler's and Heun's methods on the velocity."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.diffusion.denoiser import Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.samplers.evaluation import Callback, sampling
from holdfast.diffusion.samplers.time_grid import TimeGrid, time_grid
from holdfast.diffusion.samples import Samples

__all__ = ["euler", "heun"]


@torch.no_grad()
def euler(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int | TimeGrid,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Follow the velocity from noise to data in straight steps; the error falls as one over their number.

    .. math:: x_{t_{i+1}} = x_{t_i} + (t_{i+1} - t_i)\, v(x_{t_i}, t_i)

    On a path whose first level still has noise (a discrete schedule), the last step is to the predicted data.

    Args:
        model: a :class:`holdfast.diffusion.denoiser.Denoiser`, an oracle, or anything with ``path`` and ``predict``.
        x: the state at the first time, usually standard normal noise.
        steps: how many, spread evenly over the path, or a :class:`TimeGrid`.
        y: labels for a conditional model.
        guidance: classifier-free guidance; it needs a null class.
        progress: show a bar; a string is its label.
        callback: called after every step with the steps done, the time and the state.

    Raises:
        ValueError, TypeError: for arguments that do not fit each other or the model.

    Source: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
    section 4.3; Ma et al., "SiT", ECCV 2024, section 2.

    Examples:
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> from holdfast.diffusion.paths import LinearPath
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), LinearPath())
        >>> out = euler(model, torch.tensor([[-1.0], [0.0], [1.0]]), steps=200)
        >>> out.x.flatten().round(decimals=1).tolist(), out.calls
        ([2.5, 3.0, 3.5], 200)
    """
    grid = steps if isinstance(steps, TimeGrid) else time_grid(model.path, steps)
    with sampling(model, x, y=y, guidance=guidance, steps=grid.steps, progress=progress, callback=callback) as run:
        for i in range(grid.steps):
            t, s = grid.t[i], grid.t[i + 1]
            x = run.predict(x, t, "data") if grid.jumps(i) else x + (s - t) * run.predict(x, t, "velocity")
            run.done(i + 1, s, x)
    return Samples(x, run.calls)


@torch.no_grad()
def heun(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int | TimeGrid,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Follow the velocity with a second evaluation at the end of each step; the error falls as its square.

    .. math:: \hat x = x_t + h\,v(x_t, t), \qquad x_{t+h} = x_t + \tfrac{h}{2}\,[v(x_t, t) + v(\hat x, t + h)]

    The last step is Euler's, because the velocity need not exist at the data; that keeps the order. So ``steps``
    steps take ``2 * steps - 1`` evaluations. Arguments as in :func:`euler`.

    Raises:
        ValueError, TypeError: for arguments that do not fit each other or the model.

    Source: Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based generative models",
    NeurIPS 2022, algorithm 1.

    Examples:
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> from holdfast.diffusion.paths import LinearPath
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), LinearPath())
        >>> out = heun(model, torch.tensor([[-1.0], [0.0], [1.0]]), steps=20)
        >>> out.x.flatten().round(decimals=1).tolist(), out.calls
        ([2.5, 3.0, 3.5], 39)
    """
    grid = steps if isinstance(steps, TimeGrid) else time_grid(model.path, steps)
    with sampling(model, x, y=y, guidance=guidance, steps=grid.steps, progress=progress, callback=callback) as run:
        for i in range(grid.steps):
            t, s = grid.t[i], grid.t[i + 1]
            if grid.jumps(i):
                x = run.predict(x, t, "data")
            else:
                v = run.predict(x, t, "velocity")
                if i < grid.steps - 1:
                    v = 0.5 * (v + run.predict(x + (s - t) * v, s, "velocity"))
                x = x + (s - t) * v
            run.done(i + 1, s, x)
    return Samples(x, run.calls)
