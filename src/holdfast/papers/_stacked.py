"""Many small perceptrons trained at once: independent members, or members under one joint head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.batching import BatchPlan
from holdfast.core.random import generator, spawn_seed
from holdfast.core.training import train
from holdfast.nn.network import Network

__all__ = ["JointStack", "Stack", "train_stack"]


class Stack(nn.Module):
    """``len(seeds)`` perceptrons of the same sizes as batched matrices; each has its own weights and nothing else in
    common, so training the sum of their losses trains each alone."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__()
        self.sizes, self.n = list(sizes), len(seeds)
        rngs = [generator(spawn_seed(seed, "weights")) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for d_in, d_out in pairwise(sizes):
            # The distribution of nn.Linear: uniform on +-1/sqrt(fan in).
            draws = [torch.rand(d_in + 1, d_out, generator=rng) * 2 - 1 for rng in rngs]
            both = torch.stack(draws) / d_in**0.5
            self.weights.append(nn.Parameter(both[:, :-1].clone()))
            self.biases.append(nn.Parameter(both[:, -1:].clone()))

    def features(self, x: Float[Tensor, "n batch d"]) -> Float[Tensor, "n batch width"]:
        """Return the last hidden layer of every member."""
        for w, b in zip(self.weights[:-1], self.biases[:-1]):
            x = torch.baddbmm(b, x, w).relu()
        return x

    def forward(self, x: Float[Tensor, "n batch d"]) -> Float[Tensor, "n batch classes"]:
        return torch.baddbmm(self.biases[-1], self.features(x), self.weights[-1])

    def members(self) -> list[Network]:
        """Return the members as ordinary networks with their own copies of the weights."""
        return [self._member(i) for i in range(self.n)]

    def _member(self, i: int) -> Network:
        layers = []
        for w, b in zip(self.weights, self.biases):
            layer = nn.Linear(w.shape[1], w.shape[2])
            with torch.no_grad():
                layer.weight.copy_(w[i].t())
                layer.bias.copy_(b[i, 0])
            layers += [layer, nn.ReLU()]
        return Network(nn.Sequential(*layers[:-2]), layers[-2])

    @classmethod
    def of(cls, networks: Sequence[Network], classes: int, seeds: Sequence[int]) -> Stack:
        """Stack networks made by :meth:`members`, each under a fresh head of ``classes`` outputs."""
        layers = [[m for m in cast("nn.Sequential", net.encoder) if isinstance(m, nn.Linear)] for net in networks]
        sizes = [layers[0][0].in_features, *(m.out_features for m in layers[0]), classes]
        stack = cls(sizes, seeds)
        with torch.no_grad():
            for j in range(len(sizes) - 2):
                stack.weights[j].copy_(torch.stack([own[j].weight.t() for own in layers]))
                stack.biases[j].copy_(torch.stack([own[j].bias[None] for own in layers]))
        return stack


class JointStack(nn.Module):
    """Groups of parallel members under one head per group, trained as one network each."""

    def __init__(self, stack: Stack, groups: int, seed: int) -> None:
        super().__init__()
        self.stack, self.groups = stack, groups
        head = Stack(
            [stack.n // groups * stack.sizes[-2], stack.sizes[-1]], [spawn_seed(seed, g) for g in range(groups)]
        )
        self.head = head
        # The members' own heads are not part of this network.
        self.stack.weights[-1].requires_grad_(False)
        self.stack.biases[-1].requires_grad_(False)

    def features(self, x: Float[Tensor, "groups batch d"]) -> Float[Tensor, "groups batch width"]:
        """Return the concatenated hidden layers of every group."""
        members = self.stack.n // self.groups
        z = self.stack.features(x.repeat_interleave(members, 0))
        return z.unflatten(0, (self.groups, members)).transpose(1, 2).flatten(2)

    def forward(self, x: Float[Tensor, "groups batch d"]) -> Float[Tensor, "groups batch classes"]:
        return self.head(self.features(x))


class _Orders:
    """Batches in which every member follows its own order of the rows."""

    def __init__(self, plans: Sequence[BatchPlan], take: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.plans, self.take = plans, take

    def __len__(self) -> int:
        return len(self.plans[0])

    def epoch(self, e: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in zip(*(plan.epoch(e) for plan in self.plans)):
            yield self.take(torch.stack(rows))


def train_stack(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    seeds: Sequence[int],
    *,
    epochs: int,
    batch: int,
    lr: float,
    weight_decay: float,
) -> None:
    """Train every member on ``x`` (rows, d), or on its own ``x[i]`` of (n, rows, d), in an order of its own."""
    own = torch.arange(len(seeds))[:, None]
    shared = x.ndim == 2
    plans = [BatchPlan(x.shape[-2], batch, seed=spawn_seed(seed, "order")) for seed in seeds]

    def take(rows: Tensor) -> tuple[Tensor, Tensor]:
        return (x[rows], y[rows]) if shared else (x[own, rows], y[own, rows])

    def loss(module: nn.Module, pair: tuple[Tensor, Tensor], info: object) -> Tensor:
        logits = module(pair[0])
        return F.cross_entropy(logits.flatten(0, 1), pair[1].flatten()) * len(seeds)

    train(
        module,
        loss,
        _Orders(plans, take),
        steps=epochs * len(plans[0]),
        lr=lr,
        weight_decay=weight_decay,
        device="cpu",
    )
