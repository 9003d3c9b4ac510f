"""Rehearsal: a few samples of every old class are kept and replayed while new classes are learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number, check_same_length
from holdfast.core.random import generator as make_generator
from holdfast.core.random import spawn_seed

__all__ = ["HalfAndHalfSampler", "RehearsalBuffer", "herd"]


def herd(features: Float[Tensor, "n d"], k: int) -> Int[Tensor, " k"]:
    r"""Choose samples, one after another, so that the mean of the chosen stays nearest to the mean of all.

    .. math:: p_k = \arg\min_i
              \bigl\lVert \mu - \tfrac1k \bigl(\phi(x_i) + \textstyle\sum_{j<k} \phi(p_j)\bigr) \bigr\rVert

    Raises:
        ValueError: when k exceeds the number of samples.

    Source: Rebuffi, Kolesnikov, Sperl, Lampert, "iCaRL", CVPR 2017, Algorithm 4.

    Examples:
        >>> herd(torch.tensor([[0.0], [1.0], [5.0]]), 1).tolist()  # the mean is 2
        [1]
    """
    check_number("k", k, low=1, high=len(features), integer=True)
    mean = features.mean(0)
    chosen = torch.empty(k, dtype=torch.int64)
    total, free = torch.zeros_like(mean), torch.ones(len(features), dtype=torch.bool)
    for i in range(k):
        distance = (mean - (features + total) / (i + 1)).norm(dim=1)
        chosen[i] = distance.masked_fill(~free.to(distance.device), torch.inf).argmin()
        total = total + features[chosen[i]]
        free[chosen[i]] = False
    return chosen


class RehearsalBuffer:
    """Keeps a fixed number of samples of every class.

    Args:
        per_class: samples kept of each class (all of them where a class has fewer).
        strategy: ``"random"``, or ``"herding"`` by the features given to :meth:`add`.

    Attributes:
        x, y: the samples and labels kept so far, class by class; ``None`` before the first :meth:`add`.

    Source: the memory of Biondi et al., CVPR 2024 (random, 20 per class).

    Examples:
        >>> memory = RehearsalBuffer(per_class=2)
        >>> memory.add(torch.arange(6.0)[:, None], torch.tensor([0, 0, 0, 1, 1, 1]), generator=torch.Generator())
        >>> len(memory), memory.y.tolist()
        (4, [0, 0, 1, 1])
    """

    def __init__(self, per_class: int, strategy: Literal["random", "herding"] = "random") -> None:
        self.per_class = int(check_number("per_class", per_class, low=1, integer=True))
        self.strategy = check_choice("strategy", strategy, ["random", "herding"])
        self.x: Tensor | None = None
        self.y: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return 0 if self.y is None else len(self.y)

    def add(
        self,
        x: Float[Tensor, "n *shape"],
        y: Int[Tensor, " n"],
        *,
        features: Float[Tensor, "n d"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Keep samples of the classes in ``y``; classes that are already kept are chosen anew from ``x``.

        Raises:
            ValueError: when lengths differ, or herding is not given the features.
        """
        check_same_length(x=x, y=y, features=features)
        if self.strategy == "herding" and features is None:
            raise ValueError("strategy='herding' chooses by features, give features=")
        keep = []
        for c in torch.unique(y):
            rows = (y == c).nonzero()[:, 0]
            k = min(self.per_class, len(rows))
            if self.strategy == "herding" and features is not None:
                keep.append(rows[herd(torch.nn.functional.normalize(features[rows], dim=1), k)])
            else:
                keep.append(rows[torch.randperm(len(rows), generator=generator)[:k]])
        index = torch.cat(keep) if keep else torch.empty(0, dtype=torch.int64)
        if self.x is None or self.y is None:
            self.x, self.y = x[index].clone(), y[index].clone()
            return
        old = ~torch.isin(self.y, y)
        self.x, self.y = torch.cat([self.x[old], x[index]]), torch.cat([self.y[old], y[index]])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the kept samples."""
        return {} if self.x is None or self.y is None else {"x": self.x, "y": self.y}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self.x, self.y = state.get("x"), state.get("y")


class HalfAndHalfSampler:
    """Batches of row indices, half of new samples and half of remembered ones; a pure function of seed and epoch.

    An epoch goes through the new rows once. Remembered rows follow each other in fresh permutations, so each
    returns about equally often, more often than new rows when the memory is small. Without a memory, batches are
    all new.

    Args:
        new_idx: rows of the new samples.
        memory_idx: rows of the remembered samples; may be empty.
        batch: rows per batch, even where there is a memory.

    Raises:
        ValueError: for no new rows, or an odd batch size with a memory.

    Source: sampling of Biondi et al., CVPR 2024 (batches of 128, half new and half memory).

    Examples:
        >>> sampler = HalfAndHalfSampler(torch.arange(6), torch.tensor([10, 11]), batch=4, seed=0)
        >>> len(sampler), [int((rows >= 10).sum()) for rows in sampler.epoch(0)]
        (3, [2, 2, 2])
    """

    def __init__(self, new_idx: Int[Tensor, " n"], memory_idx: Int[Tensor, " m"], batch: int, *, seed: int = 0) -> None:
        check_number("batch", batch, low=1, integer=True)
        if len(new_idx) == 0:
            raise ValueError("there must be at least one new row, got none")
        if len(memory_idx) and batch % 2:
            raise ValueError(f"batch must be even to be halved between new and memory rows, got {batch}")
        self.new_idx, self.memory_idx = new_idx, memory_idx
        self.n_memory = batch // 2 if len(memory_idx) else 0
        self.n_new = min(batch - self.n_memory, len(new_idx))
        self.seed = int(check_number("seed", seed, low=0, integer=True))

    def __len__(self) -> int:
        return -(-len(self.new_idx) // self.n_new)

    def epoch(self, e: int) -> Iterator[Int[Tensor, " rows"]]:
        """Yield the row indices of epoch ``e``; the last batch may hold fewer new rows."""
        rng = make_generator(spawn_seed(self.seed, "half and half", int(e)))
        new = self.new_idx[torch.randperm(len(self.new_idx), generator=rng)]
        if not self.n_memory:
            yield from new.split(self.n_new)
            return
        rounds = -(-len(self) * self.n_memory // len(self.memory_idx))
        order = torch.cat([torch.randperm(len(self.memory_idx), generator=rng) for _ in range(rounds)])
        for part, memory in zip(new.split(self.n_new), self.memory_idx[order].split(self.n_memory)):
            yield torch.cat([part, memory])
