"""Training episodes that differ in nothing but their seed, and the featurisers they leave."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.random import isolated_rng, spawn_seed

__all__ = ["Featurizer", "snapshots", "train_episodes"]


class Featurizer(nn.Module):
    """A frozen representation that remembers its head and its name.

    Args:
        model: module with ``features(x)``, or a module whose output is the representation.
        head: what maps features to the source task's logits; ``model.head`` where there is one.
        name: what messages call it, e.g. ``"seed 3"``.

    Examples:
        >>> from holdfast.nn.network import Network
        >>> phi = Featurizer(Network(nn.Linear(4, 8), nn.Linear(8, 2)), name="seed 0")
        >>> phi(torch.zeros(3, 4)).shape, phi.logits(torch.zeros(3, 4)).shape
        (torch.Size([3, 8]), torch.Size([3, 2]))
    """

    def __init__(self, model: nn.Module, head: nn.Module | None = None, name: str = "") -> None:
        super().__init__()
        self.model = model
        self._own_head = head
        self.name = name
        self.requires_grad_(False).eval()

    @property
    def head(self) -> nn.Module | None:
        """The source head, if there is one."""
        return self._own_head if self._own_head is not None else getattr(self.model, "head", None)

    def forward(self, x: Any) -> Float[Tensor, "batch dim"]:
        """Return the representation."""
        features: Callable[[Any], Tensor] | None = getattr(self.model, "features", None)
        return features(x) if callable(features) else self.model(x)

    def logits(self, x: Any) -> Float[Tensor, "batch classes"]:
        """Return the source head's logits.

        Raises:
            ValueError: when the featuriser has no head.
        """
        if self.head is None:
            raise ValueError(f"featuriser {self.name!r} has no head")
        return self.head(self(x))


def train_episodes(
    make_model: Callable[[], nn.Module],
    train_fn: Callable[[nn.Module, int], nn.Module | None],
    seeds: Sequence[int],
    *,
    checkpoint: str | Path | None = None,
    parallel: Callable[[Callable[[int], nn.Module], Sequence[int]], Iterable[nn.Module]] = map,
) -> list[Featurizer]:
    """Train the same model once per seed; a seed decides the initial weights and the order of the data.

    Args:
        make_model: returns a fresh model; its weights are drawn from the episode's seed.
        train_fn: trains ``model`` from ``seed`` (in place, or returning what it trained). It must draw the order of
            the data from the seed too: episodes that share it find more alike features.
        seeds: one non-negative integer per episode, all different.
        checkpoint: folder that keeps every finished episode; those found there are not trained again.
        parallel: maps a function over seeds, such as ``map`` or an executor's ``map``; results in order.

    Raises:
        ValueError: for no seed, or a seed that comes twice.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023.

    Examples:
        >>> members = train_episodes(lambda: nn.Linear(4, 2), lambda model, seed: None, seeds=[0, 1])
        >>> [m.name for m in members]
        ['seed 0', 'seed 1']
    """
    seeds = [int(check_number(f"seeds[{i}]", s, low=0, integer=True)) for i, s in enumerate(seeds)]
    if not seeds:
        raise ValueError("seeds must hold at least one seed, got none")
    if len(set(seeds)) < len(seeds):
        twice = sorted({s for s in seeds if seeds.count(s) > 1})
        raise ValueError(f"seeds must all differ, but {twice} come more than once: equal episodes add no features")
    folder = None if checkpoint is None else Path(checkpoint)

    def episode(seed: int) -> nn.Module:
        with isolated_rng(spawn_seed(seed, "weights")):
            model = make_model()
        path = None if folder is None else folder / f"episode-{seed}.safetensors"
        if path is not None and path.is_file():
            model.load_state_dict(load_file(path))
            return model
        trained = train_fn(model, seed)
        model = model if trained is None else trained
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, partial)
            partial.replace(path)
        return model

    return [Featurizer(model, name=f"seed {seed}") for seed, model in zip(seeds, parallel(episode, seeds))]


def snapshots(train_fn: Callable[[float], Iterable[nn.Module]], n: int, lr: float, *, length: int) -> list[Featurizer]:
    """Take ``n`` snapshots, evenly spaced and ending at the end, of one episode with a rather high step size.

    The cheap variant of :func:`train_episodes`.

    Args:
        train_fn: from step size to an iterator that trains on and yields the model after every epoch.
        n: snapshots to take.
        lr: step size, constant and high enough to move between optima.
        length: epochs of the episode.

    Raises:
        ValueError: for more snapshots than epochs, or an episode that ends before its length.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023.

    Examples:
        >>> def episode(lr):
        ...     model = nn.Linear(1, 1)
        ...     for epoch in range(6):
        ...         nn.init.constant_(model.weight, epoch)
        ...         yield model
        >>> [m.model.weight.item() for m in snapshots(episode, n=3, lr=0.1, length=6)]
        [1.0, 3.0, 5.0]
    """
    n = int(check_number("n", n, low=1, integer=True))
    length = int(check_number("length", length, low=1, integer=True))
    check_number("lr", lr, low=0, open_low=True)
    if n > length:
        raise ValueError(f"{n} snapshots asked of an episode of {length} epochs")
    stops = {length * (i + 1) // n for i in range(n)}
    taken = []
    for epoch, model in enumerate(train_fn(lr), start=1):
        if epoch in stops:
            taken.append(Featurizer(copy.deepcopy(model), name=f"epoch {epoch}"))
        if epoch == length:
            break
    if len(taken) < n:
        raise ValueError(f"{n} snapshots asked, but the episode ended early, after {len(taken)} of them")
    return taken


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Return whether two modules hold the same tensors, bit for bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        v.shape == second[k].shape and torch.equal(v.cpu(), second[k].cpu()) for k, v in first.items()
    )
