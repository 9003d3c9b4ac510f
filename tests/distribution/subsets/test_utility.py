from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.subsets import (
    BACKGROUNDS,
    DeepSetScorer,
    MeanFieldSubsetModel,
    SetTransformerScorer,
    SubsetUtility,
    make_subset_utility,
)
from holdfast.nn.sets import PooledSetCode

POOLS = ("sum", "mean", "attention")
SEES_GROUND = [b for b in BACKGROUNDS if b != "none"]


def _utility(background, pool="sum"):
    with isolated_rng(100):
        phi = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
        return make_subset_utility(phi, 8, background=background, pool=pool, head_width=16)


def _sets(n=6, sets=2, subsets=5):
    V = torch.randn(sets, n, 3, generator=generator(101))
    masks = torch.rand(sets, subsets, n, generator=generator(102)) < 0.5
    return V, masks


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_order_of_the_ground_set_changes_no_utility(background, pool):
    utility, (V, masks) = _utility(background, pool), _sets()
    order = torch.randperm(6, generator=generator(103))
    torch.testing.assert_close(utility(V[:, order], masks[..., order]), utility(V, masks), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_padding_changes_no_utility_whatever_it_holds_or_how_much_there_is(background, pool):
    utility, (V, masks) = _utility(background, pool), _sets()
    padding = 5 * torch.randn(2, 4, 3, generator=generator(104))
    valid = (torch.arange(10) < 6).expand(2, 10)
    # Masks that mark padding are cut to the ground set.
    padded = utility(torch.cat([V, padding], 1), torch.cat([masks, torch.ones(2, 5, 4).bool()], 2), valid)
    torch.testing.assert_close(padded, utility(V, masks), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_ragged_sets_together_score_as_one_by_one(background, pool):
    utility, (V, masks) = _utility(background, pool), _sets()
    sizes = (4, 6)
    valid = torch.arange(6) < torch.tensor(sizes).unsqueeze(1)
    together = utility(V, masks, valid)
    for b, n in enumerate(sizes):
        alone = utility(V[b : b + 1, :n], masks[b : b + 1, :, :n])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_utilities_are_the_head_of_the_codes_as_in_the_formula(background, pool):
    utility, (V, masks) = _utility(background, pool), _sets()
    masks[:, 0] = False
    size = V.shape[1] if pool == "sum" else 1
    r, ground = utility.code(V, masks) / size, utility.code(V, torch.ones(2, 1, 6)) / size
    if background == "attention":
        h = utility.features(V)
        weight = (utility.query(r) @ utility.key(h).mT / 8**0.5).softmax(-1)
        ground = weight @ h
    mixed = {
        "none": lambda: r,
        "add": lambda: r + ground,
        "concat": lambda: torch.cat([r, ground.expand_as(r)], -1),
    }.get(background, lambda: (utility.of_subset(r) + utility.of_ground(ground)).relu())
    torch.testing.assert_close(utility(V, masks), utility.head(mixed()).squeeze(-1))


def _with_one_element_moved_outside_every_mask(utility):
    V, masks = _sets()
    masks[..., 0] = False
    moved = V.clone()
    moved[:, 0] += 1.0
    return utility(moved, masks) - utility(V, masks)


@pytest.mark.parametrize("pool", POOLS)
def test_without_background_elements_outside_do_not_count(pool):
    assert _with_one_element_moved_outside_every_mask(_utility("none", pool)).abs().max() == 0


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("background", SEES_GROUND)
def test_with_background_elements_outside_count(background, pool):
    assert (_with_one_element_moved_outside_every_mask(_utility(background, pool)).abs() > 1e-6).all()


def test_parameter_counts_are_as_documented():
    count = {b: sum(p.numel() for p in _utility(b).parameters()) for b in BACKGROUNDS}
    h = 8
    assert count["add"] == count["none"]
    assert count["linear"] == count["none"] + 2 * h**2 + h
    assert count["concat"] == count["none"] + h * 16


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_gradients_reach_every_parameter(background):
    utility, (V, masks) = _utility(background), _sets()
    utility(V, masks).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in utility.parameters())


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_marginals_are_permuted_with_the_ground_set(background):
    model = MeanFieldSubsetModel(_utility(background))
    V, masks = _sets()
    # From a q of zeros and ones every draw is the same, so the step is a function.
    q, order = masks[:, 0].float(), torch.randperm(6, generator=generator(103))
    moved = model.fixed_point(V[:, order], q[:, order])
    torch.testing.assert_close(moved, model.fixed_point(V, q)[:, order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_marginals_of_ragged_sets_together_are_those_one_by_one(background):
    model = MeanFieldSubsetModel(_utility(background), steps=1)
    V, masks = _sets()
    sizes = (4, 6)
    valid = torch.arange(6) < torch.tensor(sizes).unsqueeze(1)
    q = (masks[:, 0] & valid).float()
    together = model.fixed_point(V, q, valid)
    assert together[~valid].abs().max() == 0
    for b, n in enumerate(sizes):
        alone = model.fixed_point(V[b : b + 1, :n], q[b : b + 1, :n])
        torch.testing.assert_close(together[b : b + 1, :n], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [DeepSetScorer, SetTransformerScorer])
def test_element_scorers_are_equivariant_and_blind_to_padding(make):
    with isolated_rng(100):
        model = make(nn.Linear(3, 8), 8)
    V, _ = _sets()
    order = torch.randperm(6, generator=generator(103))
    q = model.marginals(V)
    torch.testing.assert_close(model.marginals(V[:, order]), q[:, order], rtol=0, atol=1e-5)
    valid = (torch.arange(9) < 6).expand(2, 9)
    padded = model.marginals(torch.cat([V, torch.full((2, 3, 3), 4.0)], 1), valid)
    torch.testing.assert_close(padded[:, :6], q, rtol=0, atol=1e-5)
    assert padded[:, 6:].abs().max() == 0


def test_a_scorer_without_context_judges_every_element_alone():
    V, _ = _sets()
    moved = V.clone()
    moved[:, 0] += 1
    for context, changes in ((False, False), (True, True)):
        with isolated_rng(100):
            model = DeepSetScorer(nn.Linear(3, 8), 8, context=context)
        assert bool((model.marginals(moved)[:, 1:] != model.marginals(V)[:, 1:]).any()) == changes


def test_bad_utilities_and_masks_are_refused():
    with pytest.raises(ValueError, match="background must be one of"):
        make_subset_utility(nn.Identity(), 3, background="superset")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width must be in"):
        SubsetUtility(PooledSetCode(nn.Identity()), nn.Identity(), width=0)
    utility = _utility("linear")
    with pytest.raises(ValueError, match=r"masks must have shape \(2, subsets, 6\)"):
        utility(torch.zeros(2, 6, 3), torch.zeros(3, 1, 6))
    with pytest.raises(ValueError, match="ground sets must have shape"):
        utility(torch.zeros(2, 0, 3), torch.zeros(2, 1, 0))
