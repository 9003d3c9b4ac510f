from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.training import train
from holdfast.nn.network import Network
from holdfast.representation.rich import Featurizer, snapshots, train_episodes

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def _make() -> nn.Module:
    return Network(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2))


def _train(model: nn.Module, seed: int) -> None:
    batches = Batches(BatchPlan(60, 20, seed=seed), lambda rows: (X[rows], Y[rows]))
    train(model, lambda m, b, i: F.cross_entropy(m(b[0]), b[1]), batches, steps=6, lr=1e-2, device="cpu", seed=seed)


def test_same_seed_gives_the_same_bits_and_another_seed_other_features() -> None:
    first, again = train_episodes(_make, _train, [3, 4]), train_episodes(_make, _train, [3])
    assert torch.equal(first[0](X), again[0](X))
    assert not torch.allclose(first[0](X), first[1](X))


def test_the_seed_decides_the_order_of_the_data_too() -> None:
    seen = []
    train_episodes(_make, lambda model, seed: seen.append(seed), [5, 9])
    assert seen == [5, 9]


def test_callers_random_state_neither_matters_nor_changes() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = train_episodes(_make, _train, [1])[0](X)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(a, train_episodes(_make, _train, [1])[0](X))


def test_finished_episodes_are_read_and_not_trained_again(tmp_path: Path) -> None:
    trained = []

    def count(model: nn.Module, seed: int) -> None:
        trained.append(seed)
        _train(model, seed)

    first = train_episodes(_make, count, [0, 1], checkpoint=tmp_path)
    again = train_episodes(_make, count, [0, 1, 2], checkpoint=tmp_path)
    assert trained == [0, 1, 2]
    assert all(torch.equal(a(X), b(X)) for a, b in zip(first, again))


def test_episodes_can_run_elsewhere_in_order() -> None:
    with ThreadPoolExecutor(1) as pool:
        there = train_episodes(_make, _train, [0, 1], parallel=pool.map)
    here = train_episodes(_make, _train, [0, 1])
    assert [m.name for m in there] == ["seed 0", "seed 1"]
    assert all(torch.equal(a(X), b(X)) for a, b in zip(here, there))


def test_featurizers_are_frozen_and_know_their_head() -> None:
    (phi,) = train_episodes(_make, _train, [0])
    assert not any(p.requires_grad for p in phi.parameters())
    assert not phi.training
    assert torch.equal(phi.logits(X), phi.model(X))
    with pytest.raises(ValueError, match="'bare' has no head"):
        Featurizer(nn.Linear(4, 2), name="bare").logits(X)


def test_snapshots_are_copies_evenly_spaced_to_the_end() -> None:
    def episode(lr: float):
        model = nn.Linear(1, 1)
        for epoch in range(1, 11):
            nn.init.constant_(model.weight, epoch * lr)
            yield model

    taken = snapshots(episode, 5, lr=1.0, length=10)
    assert [m.model.weight.item() for m in taken] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(("n", "length"), [(11, 10), (4, 3)])
def test_more_snapshots_than_epochs_are_refused(n: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"{n} snapshots asked of an episode of {length} epochs"):
        snapshots(lambda lr: iter(()), n, 0.1, length=length)


def test_episode_that_ends_early_is_refused() -> None:
    with pytest.raises(ValueError, match="ended early, after 1"):
        snapshots(lambda lr: (nn.Linear(1, 1) for _ in range(3)), 2, 0.1, length=4)


def test_no_seed_and_repeated_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        train_episodes(_make, _train, [])
    with pytest.raises(ValueError, match=r"\[2\] come more than once"):
        train_episodes(_make, _train, [2, 1, 2])
    with pytest.raises(ValueError, match=r"n must be in \[1"):
        snapshots(lambda lr: iter(()), 0, 0.1, length=3)
