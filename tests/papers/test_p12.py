from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers import p12_stationary
from holdfast.papers._omniglot import character_tasks, random_affine
from holdfast.papers.p12_stationary import PAPER


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for method in ("er", "simplex", "fd", "hoc"):
        for setting in ("", "replaced-"):
            assert 0 <= values[f"{setting}{method}/aa"] <= 1
    assert 0 <= values["untrained/own"] <= 1


def test_external_models_and_tasks_take_rows_from_opposite_ends():
    world = p12_stationary._procedural(100, n_tasks=2, each=3, n_unseen=3, external=[2, 4], epochs=1)
    external = p12_stationary._pretrain(world, True, 100)
    result = p12_stationary._learn(world, "hoc", 100, external)
    head = result.models[-1].head
    owners = [head.owner_of(row) for row in range(world.table)]
    assert owners[:4] == ["pre-training"] * 4
    assert owners[-6:] == ["tasks"] * 6
    assert owners[4:-6] == [""] * (world.table - 10)


def test_the_world_repeats_for_a_seed_and_retrieval_classes_are_new():
    make = [p12_stationary._procedural(100, 2, 3, 4, [5], 1) for _ in range(2)]
    assert torch.equal(make[0].queries[0], make[1].queries[0])
    learnt = torch.cat([y for _, y in make[0].tasks])
    assert not torch.isin(make[0].gallery[1], learnt).any()
    assert torch.equal(torch.unique(make[0].gallery[1]), torch.unique(make[0].queries[1]))


def test_affine_augmentation_moves_ink_but_keeps_about_as_much():
    x = torch.zeros(64, 1, 28, 28)
    x[:, :, 8:20, 8:20] = 1.0
    moved = random_affine(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    assert not torch.equal(moved[0], moved[1])
    ratio = moved.sum() / x.sum()
    assert 0.9 < float(ratio) < 1.15


def test_characters_are_cut_into_disjoint_sets():
    try:
        data = character_tasks(100, external=(10, 20), n_unseen_alphabets=2)
    except (OSError, ValueError) as error:
        pytest.skip(f"Omniglot is not there: {error}")
    labels = [set(y.tolist()) for _, y in data.tasks]
    assert [len(s) for s in labels] == [17] * 8
    assert len(set.union(*labels)) == 136
    assert all(len(y) == 17 * 14 for _, y in data.tasks)
    assert set(data.seen_queries[1].tolist()) == set.union(*labels)
    assert [len(torch.unique(y)) for _, y in data.external] == [10, 20]
    assert torch.equal(torch.unique(data.gallery[1]), torch.unique(data.queries[1]))
