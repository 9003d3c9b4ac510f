"""What an executor is, and the one function every one of them runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from holdfast.data import Environments
from holdfast.study.plan import Cell
from holdfast.study.spec import ExecutorSpec
from holdfast.study.store import Outcome

__all__ = ["Executor", "make_executor", "usable_cores"]


class Executor(Protocol):
    """Runs cells in any order, each on one core, and yields every outcome as soon as it is there.

    An executor never raises for a cell: a cell that raises, or whose process keeps dying, is a failed outcome.
    """

    workers: int

    def run(self, cells: Sequence[Cell], data: Mapping[str, Environments]) -> Iterator[tuple[Cell, Outcome]]:
        """Run ``cells`` on ``data``, by setting."""
        ...


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_executor(spec: ExecutorSpec, scratch: Path) -> Executor:
    """Return the executor a study asks for; ``scratch`` is a folder it may fill while it runs.

    Raises:
        SpecError: naming ``executor``, when Ray is asked for and not installed.
    """
    from holdfast.study.executors.local import LocalExecutor
    from holdfast.study.executors.ray import RayExecutor

    if spec.kind == "ray":
        return RayExecutor(address=spec.address, workers=spec.workers, retries=spec.retries)
    return LocalExecutor(scratch, workers=spec.workers, retries=spec.retries)
