"""Batches of environments for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.batching import BatchPlan
from holdfast.data.samples import take

if TYPE_CHECKING:
    from holdfast.data.environments import Environments

__all__ = ["EnvironmentBatch", "EnvironmentLoader"]


class EnvironmentBatch(NamedTuple):
    """A batch: samples (a tensor for arrays, else as they are), class codes or targets, environments, rows."""

    x: Any
    y: Tensor
    environment: Tensor
    index: Tensor


class EnvironmentLoader:
    """Batches of ``data``; ``len`` is their number in an epoch, ``epoch(e)`` repeats epoch ``e`` exactly.

    Iterating gives epoch 0, then 1, and so on: one epoch for each ``for`` loop.

    Raises:
        ValueError: for a batch size the plan refuses.

    Examples:
        >>> from holdfast.data import Environments
        >>> e = Environments.from_arrays(np.arange(8.0).reshape(8, 1), [0, 1] * 4, list("AABBBBBB"))
        >>> batch = next(iter(e.loader(4, balanced=True, seed=0)))
        >>> batch.x.shape, sorted(batch.environment.tolist())
        (torch.Size([4, 1]), [0, 0, 1, 1])
    """

    def __init__(
        self,
        data: Environments,
        batch_size: int,
        *,
        balanced: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data = data
        self.plan = BatchPlan(
            len(data),
            batch_size,
            seed=seed,
            groups=data.environment,
            balanced=balanced,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        self._next = 0
        targets = data.labels if data.task == "classification" else data.y.astype(np.float32)
        self._y = as_tensor(targets)
        self._environment = as_tensor(data.environment)

    def __len__(self) -> int:
        return len(self.plan)

    def epoch(self, e: int) -> Iterator[EnvironmentBatch]:
        """Yield the batches of epoch ``e``, a pure function of the seed and ``e``."""
        for index in self.plan.epoch(e):
            x = take(self.data.x, index.numpy())
            x = as_tensor(x) if isinstance(x, np.ndarray) else x
            yield EnvironmentBatch(x, self._y[index], self._environment[index], index)

    def __iter__(self) -> Iterator[EnvironmentBatch]:
        e, self._next = self._next, self._next + 1
        return self.epoch(e)
