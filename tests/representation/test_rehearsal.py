from __future__ import annotations

import pytest
import torch

from holdfast.representation.rehearsal import HalfAndHalfSampler, RehearsalBuffer, herd


def _gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_buffer_keeps_so_many_of_each_class_and_only_true_pairs():
    x = torch.arange(100.0)[:, None]
    y = torch.arange(100) % 7
    memory = RehearsalBuffer(5)
    memory.add(x, y, generator=_gen())
    assert torch.bincount(memory.y).tolist() == [5] * 7
    assert torch.equal(memory.x[:, 0].long() % 7, memory.y)
    assert len(torch.unique(memory.x)) == len(memory)
    memory.add(x[:3] + 1000, torch.tensor([9, 9, 9]), generator=_gen())
    assert torch.bincount(memory.y, minlength=10).tolist() == [5] * 7 + [0, 0, 3]


def test_adding_a_class_again_chooses_it_anew():
    memory = RehearsalBuffer(2)
    memory.add(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), generator=_gen())
    memory.add(torch.ones(4, 1), torch.tensor([1, 1, 1, 1]), generator=_gen())
    assert memory.x[memory.y == 0].tolist() == [[0.0]] * 2
    assert memory.x[memory.y == 1].tolist() == [[1.0]] * 2


def test_herding_follows_the_mean_closer_than_random_subsets():
    z = torch.randn(200, 6, generator=_gen(1))
    mean = z.mean(0)
    herded = (z[herd(z, 10)].mean(0) - mean).norm()
    random = torch.stack([(z[torch.randperm(200, generator=_gen(s))[:10]].mean(0) - mean).norm() for s in range(200)])
    assert herded < random.min()
    assert sorted(herd(z, 200).tolist()) == list(range(200))


def test_herding_buffer_needs_features_and_uses_them():
    x, y = torch.arange(30.0)[:, None], torch.zeros(30, dtype=torch.long)
    features = torch.randn(30, 4, generator=_gen())
    memory = RehearsalBuffer(3, "herding")
    with pytest.raises(ValueError, match="give features="):
        memory.add(x, y)
    memory.add(x, y, features=features)
    expected = herd(torch.nn.functional.normalize(features, dim=1), 3)
    assert memory.x[:, 0].long().tolist() == expected.tolist()


def test_state_round_trip():
    memory, other = RehearsalBuffer(2), RehearsalBuffer(2)
    assert memory.state_dict() == {}
    memory.add(torch.randn(6, 3), torch.arange(6) % 2, generator=_gen())
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.x, memory.x)
    assert torch.equal(other.y, memory.y)


def test_every_batch_is_half_memory_and_an_epoch_visits_every_new_row_once():
    new, memory = torch.arange(50), torch.arange(100, 107)
    sampler = HalfAndHalfSampler(new, memory, 16, seed=3)
    batches = list(sampler.epoch(2))
    assert len(batches) == len(sampler) == 7
    assert all(int((b >= 100).sum()) == 8 for b in batches)
    rows = torch.cat(batches)
    assert rows[rows < 100].sort().values.tolist() == list(range(50))
    counts = torch.bincount(rows[rows >= 100] - 100)
    assert int(counts.max() - counts.min()) <= 1


def test_epochs_are_pure_functions_of_the_seed():
    def make(seed):
        return HalfAndHalfSampler(torch.arange(20), torch.arange(20, 30), 8, seed=seed)

    first = torch.cat(list(make(0).epoch(1)))
    assert torch.equal(first, torch.cat(list(make(0).epoch(1))))
    assert not torch.equal(first, torch.cat(list(make(0).epoch(2))))
    assert not torch.equal(first, torch.cat(list(make(1).epoch(1))))


def test_without_memory_batches_are_all_new():
    sampler = HalfAndHalfSampler(torch.arange(20), torch.empty(0, dtype=torch.long), 8)
    assert [len(b) for b in sampler.epoch(0)] == [8, 8, 4]


def test_bad_input_is_named():
    empty = torch.empty(0, dtype=torch.long)
    with pytest.raises(ValueError, match="at least one new row"):
        HalfAndHalfSampler(empty, torch.arange(3), 4)
    with pytest.raises(ValueError, match=r"batch must be even .* got 5"):
        HalfAndHalfSampler(torch.arange(4), torch.arange(3), 5)
    with pytest.raises(ValueError, match=r"per_class must be in \[1, inf\), got 0"):
        RehearsalBuffer(0)
    with pytest.raises(ValueError, match="strategy must be one of"):
        RehearsalBuffer(1, "reservoir")
    with pytest.raises(ValueError, match="lengths differ"):
        RehearsalBuffer(1).add(torch.zeros(3, 1), torch.zeros(2, dtype=torch.long))
