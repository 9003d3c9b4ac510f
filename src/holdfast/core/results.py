"""How a run ends: with a result, or with the error that says where it went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["NonFiniteLossError", "TrainResult"]


class NonFiniteLossError(FloatingPointError):
    """The loss or the weights became NaN or infinite.

    Attributes:
        step: the optimizer step, counted from 1.
        checkpoint: the last good checkpoint, if there is one.
    """

    def __init__(self, message: str, step: int, checkpoint: Path | None) -> None:
        super().__init__(message)
        self.step, self.checkpoint = step, checkpoint


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    Attributes:
        steps: optimizer steps done.
        seconds: wall time of the loop, those before a resume included.
        history: one record per ``log_every`` steps and per validation: "step" (steps done), "epoch", "lr", "loss"
            and the loss's other entries as means since the last record, "score" where validated.
        best_step: steps done when the best score was reached; ``steps`` without validation.
        best_score: best validation score, or ``None``.
        stopped_early: whether ``patience`` ran out.
    """

    steps: int
    seconds: float
    history: list[dict[str, float]]
    best_step: int
    best_score: float | None
    stopped_early: bool
