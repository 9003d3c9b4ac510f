"""Training of a time-ordered code."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import spawn_seed
from holdfast.core.training import TrainResult, train
from holdfast.diffusion.time_steps.diti import DiTi

__all__ = ["train_diti"]


def train_diti(
    model: DiTi,
    x: Float[Tensor, "n *shape"],
    *,
    steps: int,
    batch_size: int = 128,
    lr: float | None = None,
    ema: float | None = 0.9999,
    clip_norm: float | None = None,
    schedule: str = "constant",
    precision: str = "32-true",
    device: str = "auto",
    checkpoint: str | None = None,
    progress: bool | str = False,
    seed: int = 0,
) -> TrainResult:
    """Train encoder and shift of ``model`` in place, as published: Adam without decay, and averaged weights.

    Args:
        x: clean samples, in the range of the frozen model.
        steps: optimiser steps.
        lr: learning rate; by default ``1e-4 * batch_size / 32``.
        ema: decay of the average of the weights, which the model ends with; ``None`` for the last weights.
        clip_norm, schedule, precision, device, checkpoint, progress, seed: see
            :func:`holdfast.core.training.train`; with ``checkpoint`` a run that was stopped goes on.

    Raises:
        TypeError, ValueError: for samples that :meth:`DiTi.check_samples` refuses, or options out of range.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024, appendix.

    Examples:
        >>> import torch
        >>> from holdfast.diffusion import DDPMSchedule, EmpiricalDenoiser, MLPCodeEncoder, ShiftMLP, TimeGate
        >>> x = torch.rand(32, 1, 4, 4) * 2 - 1
        >>> frozen = EmpiricalDenoiser(x, DDPMSchedule(1000)).eval()
        >>> model = DiTi(MLPCodeEncoder((1, 4, 4), 6), frozen, ShiftMLP((1, 4, 4), 6), TimeGate(6, 3))
        >>> train_diti(model, x, steps=2, batch_size=16, device="cpu").steps
        2
    """
    model.check_samples(x)

    def loss(module: Any, batch: Tensor, info: Any) -> Tensor:
        return module(batch, info.generator)

    return train(
        model,
        loss,
        Batches(BatchPlan(len(x), batch_size, seed=spawn_seed(seed, "order")), lambda rows: x[rows]),
        steps=steps,
        optimizer="adam",
        lr=1e-4 * batch_size / 32 if lr is None else lr,
        ema=ema,
        clip_norm=clip_norm,
        schedule=schedule,
        precision=precision,
        device=device,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
        progress=progress,
        seed=spawn_seed(seed, "steps"),
    )
