"""A world in which many groups of inputs say the class at the source, and one of them at each target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.core.random import generator, spawn_seed

__all__ = ["N_GROUPS", "Size", "Task", "draw", "draw_tasks"]

N_GROUPS = 8


@dataclass(frozen=True)
class Size:
    """How many samples, and how long to train."""

    source: int = 2000
    target: int = 500
    few: int = 100
    """Target samples for fine-tuning."""
    test: int = 2000
    epochs: int = 60
    distill_epochs: int = 120
    targets: int = N_GROUPS


@dataclass(frozen=True)
class Task:
    """Training and test data."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def draw(rng: torch.Generator, n: int, carriers: Sequence[int], flip: float) -> tuple[Tensor, Tensor]:
    """Groups of two inputs (a, b) with random signs: in the carriers a b says the class, elsewhere it is a coin."""
    y = torch.randint(2, (n,), generator=rng)
    a = torch.randint(2, (n, N_GROUPS), generator=rng) * 2.0 - 1
    sign = torch.randint(2, (n, N_GROUPS), generator=rng) * 2.0 - 1
    sign[:, list(carriers)] = (2.0 * y - 1)[:, None]
    sign = torch.where(torch.rand(n, N_GROUPS, generator=rng) < flip, -sign, sign)
    x = torch.stack([a, a * sign], 2).flatten(1)
    return x + 0.4 * torch.randn(x.shape, generator=rng), y


def draw_tasks(seed: int, size: Size, flip: float = 0.0) -> tuple[Task, list[Task]]:
    """Return the source task, where every group says the class, and one target task per group, where it alone does."""
    rng = generator(spawn_seed(seed, "world"))
    everything = range(N_GROUPS)
    source = Task(*draw(rng, size.source, everything, flip), *draw(rng, size.test, everything, flip))
    targets = [Task(*draw(rng, size.target, [g], flip), *draw(rng, size.test, [g], flip)) for g in range(size.targets)]
    return source, targets
