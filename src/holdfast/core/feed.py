"""The stream of batches of a run: sharded over processes, and able to start at any batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

from holdfast.core.steps import StepSeeds

__all__ = ["BatchSource", "Feed"]


class BatchSource(Protocol):
    """What :func:`holdfast.core.training.train` iterates over.

    ``epoch`` may take a second argument ``start`` (batches to leave out, when a run resumes), and there may be
    ``shard(rank, world_size)``, which returns the part of one process; without it whole batches are dealt out.
    """

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def epoch(self, e: int, /) -> Iterator[Any]:
        """Return the batches of epoch ``e``, the same at every call."""
        ...


class Feed:
    """Batch ``k`` of a run, for one process of several; can start anywhere."""

    def __init__(self, batches: Any, rank: int, world_size: int) -> None:
        self._first, self._stride = 0, 1
        if world_size > 1:
            if hasattr(batches, "shard"):
                batches = batches.shard(rank, world_size)
            else:
                self._first, self._stride = rank, world_size
        self._batches = batches
        self.length = len(batches) // self._stride
        if self.length == 0:
            raise ValueError(f"an epoch has {len(batches)} batches, too few for {world_size} processes")
        self._can_start = "start" in inspect.signature(batches.epoch).parameters
        self._iterator: Iterator[Any] | None = None
        self.epoch = 0

    def take(self, k: int, seeds: StepSeeds) -> Any:
        """Return batch ``k``, counted over all epochs."""
        epoch, place = divmod(k, self.length)
        if self._iterator is None or place == 0:
            self._iterator = self._open(epoch, place, k, seeds)
        try:
            return next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"batches.epoch({epoch}) ended after {place} batches, but len(batches) promises {self.length}"
            ) from None

    def _open(self, epoch: int, place: int, k: int, seeds: StepSeeds) -> Iterator[Any]:
        self.epoch = epoch
        if self._can_start:
            source = self._batches.epoch(epoch, start=place * self._stride)
            return islice(iter(source), self._first, None, self._stride)
        # Batches passed over are drawn under the seeds they had, as drawing may use the global generators.
        seeds.restart(k - place)
        iterator = islice(iter(self._batches.epoch(epoch)), self._first, None, self._stride)
        for passed in range(k - place, k):
            seeds.restart(passed)
            next(iterator, None)
        seeds.restart(k)
        return iterator
