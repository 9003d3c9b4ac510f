"""What an objective sees: a batch, the sizes of the fit, and the plain mean loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.batching import BatchPlan
from holdfast.core.inputs import Encoded
from holdfast.core.steps import StepInfo

__all__ = ["Batch", "EmpiricalRisk", "EncodedBatches", "FitContext", "SampleLoss", "Trained", "apply_objective"]

SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (B, out) and targets (B,) to one loss per sample (B,)."""


class Batch(NamedTuple):
    """What an objective sees at one step."""

    x: Any
    """Model input of the batch: a tensor, or a tuple of tensors for texts and sets."""
    y: Tensor
    """Targets (B,): class indices or standardised values."""
    environment: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]
    """Rows of the training set."""


@dataclass(frozen=True)
class FitContext:
    """Sizes of a fit, known before training and saved with the model."""

    n_samples: int
    n_outputs: int
    n_environments: int
    width: int
    class_counts: tuple[int, ...]
    environment_counts: tuple[int, ...]
    steps: int


class EmpiricalRisk(nn.Module):
    r"""The mean loss over a batch, :math:`\frac1B \sum_i \ell(f(x_i), y_i)`."""

    def __init__(self, sample_loss: SampleLoss) -> None:
        super().__init__()
        self.sample_loss = sample_loss

    def forward(self, network: nn.Module, batch: Batch, info: StepInfo) -> Float[Tensor, ""]:
        return self.sample_loss(network(batch.x), batch.y).mean()


class Trained(nn.Module):
    """Network and objective as one module, so that one optimiser, one EMA and one checkpoint hold both."""

    def __init__(self, network: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batch: Batch, info: StepInfo) -> Tensor | Mapping[str, Tensor]:
        return self.objective(self.network, batch, info)


def apply_objective(pair: nn.Module, batch: Batch, info: StepInfo) -> Tensor | Mapping[str, Tensor]:
    return pair(batch, info)


@dataclass(frozen=True)
class EncodedBatches:
    plan: BatchPlan
    x: Encoded
    y: Tensor
    environment: Tensor
    rows: Tensor | None

    def __len__(self) -> int:
        return len(self.plan)

    def shard(self, rank: int, world_size: int) -> EncodedBatches:
        return replace(self, plan=self.plan.shard(rank, world_size))

    def epoch(self, e: int, start: int = 0) -> Iterator[Batch]:
        for index in self.plan.epoch(e, start):
            rows = index if self.rows is None else self.rows[index]
            yield Batch(self.x[rows], self.y[rows], self.environment[rows], rows)
