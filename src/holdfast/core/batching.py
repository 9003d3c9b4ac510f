"""Which rows make up which batch: a pure function of the seed and the epoch, balanced over groups if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.random import generator, spawn_seed

__all__ = ["BatchPlan", "Batches"]

T = TypeVar("T")


class BatchPlan:
    """Row indices of every batch of every epoch, with no state: ``epoch(e)`` depends on the seed and ``e`` alone.

    Plain plans visit every row once per epoch in a fresh order. Balanced plans deal the places of an epoch out
    to the groups in turn, so that in any batch two groups differ by at most one row; rows of a short group come
    again in fresh permutations, rows of a long group rest until another epoch. An epoch has
    :math:`\\lceil n / B \\rceil` batches either way (:math:`\\lfloor n / B \\rfloor` with ``drop_last``).

    With ``world_size`` processes, ``batch_size`` counts the rows of all of them: batch *k* of rank *r* is the
    *r*-th part of batch *k* of the one-process plan, so training sees the same rows on any number of processes.

    Args:
        n: number of rows.
        batch_size: rows per batch over all processes; more than ``n`` is read as ``n``.
        seed: non-negative integer.
        groups: (n,) integer group (for instance the environment) of every row; used when ``balanced``.
        balanced: equally many rows of every group in each batch.
        drop_last: leave out the last, shorter batch.
        rank, world_size: which part of how many. A last batch of fewer rows than processes is filled up with
            rows from the epoch's beginning, as every process must take part in every step.

    Raises:
        ValueError: for numbers out of range, ``balanced`` without ``groups``, or ``groups`` of another length.

    Examples:
        >>> plan = BatchPlan(6, 4, seed=0, groups=[0, 0, 0, 0, 0, 1], balanced=True)
        >>> [sorted(rows.tolist()).count(5) for rows in plan.epoch(0)]
        [2, 2]
        >>> a, b = (list(BatchPlan(6, 6, seed=0, rank=r, world_size=2).epoch(3))[0] for r in (0, 1))
        >>> sorted(a.tolist() + b.tolist())
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        groups: Int[np.ndarray, "n"] | Int[Tensor, "n"] | None = None,
        balanced: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n = int(check_number("n", n, low=1, integer=True))
        self.batch_size = min(int(check_number("batch_size", batch_size, low=1, integer=True)), self.n)
        self.seed = int(check_number("seed", seed, low=0, integer=True))
        self.world_size = int(check_number("world_size", world_size, low=1, integer=True))
        self.rank = int(check_number("rank", rank, low=0, high=self.world_size - 1, integer=True))
        self.balanced, self.drop_last = balanced, drop_last
        if self.batch_size < self.world_size:
            raise ValueError(
                f"batch_size must be at least the number of processes, got {self.batch_size} rows "
                f"for {self.world_size} processes"
            )
        if balanced and groups is None:
            raise ValueError("balanced=True needs groups, one integer for each of the n rows")
        self.groups = None if groups is None else np.asarray(groups)
        if self.groups is not None and self.groups.shape != (self.n,):
            raise ValueError(f"groups must have shape ({self.n},), got {self.groups.shape}")
        self._members = _rows_by_group(self.groups) if balanced and self.groups is not None else []

    def __len__(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def shard(self, rank: int, world_size: int) -> BatchPlan:
        """Return the same plan seen from process ``rank`` of ``world_size``."""
        return BatchPlan(
            self.n,
            self.batch_size,
            seed=self.seed,
            groups=self.groups,
            balanced=self.balanced,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
        )

    def epoch(self, e: int, start: int = 0) -> Iterator[Int[Tensor, "batch"]]:
        """Yield the row indices of epoch ``e``, from batch ``start`` on."""
        order = self._order(int(e))
        size = self.batch_size
        for k in range(start, len(self)):
            rows = order[k * size : (k + 1) * size]
            if self.world_size > 1:
                missing = self.world_size - len(rows)
                if missing > 0:
                    rows = torch.cat([rows, order[:missing]])
                rows = rows.tensor_split(self.world_size)[self.rank]
            yield rows

    def _order(self, e: int) -> Int[Tensor, "places"]:
        rng = generator(spawn_seed(self.seed, "epoch", e))
        if not self.balanced:
            return torch.randperm(self.n, generator=rng)
        # Place s belongs to group s mod G: any window of B places then holds floor(B/G) or ceil(B/G) of each.
        places, n_groups = len(self) * self.batch_size, len(self._members)
        order = torch.empty(places, dtype=torch.int64)
        for turn, g in enumerate(torch.randperm(n_groups, generator=rng).tolist()):
            rows = self._members[g]
            wanted = (places - turn + n_groups - 1) // n_groups
            rounds = -(-wanted // len(rows))
            drawn = [rows[torch.randperm(len(rows), generator=rng)] for _ in range(rounds)]
            order[turn::n_groups] = torch.cat(drawn)[:wanted] if drawn else rows[:0]
        return order


def _rows_by_group(groups: np.ndarray) -> list[Tensor]:
    codes = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))[:-1]
    return [torch.from_numpy(rows) for rows in np.split(order.astype(np.int64), ends)]


class Batches(Generic[T]):
    """A plan together with what fetches the rows: what :func:`holdfast.core.training.train` iterates over.

    Examples:
        >>> x = torch.arange(6.0)
        >>> batches = Batches(BatchPlan(6, 3, seed=0), lambda rows: x[rows])
        >>> len(batches), sorted(torch.cat(list(batches.epoch(0))).tolist())
        (2, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    """

    def __init__(self, plan: BatchPlan, take: Callable[[Tensor], T]) -> None:
        self.plan, self.take = plan, take

    def __len__(self) -> int:
        return len(self.plan)

    def shard(self, rank: int, world_size: int) -> Batches[T]:
        """Return the part of process ``rank`` of ``world_size``."""
        return Batches(self.plan.shard(rank, world_size), self.take)

    def epoch(self, e: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of epoch ``e``, from batch ``start`` on."""
        return map(self.take, self.plan.epoch(e, start))
