"""The training objective of diffusion models: a denoising loss, and terms that plug in beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_choice, check_finite, check_number, check_same_length
from holdfast.core.results import TrainResult
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.paths import Path, Prediction
from holdfast.diffusion.schedules import Schedule, weight_at
from holdfast.diffusion.token_times import TokenTimeGroups, pixel_times
from holdfast.nn.teacher import EMATeacher

__all__ = [
    "DiffusionObjective",
    "Term",
    "TermContext",
    "TimeSampling",
    "denoising_target",
    "draw_times",
    "drop_labels",
    "train_diffusion",
]

TimeSampling = Literal["uniform", "lognormal"] | Callable[[int, torch.Generator], Tensor]


def draw_times(
    path: Path, n: int, sampling: TimeSampling, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Float[Tensor, " n"]:
    r"""Draw training times: uniform on the path, or with a log-normal noise-to-signal ratio.

    "lognormal" draws :math:`s = e^z`, :math:`z \sim N(0, 1)`, and the time at which
    :math:`\sigma_t / \alpha_t = s`: :math:`t = s / (1 + s)` on a linear and :math:`t = \tfrac{2}{\pi} \arctan s` on a
    cosine path. A function ``(n, generator) -> times`` is used as it is. Discrete paths give whole steps.

    Raises:
        ValueError: for "lognormal" on a path without a formula.

    Source: Ma et al., "SiT", ECCV 2024; Yu et al., "Representation alignment for generation", ICLR 2025.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> t = draw_times(LinearPath(), 1000, "lognormal", torch.Generator().manual_seed(0))
        >>> 0.4 < float(t.median()) < 0.6
        True
    """
    from holdfast.diffusion.paths import CosinePath, LinearPath

    if callable(sampling):
        return sampling(n, generator).to(device)
    check_choice("time_sampling", sampling, ("uniform", "lognormal"))
    if sampling == "lognormal":
        s = torch.randn(n, generator=generator, device=device).exp()
        if isinstance(path, LinearPath):
            return s / (1 + s)
        if isinstance(path, CosinePath):
            return 2 / torch.pi * torch.atan(s)
        raise ValueError(f"log-normal times are defined on linear and cosine paths, not on {type(path).__name__}")
    if path.discrete:
        low, high = int(path.t_min), int(path.t_max) + 1
        return torch.randint(low, high, (n,), generator=generator, device=device).to(torch.get_default_dtype())
    return path.t_min + (path.t_max - path.t_min) * torch.rand(n, generator=generator, device=device)


def drop_labels(
    y: Int[Tensor, " batch"], rate: float, null_class: int, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """Replace each label by ``null_class`` with probability ``rate``.

    Examples:
        >>> drop_labels(torch.tensor([0, 1]), 1.0, 10, torch.Generator())
        tensor([10, 10])
    """
    gone = torch.rand(len(y), generator=generator, device=y.device) < rate
    return torch.where(gone, null_class, y)


def denoising_target(path: Path, x0: Tensor, eps: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
    """Return what a network with that kind of prediction should say."""
    if prediction == "velocity":
        return path.velocity(x0, eps, t)
    if prediction == "noise":
        return eps
    if prediction == "data":
        return x0
    return path.convert(eps, x0, t, "noise", "score")


@dataclass(frozen=True)
class TermContext:
    """What a term of the objective sees of a step.

    Attributes:
        x0, eps, t, x_t: data, noise, times (one per sample, or per token where tokens have their own), noised data.
        y: labels as the network saw them, after dropout; ``None`` without labels.
        output: prediction and taps of the network.
        denoiser: the network being trained (the student).
        teacher: average of the student that trails it, if any term asked for one.
        extra: further tensors of the batch, one row per sample, by name.
        info: where training stands, and the step's generator.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    x_t: Tensor
    y: Tensor | None
    output: Output
    denoiser: nn.Module
    path: Path
    teacher: EMATeacher | None
    extra: Mapping[str, Tensor]
    info: StepInfo
    patch: int = 1
    grid: tuple[int, int] = (1, 1)
    groups: Tensor | None = None

    def noised(self, t: Tensor) -> Tensor:
        """Return the same data with the same noise at other times, shaped as ``t`` of the step."""
        return self.path.noise(self.x0, self.eps, t if t.ndim == 1 else pixel_times(t, self.grid, self.patch))


class Term(nn.Module):
    """A further loss beside the denoising loss. Its parameters (a projector, say) are trained along.

    A subclass names the blocks whose outputs it reads, says whether it reads a trailing average of the network, and
    computes a scalar from a :class:`TermContext` in ``forward``: or a mapping that holds it as "loss", whose other
    entries are logged under the term's name.

    Args:
        name: what the loss is called in the training history.
        weight: factor, constant or a function of the step. At weight 0 the term is not computed.
        taps: blocks whose outputs the term reads.
        needs_teacher: whether the term reads a trailing average of the network.
    """

    def __init__(
        self, name: str, weight: Schedule = 1.0, *, taps: Sequence[int] = (), needs_teacher: bool = False
    ) -> None:
        super().__init__()
        if not callable(weight):
            check_number("weight", weight, low=0)
        self.name, self.weight = name, weight
        self.taps, self.needs_teacher = tuple(taps), needs_teacher

    def forward(self, ctx: TermContext) -> Float[Tensor, ""] | Mapping[str, Tensor]:
        """Return the loss of a batch."""
        raise NotImplementedError


class DiffusionObjective(nn.Module):
    r"""The loss that :func:`holdfast.core.training.train` minimises: denoising, plus weighted terms.

    .. math:: L = E_{t, \epsilon}\, w(t)\,\lVert f_\theta(x_t, t, y) - \mathrm{target} \rVert^2 / d + \sum_j c_j(k) L_j

    Times, noise, and which labels are dropped come from the step's generator, in that order and before any draw of a
    term, so that a term of weight 0 leaves the run bit for bit what it would be without it.

    Args:
        denoiser: the network with its path and kind of prediction.
        terms: see :class:`Term`.
        time_sampling: see :func:`draw_times`.
        weighting: factor on the squared error of each sample, as a function of its time; ``None`` for 1.
        denoise: leave the denoising loss out with ``False`` (a warm-up that only aligns features).
        time: noise every sample at this time instead of a drawn one.
        stop_at: run the network up to this block only; needs ``denoise=False``.
        token_groups: noise two groups of an image's tokens differently, see
            :class:`holdfast.diffusion.token_times.TokenTimeGroups`; for networks over patches.
        teacher_decay: momentum of the trailing average, with the usual warm-up; used where a term needs it.

    Batches are mappings with "x", optionally "y", and whatever the terms read.

    Raises:
        ValueError: for taps that the network does not have, or an early exit that also should denoise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        terms: Sequence[Term] = (),
        *,
        time_sampling: TimeSampling = "uniform",
        weighting: Callable[[Tensor], Tensor] | None = None,
        denoise: bool = True,
        time: float | None = None,
        stop_at: int | None = None,
        token_groups: TokenTimeGroups | None = None,
        teacher_decay: float = 0.9999,
    ) -> None:
        super().__init__()
        if not denoise and not terms:
            raise ValueError("without the denoising loss the objective needs at least one term")
        if stop_at is not None and denoise:
            raise ValueError("an early exit gives no prediction: stop_at needs denoise=False")
        names = [term.name for term in terms]
        if len(set(names)) < len(names) or "loss" in names or "denoising" in names:
            raise ValueError(f"terms need different names other than 'loss' and 'denoising', got {names}")
        depth = getattr(denoiser.network, "depth", None)
        for term in terms:
            for tap in term.taps:
                if depth is not None and not 1 <= tap <= depth:
                    raise ValueError(f"term {term.name!r} reads block {tap}, the network has blocks 1 to {depth}")
        self.path = denoiser.path
        self.prediction: Prediction = denoiser.prediction
        self.null_class, self.class_dropout = denoiser.null_class, getattr(denoiser.network, "class_dropout", 0.0)
        self.terms = nn.ModuleList(terms)
        self.taps = tuple(sorted({tap for term in terms for tap in term.taps}))
        self.time_sampling: TimeSampling = time_sampling
        self.weighting, self.denoise, self.time, self.stop_at = weighting, denoise, time, stop_at
        if time is not None:
            self.path.check(torch.tensor([float(time)]))
        self.token_groups = token_groups
        self.patch = getattr(denoiser.network, "patch", 1)
        self.grid: tuple[int, int] = getattr(denoiser.network, "grid", (1, 1))
        if token_groups is not None:
            if not hasattr(denoiser.network, "patch"):
                raise ValueError("token_groups needs a network over patches, such as DiT")
            if time is not None or weighting is not None:
                raise ValueError("token_groups draws a time per token; it goes with neither time nor weighting")
        needs_teacher = any(term.needs_teacher for term in terms)
        self.teacher = EMATeacher(denoiser, teacher_decay, warmup=True, evaluate=True) if needs_teacher else None

    def forward(self, module: nn.Module, batch: Mapping[str, Tensor], info: StepInfo) -> dict[str, Tensor]:
        """Return the loss and its parts."""
        x0, y, rng = batch["x"], batch.get("y"), info.generator
        t = self._times(x0, rng)
        eps = torch.randn(x0.shape, generator=rng, device=x0.device, dtype=x0.dtype)
        if y is not None and self.null_class is not None:
            y = drop_labels(y, self.class_dropout, self.null_class, rng)
        if self.teacher is not None and info.step > int(self.teacher.updates):
            # The weights that the step before this one left are averaged in now: the same as right after it.
            self.teacher.update(getattr(module, "module", module))
        groups, pixels = None, t
        if self.token_groups is not None:
            groups = self.token_groups.draw(len(x0), self.grid[0] * self.grid[1], rng, x0.device)
            t = torch.where(groups == 1, self._times(x0, rng)[:, None], t[:, None])
            pixels = pixel_times(t, self.grid, self.patch)
            groups = groups if self.token_groups.separate else None
        x_t = self.path.noise(x0, eps, pixels)
        options = {} if groups is None else {"groups": groups}
        weights = [weight_at(term.weight, info.step) for term in self.terms]  # pyright: ignore[reportArgumentType]
        live = [(term, w) for term, w in zip(self.terms, weights) if w]
        taps = tuple(sorted({tap for term, _ in live for tap in term.taps}))  # pyright: ignore[reportGeneralTypeIssues]
        output: Output = module(x_t, t, y, taps=taps, stop_at=self.stop_at, **options)
        losses: dict[str, Tensor] = {}
        total = x0.new_zeros(())
        if self.denoise:
            target = denoising_target(self.path, x0, eps, pixels, self.prediction)
            error = (output.like(x0) - target).square().flatten(1).mean(dim=1)
            if self.weighting is not None:
                error = self.weighting(t) * error
            losses["denoising"] = total = error.mean()
        if live:
            extra = {k: v for k, v in batch.items() if k not in ("x", "y")}
            places = (self.patch, self.grid, groups)
            ctx = TermContext(x0, eps, t, x_t, y, output, module, self.path, self.teacher, extra, info, *places)
            for term, weight in live:
                value = term(ctx)
                if isinstance(value, Mapping):
                    losses |= {f"{term.name}/{k}": v for k, v in value.items() if k != "loss"}
                    value = value["loss"]
                losses[str(term.name)] = value
                total = total + weight * value
        return {"loss": total, **{k: v.detach() for k, v in losses.items()}}

    def _times(self, x0: Tensor, rng: torch.Generator) -> Tensor:
        if self.time is not None:
            return torch.full((len(x0),), float(self.time), device=x0.device)
        return draw_times(self.path, len(x0), self.time_sampling, rng, x0.device)


def train_diffusion(
    denoiser: Denoiser,
    x: Float[Tensor, "n *shape"],
    y: Int[Tensor, " n"] | None = None,
    *,
    steps: int,
    terms: Sequence[Term] = (),
    extra: Mapping[str, Tensor] | None = None,
    batch_size: int = 256,
    lr: float = 1e-4,
    ema: float | None = 0.9999,
    clip_norm: float | None = 1.0,
    time_sampling: TimeSampling = "uniform",
    weighting: Callable[[Tensor], Tensor] | None = None,
    objective: DiffusionObjective | None = None,
    seed: int = 0,
    **options: Any,
) -> TrainResult:
    """Train a diffusion model in place; afterwards it holds the averaged weights, if ``ema`` is given.

    Args:
        denoiser: what is trained.
        x: data, on the CPU; batches are moved to the device of training.
        y: labels, for a network that takes them.
        steps, batch_size, lr, ema, clip_norm, seed: of training; the published settings are the defaults.
        terms: losses beside denoising, see :class:`Term`.
        extra: further tensors, one row per sample, that terms read (targets computed in advance).
        time_sampling, weighting: see :class:`DiffusionObjective`.
        objective: used in place of one made from ``terms``, ``time_sampling`` and ``weighting``.
        options: passed to :func:`holdfast.core.training.train` (device, precision, progress, checkpoint, ...).

    Raises:
        ValueError, TypeError: for data that is not finite, lengths that differ, labels where none are taken.

    Examples:
        >>> from holdfast.diffusion import Denoiser, DiT, LinearPath
        >>> model = Denoiser(DiT(1, 8, patch=4, width=16, depth=1, heads=2), LinearPath())
        >>> images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> train_diffusion(model, images, steps=3, batch_size=16, device="cpu").steps
        3
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    check_finite("x", x)
    rows: dict[str, Tensor] = {"x": x, **(extra or {})}
    if y is not None:
        rows["y"] = y
    check_same_length(**rows)
    if objective is None:
        objective = DiffusionObjective(denoiser, terms, time_sampling=time_sampling, weighting=weighting)
    elif terms:
        raise ValueError("give terms or an objective, which has its own terms")
    plan = BatchPlan(len(x), batch_size, seed=seed)
    batches = Batches(plan, lambda index: {name: values[index] for name, values in rows.items()})
    return train(denoiser, objective, batches, steps=steps, lr=lr, ema=ema, clip_norm=clip_norm, seed=seed, **options)
