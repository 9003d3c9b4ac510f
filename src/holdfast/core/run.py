"""One training run in progress: stepping, looking at the loss, scoring, keeping the last good state."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from holdfast.core.checkpoint import CheckpointError, checkpoint_path, read_checkpoint, write_checkpoint
from holdfast.core.ema import WeightAverage
from holdfast.core.engine import DirectEngine
from holdfast.core.feed import Feed
from holdfast.core.progress import ProgressBar
from holdfast.core.results import NonFiniteLossError, TrainResult
from holdfast.core.steps import StepInfo, StepSeeds

__all__ = ["Rhythm", "Run"]

_LOOK_EVERY = 16
"""Steps between two looks at the losses where a look waits for the device or for other processes."""


@dataclass(frozen=True)
class Rhythm:
    """What happens after how many steps; 0 means never."""

    steps: int
    log: int
    validate: int
    checkpoint: int

    def due(self, every: int, done: int) -> bool:
        """Whether a thing that happens every so many steps, and at the last, happens now."""
        return every > 0 and (done % every == 0 or done == self.steps)

    def next(self, done: int) -> int:
        """Return the next step after which anything is due."""
        marks = [every * (done // every + 1) for every in (self.log, self.validate, self.checkpoint) if every]
        return min([self.steps, *marks])


@dataclass
class Run:
    """The loop and its state: steps done, history, best score, losses not yet recorded."""

    engine: DirectEngine
    feed: Feed
    seeds: StepSeeds
    rhythm: Rhythm
    rate: Callable[[int], float]
    accumulate: int
    clip_norm: float | None
    average: WeightAverage | None
    validate: Callable[[nn.Module], float] | None
    patience: int | None
    folder: Path | None
    settings: dict[str, Any]

    done: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_score: float | None = None
    best_step: int = 0
    best_weights: dict[str, Tensor] | None = None
    bad_scores: int = 0
    stopped: bool = False
    seconds: float = 0.0
    saved: Path | None = None

    def __post_init__(self) -> None:
        self._losses: list[float] = []
        self._entries: defaultdict[str, list[Any]] = defaultdict(list)
        self._unseen: list[Tensor] = []
        self._groups = self.engine.optimizer.param_groups
        self._rates = [group["lr"] for group in self._groups]
        # Where a look at the loss is free, every loss is looked at before its gradient is taken.
        self._eager = self.engine.device.type == "cpu" and self.engine.world_size == 1

    def loop(self, bar: ProgressBar) -> None:
        """Take the remaining steps."""
        engine, seeds, feed, accumulate = self.engine, self.seeds, self.feed, self.accumulate
        restart, forward, eager = seeds.restart, engine.forward, self._eager
        move = engine.to_device if engine.device.type != "cpu" else None
        total, first, factor = self.rhythm.steps, self.done, None
        begin = time.perf_counter() - self.seconds
        engine.whole.train()
        engine.optimizer.zero_grad()
        due, value = self.rhythm.next(self.done), math.nan
        for step in range(first, 0 if self.stopped else total):
            if (rate := self.rate(step)) != factor:
                factor = rate
                for group, base in zip(self._groups, self._rates):
                    group["lr"] = base * factor
            for micro in range(accumulate):
                k = step * accumulate + micro
                restart(k)
                batch = feed.take(k, seeds)
                if move is not None:
                    batch = move(batch)
                with engine.accumulating(micro + 1 < accumulate):
                    out = forward(batch, StepInfo(step, total, feed.epoch, seeds.generator))
                    loss = self._read(out)
                    if k == first * accumulate:
                        _check_loss(loss)
                    if eager:
                        value = loss.item()
                        if not math.isfinite(value):
                            engine.optimizer.zero_grad()
                            self._refuse(f"the loss is {value}", step + 1)
                        self._losses.append(value)
                    else:
                        self._unseen.append(loss.detach())
                    engine.backward(loss if accumulate == 1 else loss / accumulate)
            if self.clip_norm is not None:
                engine.clip(self.clip_norm)
            engine.step()
            if self.average is not None:
                self.average.update()
            self.done = done = step + 1
            if not eager and len(self._unseen) >= _LOOK_EVERY * accumulate:
                self._look()
                value = self._losses[-1]
            if done >= due:
                self.seconds = time.perf_counter() - begin
                self._pause()
                if self._losses:
                    value = self._losses[-1]
                due = self.rhythm.next(done)
            bar.tick(done, value)
            if self.stopped:
                break
        self.seconds = time.perf_counter() - begin

    def _read(self, out: Tensor | Mapping[str, Tensor]) -> Tensor:
        if isinstance(out, Tensor):
            return out
        if not isinstance(out, Mapping) or "loss" not in out:
            got = f"a mapping with {sorted(out)}" if isinstance(out, Mapping) else type(out).__name__
            raise TypeError(f'loss must return a scalar tensor or a mapping that holds "loss", got {got}')
        for name, value in out.items():
            if name != "loss":
                self._entries[name].append(value.detach() if isinstance(value, Tensor) else value)
        return out["loss"]

    def _look(self) -> None:
        """Fetch the losses not yet looked at; every process sees the same means and so the same failure."""
        if not self._unseen:
            return
        values = self.engine.mean(torch.stack(self._unseen).float()).tolist()
        first = self.done * self.accumulate - len(values)
        self._unseen.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                self._refuse(f"the loss is {value}", (first + i) // self.accumulate + 1)
        self._losses.extend(values)

    def _refuse(self, what: str, step: int) -> NoReturn:
        epoch = (step - 1) * self.accumulate // self.feed.length
        if self.saved is not None:
            kept = f"the last good checkpoint is {self.saved}"
        elif self.folder is not None:
            kept = f"no checkpoint had been written to {self.folder} yet"
        else:
            kept = "there is no checkpoint, as no checkpoint folder was given"
        raise NonFiniteLossError(
            f"{what} at step {step} of {self.rhythm.steps} (epoch {epoch}); {kept}. "
            "Check the inputs for extreme values, lower lr, lengthen warmup, or set clip_norm.",
            step,
            self.saved,
        )

    def _pause(self) -> None:
        """Do what is due after this step: score, record, keep."""
        self._look()
        rhythm, done = self.rhythm, self.done
        scored = rhythm.due(rhythm.validate, done)
        score = self._score() if scored else None
        if scored or rhythm.due(rhythm.log, done):
            self._record(score)
        if rhythm.checkpoint and (rhythm.due(rhythm.checkpoint, done) or self.stopped):
            self._keep()

    def _record(self, score: float | None) -> None:
        record: dict[str, float] = {"step": self.done, "epoch": self.feed.epoch, "lr": float(self._groups[0]["lr"])}
        if self._losses:
            record["loss"] = sum(self._losses) / len(self._losses)
        for name, values in self._entries.items():
            if values:
                record[name] = _mean(values)
        if score is not None:
            record["score"] = score
        self.history.append(record)
        self._losses.clear()
        self._entries.clear()

    def _score(self) -> float:
        judge = self.validate
        if judge is None:
            return math.nan
        modes = [(m, m.training) for m in self.engine.whole.modules()]
        if self.average is not None:
            self.average.swap()
        self.engine.whole.eval()
        self.seeds.restart(-self.done)
        with torch.no_grad(), self.engine.gathered():
            score = float(judge(self.engine.module))
        score = float(self.engine.mean(torch.tensor(score, dtype=torch.float64, device=self.engine.device)))
        if not math.isfinite(score):
            raise ValueError(f"validate must return a finite score, got {score} after step {self.done}")
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_step, self.bad_scores = score, self.done, 0
            self.best_weights = self.engine.weights()
        else:
            self.bad_scores += 1
            self.stopped = self.patience is not None and self.bad_scores >= self.patience
        if self.average is not None:
            self.average.swap()
        for m, training in modes:
            m.training = training
        return score

    def _finite(self) -> bool:
        fine = all(bool(torch.isfinite(_local(p)).all()) for p in self.engine.params)
        return float(self.engine.mean(torch.tensor(float(fine), device=self.engine.device))) == 1.0

    def _keep(self) -> None:
        if self.folder is None:
            return
        if not self._finite():
            self._refuse("the weights are not finite", self.done)
        state = {
            "settings": self.settings,
            "done": self.done,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "history": self.history,
            "losses": list(self._losses),
            "entries": {name: [_number(v) for v in values] for name, values in self._entries.items()},
            "weights": self.engine.weights(),
            "average": self.engine.average_state(self.average) if self.average is not None else None,
            "best": {
                "score": self.best_score,
                "step": self.best_step,
                "weights": self.best_weights,
                "bad_scores": self.bad_scores,
            },
            **self.engine.optimizer_state(),
        }
        if self.engine.rank == 0:
            write_checkpoint(self.folder, state)
        self.engine.barrier()
        self.saved = checkpoint_path(self.folder)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it holds one.

        Raises:
            CheckpointError: if it cannot be read, or its settings are not this run's.
        """
        if self.folder is None or (state := read_checkpoint(self.folder)) is None:
            return
        theirs = state["settings"]
        differ = [f"{k}={theirs.get(k)!r} there, {v!r} here" for k, v in self.settings.items() if theirs.get(k) != v]
        if differ:
            raise CheckpointError(f"the checkpoint in {self.folder} is of another run: {'; '.join(differ)}")
        try:
            self.engine.load_weights(state["weights"])
            self.engine.load_optimizer_state(state)
            if self.average is not None:
                self.engine.load_average_state(self.average, state["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint in {self.folder} does not fit the module: {error}") from error
        self._groups = self.engine.optimizer.param_groups  # loading a state replaces them
        self.done, self.seconds, self.stopped = state["done"], state["seconds"], state["stopped"]
        self.history, self._losses = list(state["history"]), list(state["losses"])
        self._entries.update(state["entries"])
        best = state["best"]
        self.best_score, self.best_step, self.bad_scores = best["score"], best["step"], best["bad_scores"]
        if best["weights"] is not None:
            self.best_weights = {k: v.to(self.engine.device) for k, v in best["weights"].items()}
        self.saved = checkpoint_path(self.folder)

    def finish(self) -> TrainResult:
        """Put the weights that count into the module and say what was done."""
        if not self._finite():
            self._refuse("the weights are not finite", self.done)
        if self.best_weights is not None:
            self.engine.load_weights(self.best_weights)
        elif self.average is not None:
            self.average.swap()
        self.engine.optimizer.zero_grad()
        self.engine.finish()
        self.engine.whole.eval()
        best_step = self.done if self.best_score is None else self.best_step
        return TrainResult(self.done, self.seconds, self.history, best_step, self.best_score, self.stopped)


def _check_loss(loss: Tensor) -> None:
    if loss.ndim != 0:
        raise ValueError(f"loss must be a scalar, got shape {tuple(loss.shape)}; take its mean")
    if not loss.requires_grad:
        raise ValueError("loss does not depend on a trainable parameter: it carries no gradient")


def _mean(values: list[Any]) -> float:
    return sum(_number(v) for v in values) / len(values)


def _number(value: Any) -> float:
    return float(value.float().mean()) if isinstance(value, Tensor) else float(value)


def _local(p: Any) -> Tensor:
    return p.to_local() if hasattr(p, "to_local") else p
