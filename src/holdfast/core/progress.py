"""A progress bar that costs nothing: redrawn a few times a second, however fast the steps are."""

from __future__ import annotations

import time
from types import TracebackType

__all__ = ["ProgressBar"]


class ProgressBar:
    """Bar with the step, the loss, steps per second and the time left, on standard error.

    ``measure`` names what is watched besides; ``None`` for work that has no loss.

    Examples:
        >>> with ProgressBar("demo", total=2, done=0, enabled=False) as bar:
        ...     bar.tick(1, 0.5)
    """

    def __init__(
        self,
        label: str,
        *,
        total: int,
        done: int = 0,
        enabled: bool,
        every: float = 0.2,
        measure: str | None = "loss",
    ) -> None:
        self.total, self.every, self.enabled = total, every, enabled
        self._due = 0.0
        if not enabled:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._first, self._start = done, time.perf_counter()
        watched = [] if measure is None else [TextColumn(measure + " {task.fields[loss]:.4g}")]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *watched,
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task(label, total=total, completed=done, loss=float("nan"), rate=0.0)

    def __enter__(self) -> ProgressBar:
        if self.enabled:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            self._bar.refresh()
            self._bar.stop()

    def tick(self, done: int, loss: float = float("nan")) -> None:
        """Say that ``done`` steps are done; draws only if the last drawing is long enough ago."""
        if not self.enabled:
            return
        now = time.perf_counter()
        if now < self._due and done < self.total:
            return
        self._due = now + self.every
        rate = (done - self._first) / max(now - self._start, 1e-9)
        self._bar.update(self._task, completed=done, loss=loss, rate=rate, refresh=True)
