import math

import pytest
import torch
from scipy import stats

from holdfast.diffusion.masked.masking import hidden_count, lowest, mask_bernoulli, mask_exactly, nested_masks

MASK = 9


def _gen(seed=100):
    return torch.Generator().manual_seed(seed)


def _tokens(batch, length):
    return torch.randint(0, MASK, (batch, length), generator=_gen(1))


def test_exactly_n_tokens_are_hidden_and_the_others_are_kept():
    x0, n = _tokens(7, 6), torch.arange(7)
    x = mask_exactly(x0, n, MASK, _gen())
    assert torch.equal((x == MASK).sum(1), n)
    assert bool(((x == x0) | (x == MASK)).all())


def test_every_set_of_n_positions_is_equally_likely():
    x = mask_exactly(torch.zeros(30_000, 5, dtype=torch.long), torch.full((30_000,), 2), MASK, _gen())
    code = ((x == MASK).long() * 2 ** torch.arange(5)).sum(1)
    counts = torch.unique(code, return_counts=True)[1]
    assert len(counts) == math.comb(5, 2)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_independent_masking_keeps_each_with_its_probability():
    keep = torch.tensor([0.0, 0.3, 1.0])
    x = mask_bernoulli(torch.zeros(3, 20_000, dtype=torch.long), keep, MASK, _gen())
    visible = (x == 0).sum(1)
    assert visible[0] == 0
    assert visible[2] == 20_000
    assert stats.binomtest(int(visible[1]), 20_000, 0.3).pvalue > 1e-3


def test_masks_of_growing_ratios_are_nested_with_exact_counts_and_uniform():
    ratios = torch.linspace(0, 1, 9)
    scores = torch.rand(4_000, 10, generator=_gen())
    masks = nested_masks(scores, ratios)
    assert bool((masks[:-1] <= masks[1:]).all())
    expected = [math.ceil(round(10 * r, 6)) for r in ratios.tolist()]
    assert bool((masks.sum(2) == torch.tensor(expected)[:, None]).all())
    assert stats.chisquare(masks[3].sum(0)).pvalue > 1e-3


def test_masks_of_a_ratio_per_row():
    ratios = torch.tensor([[0.2, 1.0], [0.4, 0.0]])
    assert nested_masks(torch.rand(2, 5), ratios).sum(2).tolist() == [[1, 5], [2, 0]]


def test_a_ratio_that_rounding_puts_above_an_integer_hides_that_integer():
    assert int(hidden_count(16, math.cos(math.pi / 3))) == 8
    assert hidden_count(torch.tensor([10, 7]), 0.3).tolist() == [3, 3]


def test_lowest_breaks_ties_by_position():
    assert lowest(torch.zeros(2, 4), torch.tensor([1, 3])).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("n", [[-1, 2], [1, 6]])
def test_counts_outside_the_row_are_refused(n):
    with pytest.raises(ValueError, match=r"n must lie in \[0, 5\]"):
        mask_exactly(_tokens(2, 5), torch.tensor(n), MASK)


def test_other_bad_input_is_refused():
    x = _tokens(2, 5)
    with pytest.raises(ValueError, match="one number per row"):
        mask_exactly(x, torch.tensor([1]), MASK)
    with pytest.raises(ValueError, match="must not hold mask_id 9 before masking, but row 1 does at 3"):
        mask_exactly(torch.where(torch.arange(10).view(2, 5) == 8, MASK, 0), torch.tensor([1, 1]), MASK)
    with pytest.raises(ValueError, match="must be integers of shape"):
        mask_bernoulli(x.float(), torch.tensor([0.5, 0.5]), MASK)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mask_bernoulli(x, torch.tensor([0.5, 1.5]), MASK)
    with pytest.raises(ValueError, match="one per row"):
        mask_bernoulli(x, torch.tensor([0.5]), MASK)
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\]"):
        nested_masks(torch.rand(2, 5), [0.5, 1.2])
    with pytest.raises(ValueError, match="ratios must have shape"):
        nested_masks(torch.rand(2, 5), torch.rand(2, 3))
    with pytest.raises(ValueError, match="scores must be finite"):
        nested_masks(torch.full((2, 5), math.nan), [0.5])
