from __future__ import annotations

import math
import warnings

import pytest
import torch

from holdfast.core.random import generator
from holdfast.distribution.subsets import (
    SubsetDataset,
    all_subsets,
    choose_subset,
    expected_jaccard,
    jaccard,
    sample_negatives,
    take_top,
)

ALL = torch.ones(1, 8, dtype=torch.bool)


def test_jaccard_is_one_for_equal_and_for_both_empty_zero_for_disjoint_and_symmetric():
    a = torch.rand(50, 8, generator=generator(100)) < 0.5
    b = torch.rand(50, 8, generator=generator(101)) < 0.5
    assert torch.equal(jaccard(a, b), jaccard(b, a))
    assert (jaccard(a, a) == 1).all()
    assert jaccard(~ALL, ~ALL) == 1
    assert jaccard(ALL, ~ALL) == 0
    assert (jaccard(a, ~a) == 0).all()


def test_jaccard_leaves_padding_out():
    a, b = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    assert jaccard(a, b, torch.tensor([[True, False, False]])) == 1


def test_the_expected_jaccard_index_is_the_sum_over_all_subsets():
    q = torch.rand(5, 8, generator=generator(100), dtype=torch.float64)
    subsets = all_subsets(8)
    mass = torch.where(subsets, q.unsqueeze(1), 1 - q.unsqueeze(1)).prod(-1)
    valid = torch.ones(5, 8, dtype=torch.bool)
    for k in range(9):
        top = take_top(q, torch.full((5,), k), valid)
        exact = (mass * jaccard(top.unsqueeze(1).expand(5, 256, 8), subsets.expand(5, -1, -1))).sum(1)
        torch.testing.assert_close(expected_jaccard(q)[:, k], exact, rtol=0, atol=1e-6)


def test_the_expected_jaccard_rule_takes_the_best_size():
    q = torch.rand(20, 8, generator=generator(102), dtype=torch.float64)
    valid = torch.ones(20, 8, dtype=torch.bool)
    subsets = all_subsets(8)
    mass = torch.where(subsets, q.unsqueeze(1), 1 - q.unsqueeze(1)).prod(-1)
    tops = torch.stack([take_top(q, torch.full((20,), k), valid) for k in range(9)], 1)
    value = (mass.unsqueeze(1) * jaccard(tops.unsqueeze(2).expand(-1, -1, 256, -1), subsets.expand(20, 9, -1, -1))).sum(
        2
    )
    assert torch.equal(choose_subset(q, valid).sum(1), value.argmax(1))


def test_no_subset_has_a_larger_expected_jaccard_index_than_the_rule_finds():
    q = torch.rand(3, 6, generator=generator(103), dtype=torch.float64)
    subsets = all_subsets(6)
    mass = torch.where(subsets, q.unsqueeze(1), 1 - q.unsqueeze(1)).prod(-1)
    pairs = jaccard(subsets.unsqueeze(1).expand(64, 64, 6), subsets.expand(64, 64, 6)).double()
    torch.testing.assert_close((mass @ pairs).amax(1), expected_jaccard(q).amax(1), rtol=0, atol=1e-6)


def test_rules_never_choose_padding():
    q = torch.full((2, 6), 0.9)
    valid = torch.arange(6) < torch.tensor([[4], [6]])
    for size, rule in ((3, None), (None, "threshold"), (None, "expected_jaccard"), (torch.tensor([4, 6]), "topk")):
        chosen = choose_subset(q, valid, size, rule)
        assert not (chosen & ~valid).any()
        assert (chosen.sum(1) == valid.sum(1)).all() or size == 3


def test_bad_choices_are_refused():
    q = torch.full((1, 8), 0.5)
    with pytest.raises(ValueError, match=r"size must be in \[0, 8\] for ground set 0, got 9"):
        choose_subset(q, ALL, 9)
    with pytest.raises(ValueError, match="'topk' was given no size"):
        choose_subset(q, ALL, rule="topk")
    with pytest.raises(ValueError, match="'threshold' was given a size"):
        choose_subset(q, ALL, 2, "threshold")
    with pytest.raises(ValueError, match="rule must be one of"):
        choose_subset(q, ALL, rule="best")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="size must be an integer"):
        choose_subset(q, ALL, torch.tensor([1.5]))
    with pytest.raises(TypeError, match="pred must be a boolean mask"):
        jaccard(q, ALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same shape"):
        jaccard(ALL, ALL[:, :3])


def test_as_many_negatives_count_as_asked_and_no_padding():
    S = torch.rand(200, 12, generator=generator(100)) < 0.2
    valid = torch.rand(200, 12, generator=generator(101)) < 0.9
    S = S & valid
    counted = sample_negatives(S, valid, 2, generator(102))
    assert (counted >= S).all()
    assert not (counted & ~valid).any()
    expected = torch.minimum(2 * S.sum(1), (valid & ~S).sum(1))
    assert torch.equal((counted & ~S).sum(1), expected)
    assert torch.equal(sample_negatives(S, valid, None), valid)


def test_every_negative_is_as_likely_as_the_others():
    S = torch.tensor([[True, False, False, False, False]]).expand(8000, 5)
    counted = sample_negatives(S, torch.ones_like(S), 1, generator(100)).float().mean(0)[1:]
    assert ((counted - 0.25).abs() < 4 * (0.25 * 0.75 / 8000) ** 0.5).all()


def test_too_many_negatives_are_cut_with_a_warning():
    S = torch.tensor([[True, False, False]])
    with pytest.warns(UserWarning, match="5 negatives per element are more than there are"):
        assert sample_negatives(S, torch.ones_like(S), 5).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_negatives(S, torch.ones_like(S), 2)


def test_ragged_sets_become_one_batch():
    V = [torch.randn(n, 2, generator=generator(n)) for n in (3, 5, 4)]
    S = [torch.arange(n) < 2 for n in (3, 5, 4)]
    data = SubsetDataset(V, S)
    for i, batch in enumerate(zip(*data[torch.arange(3)])):
        v, s, valid = batch
        assert torch.equal(v[valid], V[i])
        assert torch.equal(s[valid], S[i])


BAD = {
    "subset 0 holds elements that are not in its ground set": lambda V, S: SubsetDataset(
        V, S, torch.tensor([[False, True, True, True]] * 2)
    ),
    "ground set 1 is empty": lambda V, S: SubsetDataset(V, S, torch.tensor([[True] * 4, [False] * 4])),
    "subset 1 is empty": lambda V, S: SubsetDataset(V, torch.stack([S[0], ~S[0] & S[0]])),
    "subset 0 is all of its ground set": lambda V, S: SubsetDataset(V, torch.ones(2, 4)),
    "ground sets must be finite": lambda V, S: SubsetDataset(torch.full_like(V, math.nan), S),
    "2 ground sets and 1 subsets": lambda V, S: SubsetDataset(V, S[:1]),
    "there are no ground sets": lambda V, S: SubsetDataset([], []),
    "subset 1 must be a mask of 4 elements": lambda V, S: SubsetDataset(list(V), [S[0], S[1, :3]]),
    "valid marks 4 elements of ground set 0, which has 3": lambda V, S: SubsetDataset(
        [V[0, :3], V[1]], [S[0, :3], S[1]], torch.ones(2, 4)
    ),
    "subsets must have shape": lambda V, S: SubsetDataset(V, S[:, :3]),
    "elements of set 1 have shape": lambda V, S: SubsetDataset([V[0], V[1, :, :1]], list(S)),
    "set 1 has no elements": lambda V, S: SubsetDataset([V[0], V[1, :0]], list(S)),
    "negatives must be in": lambda V, S: SubsetDataset(V, S, negatives=-1),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_data_are_refused(message):
    V = torch.randn(2, 4, 2, generator=generator(100))
    S = torch.tensor([[True, True, False, False]] * 2)
    with pytest.raises(ValueError, match=message):
        BAD[message](V, S)


def test_trivial_subsets_are_accepted_where_that_is_said():
    data = SubsetDataset(torch.zeros(2, 3, 1), torch.tensor([[False] * 3, [True] * 3]), allow_trivial=True)
    assert data.S.sum(1).tolist() == [0, 3]
