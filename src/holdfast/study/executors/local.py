"""Cells in processes of this machine: one core each, data mapped and not copied, dead workers replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from holdfast.core.checks import check_number
from holdfast.data import Environments
from holdfast.study.executors.base import usable_cores
from holdfast.study.measure import one_thread, run_cell
from holdfast.study.plan import Cell
from holdfast.study.sharing import attach, share
from holdfast.study.store import Outcome

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """A pool of processes with one torch thread each, as many as there are cores.

    Every worker maps the data from one scratch file. A worker that dies (killed, out of memory) is replaced and its
    cell is run again, ``retries`` times, before the cell counts as failed; the other cells never notice. Workers end
    by themselves when the study's process is gone, so a killed study leaves nothing behind.

    Args:
        scratch: folder for the shared data; emptied of it at the end.
        workers: processes; ``None`` means one a core, 0 runs the cells here, one after another.
        retries: further attempts for a cell whose worker died.

    Raises:
        ValueError: for a negative number of workers or retries.
    """

    def __init__(self, scratch: Path, *, workers: int | None = None, retries: int = 2) -> None:
        self.scratch = Path(scratch)
        self.workers = usable_cores() if workers is None else int(check_number("workers", workers, low=0))
        self.retries = int(check_number("retries", retries, low=0))

    def run(self, cells: Sequence[Cell], data: Mapping[str, Environments]) -> Iterator[tuple[Cell, Outcome]]:
        """Run ``cells`` and yield each with its outcome."""
        if self.workers == 0:
            with one_thread():
                for cell in cells:
                    yield cell, run_cell(cell, data[cell.setting])
            return
        used = dict.fromkeys(cell.setting for cell in cells)
        paths = {name: self.scratch / f"{i}.{os.getpid()}.data" for i, name in enumerate(used)}
        try:
            for name, path in paths.items():
                share(data[name], path)
            yield from self._pool(cells, paths)
        finally:
            for path in paths.values():
                path.unlink(missing_ok=True)

    def _pool(self, cells: Sequence[Cell], paths: Mapping[str, Path]) -> Iterator[tuple[Cell, Outcome]]:
        context = _context()
        waiting = deque((cell, 1) for cell in cells)
        workers = [_Worker.start(context, paths) for _ in range(min(self.workers, len(cells)))]
        try:
            while waiting or any(w.job for w in workers):
                for worker in workers:
                    if waiting and worker.job is None:
                        worker.give(*waiting.popleft())
                busy = [w for w in workers if w.job]
                ready = connection.wait([w.pipe for w in busy] + [w.process.sentinel for w in busy])
                for i, worker in enumerate(workers):
                    if worker.job is None or not {worker.pipe, worker.process.sentinel} & set(ready):
                        continue
                    (cell, attempt), outcome = worker.job, worker.take()
                    if outcome is None:
                        workers[i] = _Worker.start(context, paths)
                        if attempt <= self.retries:
                            waiting.appendleft((cell, attempt + 1))
                            continue
                        outcome = Outcome("failed", worker.epitaph(attempt), {}, {}, 0.0)
                    yield cell, outcome
        finally:
            for worker in workers:
                worker.stop()


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    job: tuple[Cell, int] | None = None

    @classmethod
    def start(cls, context: Any, paths: Mapping[str, Path]) -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, dict(paths)), daemon=True, name="holdfast-cell")
        process.start()
        theirs.close()
        return cls(process, ours)

    def give(self, cell: Cell, attempt: int) -> None:
        self.job = (cell, attempt)
        with suppress(OSError):  # it died while idle: its sentinel tells, and its successor gets the cell
            self.pipe.send(cell)

    def take(self) -> Outcome | None:
        """Return the outcome, or ``None`` when the worker died before it could send one."""
        self.job = None
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            return None

    def epitaph(self, attempts: int) -> str:
        self.process.join(5)
        code = self.process.exitcode
        reason = f"exit code {code}"
        if code is not None and code < 0:
            reason = f"signal {-code} ({signal.Signals(-code).name})"
            reason += "; perhaps it ran out of memory" if -code == signal.SIGKILL else ""
        return f"the worker died in each of {attempts} attempts: {reason}"

    def stop(self) -> None:
        self.pipe.close()
        if self.job is not None:
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()


def _context() -> Any:
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(pipe: connection.Connection, paths: dict[str, Path]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    data: dict[str, Environments] = {}
    with one_thread():
        while True:
            try:
                cell = pipe.recv()
            except (EOFError, OSError):
                return
            if cell.setting not in data:
                data[cell.setting] = attach(paths[cell.setting])
            pipe.send(run_cell(cell, data[cell.setting]))
