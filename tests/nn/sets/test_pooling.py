from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.nn.attention import Attention
from holdfast.nn.sets import PooledSetCode, pad_sets, pooled_mean, pooled_median, pooled_sum


def test_the_weighted_median_is_the_median_of_copies():
    x = torch.randn(5, 9, 4, generator=generator(100))
    counts = torch.randint(0, 5, (9,), generator=generator(101))
    counts[0] = 1
    copies = x.repeat_interleave(counts, dim=1)
    median = pooled_median(x, counts.float().expand(5, 9))
    torch.testing.assert_close(median, torch.from_numpy(np.median(copies.numpy(), axis=1)))


def test_the_weighted_mean_and_sum_are_those_of_copies():
    x = torch.randn(5, 9, 4, generator=generator(100))
    counts = torch.randint(0, 5, (9,), generator=generator(101))
    copies = x.repeat_interleave(counts, dim=1)
    w = counts.float().expand(5, 9)
    torch.testing.assert_close(pooled_mean(x, w), copies.mean(1))
    torch.testing.assert_close(pooled_sum(x, w), copies.sum(1))


def test_the_median_does_not_move_with_an_outlier_and_the_mean_does():
    x = torch.randn(1, 11, 2, generator=generator(100))
    far = x.clone()
    far.scatter_add_(1, x.argmax(1, keepdim=True), torch.full((1, 1, 2), 1e6))
    torch.testing.assert_close(pooled_median(far), pooled_median(x))
    assert (pooled_mean(far) - pooled_mean(x)).abs().max() > 1e4


def test_a_weight_of_attention_counts_copies_of_a_key():
    attention = Attention(8, 2).double()
    q = torch.randn(2, 3, 8, generator=generator(100), dtype=torch.float64)
    keys = torch.randn(2, 4, 8, generator=generator(101), dtype=torch.float64)
    counts = torch.tensor([2, 0, 1, 3])
    weighted = attention(q, keys, weights=counts.double().expand(2, 4))
    torch.testing.assert_close(weighted, attention(q, keys.repeat_interleave(counts, 1)), rtol=0, atol=1e-12)


def test_weights_and_mask_of_attention_act_together():
    attention = Attention(8, 2)
    x = torch.randn(2, 4, 8, generator=generator(100))
    w = torch.rand(2, 4, generator=generator(101)) + 0.1
    mask = torch.tensor([[True, True, False, True], [True, False, False, True]])
    both = attention(x, mask=mask, weights=w)
    torch.testing.assert_close(both, attention(x, weights=w * mask))
    pairs = mask[:, None].expand(2, 4, 4)
    torch.testing.assert_close(both, attention(x, mask=pairs, weights=w))


@pytest.mark.parametrize("pool", ["sum", "mean", "attention"])
def test_codes_of_many_subsets_equal_codes_one_by_one(pool):
    code = PooledSetCode(nn.Linear(3, 6), pool, width=6)
    x = torch.randn(2, 7, 3, generator=generator(100))
    masks = torch.rand(2, 4, 5, 7, generator=generator(101)) < 0.5
    together = code(x, masks)
    assert together.shape == (2, 4, 5, 6)
    for b in range(2):
        for mask, z in zip(masks[b].flatten(0, 1), together[b].flatten(0, 1)):
            alone = code(x[b : b + 1, mask], torch.ones(1, 1, int(mask.sum()), dtype=torch.bool))
            torch.testing.assert_close(alone.flatten(), z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_duplicated_elements_change_no_mean_code(pool):
    code = PooledSetCode(nn.Linear(3, 6), pool, width=6)
    x = torch.randn(2, 7, 3, generator=generator(100))
    mask = torch.rand(2, 4, 7, generator=generator(101)) < 0.5
    twice = code(x.repeat(1, 2, 1), mask.repeat(1, 1, 2))
    torch.testing.assert_close(twice, code(x, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["sum", "mean", "attention"])
def test_the_empty_subset_has_code_zero(pool):
    code = PooledSetCode(nn.Linear(3, 6), pool, width=6)
    assert code(torch.randn(2, 7, 3), torch.zeros(2, 1, 7)).abs().max() == 0


def test_padding_of_ragged_sets_round_trips():
    sets = [torch.randn(n, 2, generator=generator(n)) for n in (3, 1, 5)]
    x, mask = pad_sets(sets)
    assert all(torch.equal(x[i][mask[i]], s) for i, s in enumerate(sets))


def test_bad_pools_and_sets_are_refused():
    with pytest.raises(ValueError, match="needs width"):
        PooledSetCode(nn.Identity(), "attention")
    with pytest.raises(ValueError, match=r"masks must have shape \(2, ..., 7\)"):
        PooledSetCode(nn.Identity())(torch.zeros(2, 7, 3), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="set 1 has no elements"):
        pad_sets([torch.zeros(2, 3), torch.zeros(0, 3)])
    with pytest.raises(ValueError, match=r"elements of set 1 have shape \(4,\)"):
        pad_sets([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="no sets"):
        pad_sets([])
