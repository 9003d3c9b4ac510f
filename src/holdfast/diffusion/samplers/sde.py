"""Euler-Maruyama on the reverse-time SDE, with a diffusion coefficient of one's choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.denoiser import Predictor
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.samplers.evaluation import Callback, normal_like, sampling
from holdfast.diffusion.samplers.time_grid import TimeGrid
from holdfast.diffusion.samples import Samples

__all__ = ["euler_maruyama"]


@torch.no_grad()
def euler_maruyama(
    model: Predictor,
    x: Float[Tensor, "batch *shape"],
    *,
    steps: int | TimeGrid,
    generator: torch.Generator,
    w: Literal["2t", "sigma"] | Callable[[float], float] = "2t",
    t_last: float = 0.04,
    y: Int[Tensor, " batch"] | None = None,
    guidance: Guidance | None = None,
    progress: bool | str = False,
    callback: Callback | None = None,
) -> Samples:
    r"""Follow the reverse-time SDE, whose marginals are those of the path for every :math:`w_t \ge 0`.

    .. math:: dx = \big[v(x, t) - \tfrac12 w_t\, s(x, t)\big]\,dt + \sqrt{w_t}\,d\bar W

    From noise to ``t_last`` in ``steps - 1`` equal steps, then one step without noise to the data: the score is not
    to be trusted near the data. The state is kept in float64; the model sees the precision of ``x``. Velocity and
    score come from one evaluation.

    Args:
        model, x, y, guidance, progress, callback: see :func:`holdfast.diffusion.samplers.euler`.
        steps: how many, or a :class:`TimeGrid`, whose last step is the noiseless one.
        generator: of the noise.
        w: ``"2t"``, :math:`w_t = 2t`; ``"sigma"``, :math:`w_t = \sigma_t`; or a function of the time. Where it is 0
            throughout this is Euler's method.
        t_last: where the noiseless step begins, unless ``steps`` is a grid.

    Raises:
        ValueError: for a discrete path, a negative ``w``, ``t_last`` outside the path, fewer than 2 steps.

    Source: Yu et al., "Representation alignment for generation", ICLR 2025, section 2 and appendix; Ma et al.,
    "SiT", ECCV 2024, section 2.3.

    Examples:
        >>> from holdfast.diffusion.oracles.gaussian import GaussianOracle
        >>> from holdfast.diffusion.paths import LinearPath
        >>> model = GaussianOracle(torch.tensor([3.0]), torch.tensor([[0.25]]), LinearPath())
        >>> rng = torch.Generator().manual_seed(0)
        >>> out = euler_maruyama(model, torch.randn(4000, 1, generator=rng), steps=100, generator=rng)
        >>> round(out.x.mean().item(), 1), round(out.x.std().item(), 1), out.calls
        (3.0, 0.5, 100)
    """
    path = model.path
    if path.discrete:
        raise ValueError(
            f"euler_maruyama needs a path in continuous time, got {type(path).__name__}; "
            "the stochastic sampler of a discrete schedule is ddpm"
        )
    if isinstance(steps, TimeGrid):
        grid, n = steps, steps.steps
    else:
        n = int(check_number("steps", steps, low=2, integer=True))
        check_number("t_last", t_last, low=path.t_min, high=path.t_max, open_low=True, open_high=True)
        times = torch.linspace(path.t_max, t_last, n, dtype=torch.float64)
        grid = TimeGrid(path, torch.cat([times, times.new_tensor([path.t_min])]))
    rate = _rates(w, grid)
    state = x.double()
    with sampling(model, x, y=y, guidance=guidance, steps=n, progress=progress, callback=callback) as run:
        for i in range(n):
            t, s = grid.t[i], grid.t[i + 1]
            drift = run.predict(state, t, "velocity")
            if rate[i] > 0:
                now = torch.full((len(state),), t, dtype=torch.float64, device=state.device)
                drift = drift - 0.5 * rate[i] * path.convert(drift, state, now, "velocity", "score")
            state = state + (s - t) * drift
            if i < n - 1:
                state = state + (rate[i] * (t - s)) ** 0.5 * normal_like(state, generator)
            run.done(i + 1, s, state)
    return Samples(state.to(x.dtype), run.calls)


def _rates(w: str | Callable[[float], float], grid: TimeGrid) -> list[float]:
    times = grid.t[:-1]
    if callable(w):
        rates = [float(w(t)) for t in times]
    else:
        check_choice("w", w, ("2t", "sigma"))
        rates = [2 * t for t in times] if w == "2t" else grid.sigma[:-1]
    if not all(r >= 0 for r in rates):
        raise ValueError(f"w must not be negative between noise and data, got values down to {min(rates):g}")
    return rates
