"""Samples of a trained model by a sampler's name, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.progress import ProgressBar
from holdfast.core.random import generator
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.samplers import TimeGrid, ddim, ddpm, euler, euler_maruyama, heun, prior, time_grid
from holdfast.diffusion.samples import Samples

__all__ = ["SAMPLERS", "draw_samples"]

SAMPLERS: dict[str, Callable[..., Samples]] = {
    "heun": heun,
    "euler": euler,
    "euler_maruyama": euler_maruyama,
    "ddim": ddim,
    "ddpm": ddpm,
}
"""Every sampler by name."""

_RANDOM = ("euler_maruyama", "ddpm")
_MARGIN = 1e-3  # share of the path left out where alpha would be 0


def draw_samples(
    model: Denoiser,
    shape: tuple[int, ...],
    n: int,
    y: Int[Tensor, " n"] | None = None,
    *,
    sampler: str = "heun",
    steps: int = 20,
    guidance: float | Guidance = 1.0,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool | str = False,
) -> Samples:
    """Draw ``n`` samples on the CPU, each from its own noise: batches change nothing but the memory needed.

    Samplers that add noise on the way draw it batch by batch, so theirs depend on ``batch_size`` too.

    Args:
        model: a trained network with its path.
        shape: of one sample.
        n: how many.
        y: labels (n,) of a class-conditional network.
        sampler: a name of :data:`SAMPLERS`.
        steps: of the sampler.
        guidance: scale of classifier-free guidance, or a guidance with its interval; a scale of 1 is none.
        batch_size: samples at a time.
        seed: of noise.
        progress: show a bar; a string is its label.

    Raises:
        ValueError, TypeError: for an unknown sampler, or arguments that do not fit each other or the model.

    Examples:
        >>> from holdfast.diffusion import DiT, LinearPath
        >>> model = Denoiser(DiT(1, 8, patch=4, width=16, depth=1, heads=2), LinearPath())
        >>> out = draw_samples(model, (1, 8, 8), 3, steps=2)
        >>> out.x.shape, out.calls
        (torch.Size([3, 1, 8, 8]), 3)
    """
    run = SAMPLERS[check_choice("sampler", sampler, list(SAMPLERS))]
    n = int(check_number("n", n, low=1, integer=True))
    steps = int(check_number("steps", steps, low=1, integer=True))
    check_number("batch_size", batch_size, low=1, integer=True)
    guide = guidance if isinstance(guidance, Guidance) else Guidance(check_number("guidance", guidance, low=0))
    device = next(model.parameters()).device
    rng = generator(seed)
    noise = prior(model.path, (n, *shape), rng)
    options: dict[str, Any] = {"steps": _times(model, sampler, steps)}
    if sampler in _RANDOM:
        options["generator"] = rng
    if guide.scale != 1:
        options["guidance"] = guide
    parts, calls = [], 0
    chunks = torch.arange(n).split(int(batch_size))
    label = progress if isinstance(progress, str) else "sampling"
    with ProgressBar(label, total=steps * len(chunks), enabled=bool(progress), measure=None) as bar:
        for i, rows in enumerate(chunks):

            def tick(done: int, *_: Any, first: int = i * steps) -> None:
                bar.tick(first + done)

            labels = None if y is None else y[rows].to(device)
            out = run(model, noise[rows].to(device), y=labels, callback=tick, **options)
            parts.append(out.x.cpu())
            calls = max(calls, out.calls)
    return Samples(torch.cat(parts), calls)


def _times(model: Denoiser, sampler: str, steps: int) -> int | TimeGrid:
    """Start just inside the path for a network of noise or score: of pure noise it says nothing of the data."""
    path = model.path
    alpha = float(path.coefficients(torch.tensor([path.t_max], dtype=torch.float64)).alpha)
    if model.prediction not in ("noise", "score") or path.discrete or alpha > 1e-6:
        return steps
    length = path.t_max - path.t_min
    start = path.t_max - _MARGIN * length
    if sampler != "euler_maruyama":
        return time_grid(path, steps, start=start)
    times = torch.linspace(start, path.t_min + 0.04 * length, max(2, steps), dtype=torch.float64)
    return TimeGrid(path, torch.cat([times, times.new_tensor([path.t_min])]))
