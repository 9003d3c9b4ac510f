"""Training in several phases, each with its own network, losses and length, and what they cost together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import AdamW, Optimizer

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import spawn_seed
from holdfast.core.results import TrainResult
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.objective import DiffusionObjective, Term, train_diffusion

__all__ = ["Phase", "PhaseRecord", "PhasesResult", "block_cost", "fit_phases"]


def block_cost(network: Any, stop_at: int | None = None) -> int:
    """Return the blocks that one evaluation of a network goes through, up to an early exit.

    Examples:
        >>> from holdfast.diffusion import DiT
        >>> net = DiT(1, 8, patch=4, width=16, depth=6, heads=2)
        >>> block_cost(net), block_cost(net, stop_at=3)
        (6, 3)
    """
    depth = getattr(network, "depth", None)
    if depth is None:
        raise TypeError(f"{type(network).__name__} does not say how many blocks it has (depth)")
    if stop_at is None:
        return int(depth)
    return int(check_number("stop_at", stop_at, low=1, high=depth, integer=True))


@dataclass
class Phase:
    """One phase of training.

    Args:
        name: what it is called in the record.
        denoiser: what is trained; phases may train the same or different ones.
        steps: optimizer steps.
        terms: losses beside denoising.
        objective: used in place of one made from ``terms``.
        before: called when the phase begins: moves weights from an earlier phase, say. What it returns is recorded.
        optimizer: ``"fresh"`` starts its moments anew; ``"carry"`` goes on with those of the phase before, which
            must have trained the same tensors.
        ema: decay of the average of the weights, which starts from the weights that the phase begins with; the phase
            ends with the average in place, or without (``None``) with the last weights.
        options: of :func:`holdfast.diffusion.train_diffusion`, over those that all phases share.

    Raises:
        ValueError: for fewer than one step, or terms beside an objective.
    """

    name: str
    denoiser: Denoiser
    steps: int
    terms: Sequence[Term] = ()
    objective: DiffusionObjective | None = None
    before: Callable[[], Any] | None = None
    optimizer: Literal["fresh", "carry"] = "fresh"
    ema: float | None = 0.9999
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number(f"steps of phase {self.name!r}", self.steps, low=1, integer=True)
        check_choice("optimizer", self.optimizer, ("fresh", "carry"))
        if self.objective is not None and self.terms:
            raise ValueError(f"phase {self.name!r} has terms and an objective, which has its own")

    @property
    def blocks(self) -> int:
        """Blocks that one training step evaluates."""
        stop_at = None if self.objective is None else self.objective.stop_at
        return block_cost(self.denoiser.network, stop_at)


@dataclass(frozen=True)
class PhaseRecord:
    """What a phase did: steps, blocks per step, and what was returned by training and by ``before``."""

    name: str
    steps: int
    blocks: int
    result: TrainResult
    report: Any = None

    @property
    def cost(self) -> int:
        """Block evaluations: steps times blocks per step."""
        return self.steps * self.blocks


@dataclass(frozen=True)
class PhasesResult:
    """The records of all phases."""

    records: tuple[PhaseRecord, ...]

    @property
    def cost(self) -> int:
        """Block evaluations of all phases, by which runs of different phases are compared fairly."""
        return sum(r.cost for r in self.records)

    @property
    def steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(r.steps for r in self.records)

    @property
    def seconds(self) -> float:
        """Time spent training."""
        return sum(r.result.seconds for r in self.records)


class _Remembered:
    """An AdamW that can go on with the moments of the one made before it."""

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr, self.weight_decay = lr, weight_decay
        self.carry = False
        self.last: Optimizer | None = None
        self.__name__ = "adamw"

    def __call__(self, groups: list[dict[str, Any]]) -> Optimizer:
        before, self.last = self.last, AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, fused=_fused(groups))
        if self.carry:
            if before is None:
                raise ValueError("the first phase has no optimizer state to carry on")
            shapes = [[tuple(p.shape) for g in o.param_groups for p in g["params"]] for o in (before, self.last)]
            if shapes[0] != shapes[1]:
                raise ValueError("optimizer='carry' needs a phase that trains the same tensors as the one before")
            self.last.load_state_dict(
                {"state": before.state_dict()["state"], "param_groups": self.last.state_dict()["param_groups"]}
            )
        return self.last


def _fused(groups: list[dict[str, Any]]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for g in groups for p in g["params"])


def fit_phases(
    phases: Sequence[Phase],
    x: Float[Tensor, "n *shape"],
    y: Int[Tensor, " n"] | None = None,
    *,
    seed: int = 0,
    lr: float = 1e-4,
    weight_decay: float = 0.0,
    **options: Any,
) -> PhasesResult:
    """Run phases one after another on the same data.

    The last phase draws what a single run with this seed draws, so that one phase alone is plain training, bit for
    bit; earlier phases draw from streams of their own.

    Args:
        phases: in order.
        x, y: see :func:`holdfast.diffusion.train_diffusion`.
        seed, lr, weight_decay: of all phases; AdamW is the optimizer.
        options: of :func:`holdfast.diffusion.train_diffusion` for all phases (extra, batch_size, device, ...).

    Raises:
        ValueError: for no phases, two of one name, or a state to carry that does not fit.

    Examples:
        >>> import torch
        >>> from holdfast.diffusion import DiT, LinearPath
        >>> model = Denoiser(DiT(1, 8, patch=4, width=16, depth=2, heads=2), LinearPath())
        >>> images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> both = [Phase("coarse", model, 2, ema=None), Phase("fine", model, 3, optimizer="carry", ema=0.9)]
        >>> result = fit_phases(both, images, batch_size=16, device="cpu")
        >>> result.steps, result.cost
        (5, 10)
    """
    if not phases:
        raise ValueError("there are no phases")
    names = [p.name for p in phases]
    if len(set(names)) < len(names):
        raise ValueError(f"phases need different names, got {names}")
    make = _Remembered(lr, weight_decay)
    records = []
    for i, phase in enumerate(phases):
        report = phase.before() if phase.before is not None else None
        settings = {"lr": lr, "weight_decay": weight_decay, "optimizer": make} | options | dict(phase.options)
        make.lr, make.carry = settings["lr"], phase.optimizer == "carry"
        last = i == len(phases) - 1
        result = train_diffusion(
            phase.denoiser,
            x,
            y,
            steps=phase.steps,
            terms=phase.terms,
            objective=phase.objective,
            ema=phase.ema,
            seed=seed if last else spawn_seed(seed, "phase", phase.name),
            **settings,
        )
        records.append(PhaseRecord(phase.name, phase.steps, phase.blocks, result, report))
    return PhasesResult(tuple(records))
