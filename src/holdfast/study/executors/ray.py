"""Cells on a Ray cluster: one that is given by its address, or one started on this machine for the run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdfast.core.checks import check_number
from holdfast.data import Environments
from holdfast.study.executors.base import usable_cores
from holdfast.study.measure import one_thread, run_cell
from holdfast.study.plan import Cell
from holdfast.study.sharing import from_fields, to_fields
from holdfast.study.spec import SpecError
from holdfast.study.store import Outcome

__all__ = ["RayExecutor"]


class RayExecutor:
    """Cells as Ray tasks of one core; the data are put into the object store once and mapped by every worker.

    A task whose worker or node dies is run again by Ray, ``retries`` times, before the cell counts as failed.

    Args:
        address: of a running cluster (``"auto"``, ``"ray://host:10001"``); ``None`` starts one for the run.
        workers: cells at a time; ``None`` means the cluster's cores.
        retries: further attempts for a cell whose worker died.

    Raises:
        SpecError: naming ``executor``, when Ray is not installed or nothing answers at ``address``.
    """

    def __init__(self, *, address: str | None = None, workers: int | None = None, retries: int = 2) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SpecError("executor: ray is not installed; pip install 'holdfast[cluster]', or use executor: local")
        self.address = address
        self.retries = int(check_number("retries", retries, low=0))
        self.workers = usable_cores() if workers is None else int(check_number("workers", workers, low=1))
        self._limit = workers

    def run(self, cells: Sequence[Cell], data: Mapping[str, Environments]) -> Iterator[tuple[Cell, Outcome]]:
        """Run ``cells`` and yield each with its outcome."""
        import ray as ray_module

        ray: Any = ray_module

        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            if self._limit is None:
                self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
            used = dict.fromkeys(cell.setting for cell in cells)
            shared = {name: ray.put(to_fields(data[name])) for name in used}
            yield from self._tasks(ray, cells, shared)
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            options |= {"num_cpus": self.workers, "include_dashboard": False}
        try:
            ray.init(address=self.address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = self.address or "this machine"
            raise SpecError(f"executor.address: no Ray cluster at {where}: {error}") from None

    def _tasks(self, ray: Any, cells: Sequence[Cell], shared: Mapping[str, Any]) -> Iterator[tuple[Cell, Outcome]]:
        task = ray.remote(num_cpus=1, max_retries=self.retries)(_task)
        waiting, running = list(reversed(cells)), {}
        while waiting or running:
            while waiting and len(running) < self.workers:
                cell = waiting.pop()
                running[task.remote(cell, shared[cell.setting], sys.path)] = cell
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                cell = running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[0]
                    outcome = Outcome(
                        "failed", f"the worker died in each of {self.retries + 1} attempts: {reason}", {}, {}, 0.0
                    )
                yield cell, outcome


def _task(cell: Cell, fields: dict[str, Any], path: list[str]) -> Outcome:
    # A method of the user's own is importable where the study was started; on this machine it is here too.
    sys.path.extend(p for p in path if p not in sys.path)
    with one_thread():
        return run_cell(cell, from_fields(fields))
