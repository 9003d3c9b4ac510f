"""Laws of batch plans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.batching import Batches, BatchPlan

sizes = st.integers(1, 70)
batch_sizes = st.integers(1, 20)
seeds = st.integers(100, 10_000)


@settings(deadline=None, max_examples=60)
@given(sizes, batch_sizes, seeds, st.integers(0, 5))
def test_every_row_comes_once_per_epoch(n, size, seed, e):
    parts = list(BatchPlan(n, size, seed=seed).epoch(e))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert len(parts) == len(BatchPlan(n, size, seed=seed)) == -(-n // min(n, size))
    assert {p.dtype for p in parts} == {torch.int64}


@settings(deadline=None, max_examples=60)
@given(sizes, batch_sizes, seeds)
def test_drop_last_leaves_only_whole_batches(n, size, seed):
    plan = BatchPlan(n, size, seed=seed, drop_last=True)
    assert [len(p) for p in plan.epoch(0)] == [min(n, size)] * len(plan)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=70), batch_sizes, seeds)
def test_in_a_balanced_batch_groups_differ_by_at_most_one_row(groups, size, seed):
    groups = np.array(groups)
    present = np.unique(groups)
    plan = BatchPlan(len(groups), size, seed=seed, groups=groups, balanced=True)
    for rows in plan.epoch(1):
        counts = [int((groups[rows.numpy()] == g).sum()) for g in present]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == plan.batch_size


def test_a_short_group_is_drawn_in_whole_rounds():
    groups = np.array([0] * 90 + [7] * 10)
    rows = torch.cat(list(BatchPlan(100, 20, seed=100, groups=groups, balanced=True).epoch(0)))
    counts = torch.bincount(rows, minlength=100)
    assert counts[90:].tolist() == [5] * 10
    assert counts[:90].max() == 1
    assert counts[:90].sum() == 50


def test_every_row_of_a_long_group_comes_in_some_epoch():
    groups = np.array([0] * 90 + [7] * 10)
    plan = BatchPlan(100, 20, seed=100, groups=groups, balanced=True)
    seen = {i for e in range(40) for rows in plan.epoch(e) for i in rows.tolist()}
    assert seen == set(range(100))


@pytest.mark.parametrize("balanced", [False, True])
def test_an_epoch_depends_on_seed_and_number_alone(balanced):
    options = {"groups": np.arange(50) % 3, "balanced": balanced}

    def order(seed, e):
        return torch.cat(list(BatchPlan(50, 8, seed=seed, **options).epoch(e))).tolist()

    plan = BatchPlan(50, 8, seed=100, **options)
    state = torch.get_rng_state()
    late = torch.cat(list(plan.epoch(9))).tolist()
    list(plan.epoch(2))
    assert late == order(100, 9)
    assert order(100, 9) != order(100, 8)
    assert order(100, 9) != order(101, 9)
    assert torch.equal(state, torch.get_rng_state())


def test_starting_midway_gives_the_rest_of_the_epoch():
    plan = BatchPlan(50, 8, seed=100)
    rest = list(plan.epoch(3))[4:]
    assert all(torch.equal(a, b) for a, b in zip(rest, plan.epoch(3, start=4), strict=True))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("n", "size", "world"), [(48, 12, 3), (50, 12, 4), (20, 7, 2)])
def test_processes_share_out_each_batch_without_overlap(n, size, world, balanced):
    groups = np.arange(n) % 2
    whole = BatchPlan(n, size, seed=100, groups=groups, balanced=balanced)
    parts = [list(whole.shard(r, world).epoch(5)) for r in range(world)]
    assert {len(p) for p in parts} == {len(whole)}
    for k, rows in enumerate(whole.epoch(5)):
        together = torch.cat([p[k] for p in parts])
        if len(rows) >= world:
            assert torch.equal(together, rows)
        assert all(len(p[k]) > 0 for p in parts)
        if balanced:
            for p in parts:
                counts = np.bincount(groups[p[k].numpy()], minlength=2)
                assert abs(counts[0] - counts[1]) <= 1
    seen = {i for p in parts for rows in p for i in rows.tolist()}
    assert balanced or seen == set(range(n))


def test_batches_fetch_the_rows_of_their_plan():
    x = torch.arange(30) * 10
    batches = Batches(BatchPlan(30, 7, seed=100), lambda rows: x[rows])
    for got, rows in zip(batches.epoch(2, start=1), batches.plan.epoch(2, start=1), strict=True):
        assert torch.equal(got, 10 * rows)
    assert len(list(batches.shard(1, 2).epoch(0))) == len(batches)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be in"),
        ({"batch_size": 0}, ValueError, "batch_size must be in"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"balanced": True}, ValueError, "needs groups"),
        ({"groups": [0, 1], "balanced": True}, ValueError, "groups must have shape"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank must be in"),
        ({"batch_size": 2, "world_size": 3}, ValueError, "at least the number of processes"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchPlan(**{"n": 10, "batch_size": 4, "seed": 100, **arguments})
