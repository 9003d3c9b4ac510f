"""The times at which a sampler asks its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.paths import Path

__all__ = ["TimeGrid", "prior", "time_grid"]

Spacing = Literal["uniform", "quadratic", "leading", "trailing"]
_SPACINGS: tuple[Spacing, ...] = ("uniform", "quadratic", "leading", "trailing")


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """Times from noise to data, in float64, with the path's coefficients there.

    A step goes from one time to the next. With ``clean``, a last step goes from the last time to the data themselves,
    of alpha 1 and sigma 0: the first level of a discrete schedule, or of a path that stops short of the data, is not
    the end. The lists ``alpha`` and ``sigma`` have one entry per state: one more than there are steps.

    Raises:
        ValueError: if the times do not fall, lie outside the path, or leave no step.

    Examples:
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> grid = TimeGrid(DDPMSchedule(10), torch.tensor([9.0, 4.0, 0.0]), clean=True)
        >>> grid.steps, grid.sigma[-1]
        (3, 0.0)
    """

    path: Path
    times: Float[Tensor, " states"]
    clean: bool = False
    t: list[float] = field(init=False, repr=False)
    alpha: list[float] = field(init=False, repr=False)
    sigma: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        times = torch.as_tensor(self.times, dtype=torch.float64, device="cpu")
        if times.ndim != 1 or len(times) + self.clean < 2:
            raise ValueError(
                f"a time grid needs one row of times and at least one step, got shape {tuple(times.shape)}"
            )
        self.path.check(times)
        if not bool((times.diff() < 0).all()):
            raise ValueError(f"times must fall from noise to data, got {times.tolist()[:8]}")
        c = self.path.coefficients(times)
        end = int(self.clean)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "t", times.tolist() + [self.path.t_min] * end)
        object.__setattr__(self, "alpha", c.alpha.tolist() + [1.0] * end)
        object.__setattr__(self, "sigma", c.sigma.tolist() + [0.0] * end)

    @property
    def steps(self) -> int:
        """How many steps there are, each one evaluation of a first-order sampler."""
        return len(self.alpha) - 1

    def jumps(self, i: int) -> bool:
        """Whether step ``i`` is the one from the last time to the clean data."""
        return self.clean and i == self.steps - 1


def time_grid(
    path: Path,
    steps: int,
    *,
    start: float | None = None,
    end: float | None = None,
    spacing: Spacing = "uniform",
) -> TimeGrid:
    r"""Return ``steps`` steps over a path, from ``start`` (its noise) to ``end`` (its data).

    A path whose first level has noise left ends with a step to the clean data, unless ``end`` is given.

    Args:
        start, end: first and last time; the path's own ends by default.
        spacing: ``"uniform"``; ``"quadratic"``, times proportional to :math:`u^2`, which are dense near the data; for
            whole times also ``"leading"``, multiples of :math:`\lfloor T / N \rfloor` from 0 up, and
            ``"trailing"``, multiples of :math:`T / N` from the last level down.

    Raises:
        ValueError: for more steps than a discrete path has levels, times outside it, or an unknown spacing.

    Source: Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, appendix D.2; trailing times by
    Lin et al., "Common diffusion noise schedules and sample steps are flawed", WACV 2024.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> from holdfast.diffusion.ddpm import DDPMSchedule
        >>> time_grid(LinearPath(), 4).t
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> time_grid(DDPMSchedule(1000), 4, spacing="leading").times.tolist()
        [750.0, 500.0, 250.0, 0.0]
    """
    steps = int(check_number("steps", steps, low=1, integer=True))
    check_choice("spacing", spacing, _SPACINGS)
    high = path.t_max if start is None else check_number("start", start, low=path.t_min, high=path.t_max)
    low = path.t_min if end is None else check_number("end", end, low=path.t_min, high=path.t_max)
    if low >= high:
        raise ValueError(f"start must be later than end, got start={high:g} and end={low:g}")
    edge = path.coefficients(torch.tensor([low], dtype=torch.float64))
    clean = end is None and (path.discrete or float(edge.sigma) > 0)
    n = steps if clean else steps + 1
    if path.discrete:
        levels = high - low + 1
        if n > levels:
            raise ValueError(f"a path of {levels:g} levels has at most {levels - (not clean):g} steps, got {steps}")
    if spacing in ("leading", "trailing"):
        if not path.discrete:
            raise ValueError(f"spacing {spacing!r} is for discrete paths; a {type(path).__name__} has no whole times")
        levels = high - low + 1
        if spacing == "leading":
            times = low + (levels // n) * torch.arange(n - 1, -1, -1, dtype=torch.float64)
        else:
            times = low + torch.round(levels - torch.arange(n, dtype=torch.float64) * levels / n) - 1
        return TimeGrid(path, times, clean)
    u = torch.linspace(1, 0, n, dtype=torch.float64) if n > 1 else torch.ones(1, dtype=torch.float64)
    times = low + (high - low) * (u.square() if spacing == "quadratic" else u)
    if path.discrete:
        times = times.round()
        if spacing == "quadratic":  # neighbours that round to one level are moved apart
            floor = low + torch.arange(n - 1, -1, -1, dtype=torch.float64)
            times = torch.maximum(times, floor)
    return TimeGrid(path, times, clean)


def prior(
    path: Path, shape: tuple[int, ...], generator: torch.Generator, *, dtype: torch.dtype | None = None
) -> Float[Tensor, "batch *shape"]:
    """Return noise of the path's last level, what a sampler starts from, on the generator's device.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> prior(LinearPath(), (2, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    sigma = float(path.coefficients(torch.tensor([path.t_max], dtype=torch.float64)).sigma)
    return sigma * torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
