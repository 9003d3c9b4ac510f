"""Where cells run: processes on this machine, or a Ray cluster."""

from __future__ import annotations

from holdfast.study.executors.base import Executor, make_executor, usable_cores
from holdfast.study.executors.local import LocalExecutor
from holdfast.study.executors.ray import RayExecutor

__all__ = ["Executor", "LocalExecutor", "RayExecutor", "make_executor", "usable_cores"]
