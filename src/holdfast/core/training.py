"""The one training loop: any device and precision, one process or several, and it resumes bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.core.checks import check_number
from holdfast.core.ema import WeightAverage
from holdfast.core.engine import make_engine
from holdfast.core.feed import BatchSource, Feed
from holdfast.core.optimizers import make_optimizer
from holdfast.core.progress import ProgressBar
from holdfast.core.random import isolated_rng
from holdfast.core.results import NonFiniteLossError, TrainResult
from holdfast.core.run import Rhythm, Run
from holdfast.core.schedules import make_schedule
from holdfast.core.steps import StepInfo, StepSeeds

__all__ = ["BatchSource", "NonFiniteLossError", "StepInfo", "TrainResult", "train"]


def train(
    module: nn.Module,
    loss: Callable[[nn.Module, Any, StepInfo], Tensor | Mapping[str, Tensor]],
    batches: BatchSource,
    *,
    steps: int,
    optimizer: str | Callable[[list[dict[str, Any]]], Optimizer] = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    decay_norms_and_biases: bool = True,
    param_groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    schedule: str = "constant",
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup: float = 0,
    min_lr: float = 0.0,
    accumulate: int = 1,
    clip_norm: float | None = None,
    ema: float | None = None,
    precision: str = "32-true",
    device: str | torch.device = "auto",
    devices: int | list[int] | str = 1,
    strategy: str = "auto",
    validate: Callable[[nn.Module], float] | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool | str = False,
    log_every: int | None = None,
    seed: int = 0,
) -> TrainResult:
    """Minimise ``loss`` over the parameters of ``module``, in place.

    The module ends in evaluation mode on the training device, with the best validated weights if ``validate`` is
    given, else with the averaged weights if ``ema`` is, else with the last. The same seed gives the same bits, and
    the caller's random state is left as it was: what a step draws depends on the seed and the step alone. A loss
    that is itself an ``nn.Module`` is trained, moved and checkpointed along with ``module``.

    Args:
        module: what is trained.
        loss: from module, batch and :class:`StepInfo` to a scalar, or to a mapping that holds "loss"; its other
            entries (scalars) are logged.
        batches: see :class:`BatchSource`; usually a :class:`holdfast.core.batching.Batches`.
        steps: optimizer steps in all.
        optimizer, lr, weight_decay, momentum, decay_norms_and_biases, param_groups: see
            :func:`holdfast.core.optimizers.make_optimizer`.
        schedule, milestones, gamma, warmup: see :func:`holdfast.core.schedules.make_schedule`.
        min_lr: smallest learning rate of the schedule after warm-up.
        accumulate: batches per optimizer step, whose gradients are averaged.
        clip_norm: largest norm of the gradient.
        ema: decay of the average of the weights, see :class:`holdfast.core.ema.WeightAverage`.
        precision: "32-true", "bf16-mixed", or "16-mixed" (GPU only).
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        devices: how many (or which) devices; several need a strategy.
        strategy: "auto" (one device), "ddp" (every process holds the weights),
            "ddp_find_unused_parameters_true" (the same, for losses that leave part of the module out at some
            steps), or "fsdp" (weights and optimizer state are split over the processes). With several processes
            the calling script is started once per device, and ``batches`` is sharded here.
        validate: from module (evaluation mode, no gradients) to a score, higher is better.
        validate_every: steps between validations; default a tenth of ``steps``. The last step is validated too.
        patience: validations without a better score before training stops.
        checkpoint: folder that keeps the last good state.
        checkpoint_every: steps between checkpoints; default a tenth of ``steps``. One is written at the end too.
        resume: go on from the folder's checkpoint, if it holds one.
        progress: show a bar; a string is its label.
        log_every: steps between records of the history; default a hundredth of ``steps``.
        seed: non-negative integer.

    Raises:
        NonFiniteLossError: if the loss or the weights stop being finite; the last good checkpoint stays.
        holdfast.core.checkpoint.CheckpointError: if the checkpoint is damaged, or belongs to a run with other settings.
        ValueError, TypeError: for arguments that cannot work.

    Examples:
        >>> from holdfast.core.batching import Batches, BatchPlan
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> batches = Batches(BatchPlan(64, 16, seed=0), lambda rows: (x[rows], 3 * x[rows]))
        >>> net = nn.Linear(1, 1)
        >>> mse = lambda net, batch, info: nn.functional.mse_loss(net(batch[0]), batch[1])
        >>> result = train(net, mse, batches, steps=200, optimizer="sgd", lr=0.1, device="cpu")
        >>> result.steps, round(net.weight.item(), 2)
        (200, 3.0)
    """
    if not (hasattr(batches, "__len__") and callable(getattr(batches, "epoch", None))):
        raise TypeError(
            f"batches must have len() and epoch(e), got {type(batches).__name__}; "
            "holdfast.core.batching.Batches makes one from a plan and a function"
        )
    if len(batches) == 0:
        raise ValueError("batches is empty: its len() is 0")
    check_number("steps", steps, low=1, integer=True)
    check_number("accumulate", accumulate, low=1, integer=True)
    check_number("seed", seed, low=0, integer=True)
    check_number("lr", lr, low=0, open_low=True)
    check_number("min_lr", min_lr, low=0, high=lr)
    if clip_norm is not None:
        check_number("clip_norm", clip_norm, low=0, open_low=True)
    if patience is not None:
        check_number("patience", patience, low=1, integer=True)
        if validate is None:
            raise ValueError("patience needs validate, a function from the module to a score")
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every need checkpoint, the folder to keep the state in")
    tenth = max(1, steps // 10)
    rhythm = Rhythm(
        steps=int(steps),
        log=_every("log_every", log_every, max(1, steps // 100)),
        validate=_every("validate_every", validate_every, tenth) if validate is not None else 0,
        checkpoint=_every("checkpoint_every", checkpoint_every, tenth) if checkpoint is not None else 0,
    )
    rate = make_schedule(schedule, steps, warmup=warmup, floor=min_lr / lr, milestones=milestones, gamma=gamma)

    # Whatever decides the numbers of a run; a checkpoint of other settings is refused.
    settings: dict[str, Any] = {
        "seed": seed,
        "steps": steps,
        "batches per epoch": len(batches),
        "optimizer": optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "callable"),
        "lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "decay_norms_and_biases": decay_norms_and_biases,
        "schedule": schedule,
        "milestones": [float(m) for m in milestones],
        "gamma": gamma,
        "warmup": warmup,
        "min_lr": min_lr,
        "accumulate": accumulate,
        "clip_norm": clip_norm,
        "ema": ema,
        "precision": precision,
    }
    with isolated_rng(seed):
        engine = make_engine(device, devices, precision, strategy)
        settings["processes"] = engine.world_size
        engine.setup(module, loss)
        engine.setup_optimizer(
            make_optimizer(
                module,
                optimizer,
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                decay_norms_and_biases=decay_norms_and_biases,
                param_groups=param_groups,
                extra=loss.parameters() if isinstance(loss, nn.Module) else (),
                fused=engine.fused,
            )
        )
        run = Run(
            engine=engine,
            feed=Feed(batches, engine.rank, engine.world_size),
            seeds=StepSeeds(seed, engine.device, engine.rank),
            rhythm=rhythm,
            rate=rate,
            accumulate=int(accumulate),
            clip_norm=clip_norm,
            average=WeightAverage(engine.whole, ema) if ema is not None else None,
            validate=validate,
            patience=patience,
            folder=Path(checkpoint) if checkpoint is not None else None,
            settings=settings,
        )
        if resume:
            run.resume()
        label = progress if isinstance(progress, str) else "training"
        with ProgressBar(label, total=int(steps), done=run.done, enabled=bool(progress) and engine.rank == 0) as bar:
            run.loop(bar)
        return run.finish()


def _every(name: str, value: int | None, default: int) -> int:
    return default if value is None else int(check_number(name, value, low=1, integer=True))
