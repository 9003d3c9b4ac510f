from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.distribution.attributes import (
    AttributeJudge,
    attribute_accuracy,
    choose_beta,
    compositional_split,
    diversity_ratio,
    frechet_feature_distance,
    leakage,
    train_attributes,
)
from holdfast.distribution.generators.cvae import ConditionalVAE
from holdfast.metrics import energy_distance

RNG = generator(100)
C = (torch.rand(500, 3, generator=RNG) < 0.5).float()
X = C @ torch.randn(3, 6, generator=RNG) + 0.3 * torch.randn(500, 6, generator=RNG)


def test_held_out_combinations_never_occur_in_training_and_every_value_does():
    for seed in range(100, 120):
        split = compositional_split(C, 3, seed=seed)
        assert not bool((split.train & split.held_out).any())
        assert bool((split.train | split.held_out).all())
        seen = C[split.train]
        assert not bool((seen[:, None] == split.combinations).all(-1).any())
        assert len(split.combinations) == 3
        assert all(set(seen[:, k].tolist()) == {0.0, 1.0} for k in range(3))


def test_a_split_that_loses_a_value_is_refused():
    c = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="attribute 0 is never 1 in training"):
        compositional_split(c, [[1.0, 1.0]])
    with pytest.raises(ValueError, match="held_out must be in"):
        compositional_split(c, 3)


def test_diversity_ratio_is_the_square_of_a_stretch_within_cells_and_blind_to_shifts_between_them():
    _, cell = C.unique(dim=0, return_inverse=True)
    centres = torch.stack([X[cell == g].mean(0) for g in range(int(cell.max()) + 1)])[cell]
    moved = 0.5 * (X - centres) + 10 * cell[:, None]
    assert diversity_ratio(moved, X, C) == pytest.approx(0.25, abs=1e-4)
    assert diversity_ratio(centres, X, C) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="two samples and two different"):
        diversity_ratio(X[:2], X[:2], torch.eye(2))


def test_leakage_finds_a_condition_in_a_code_and_none_in_noise():
    noise = torch.randn(4000, 2, generator=generator(101))
    c = (torch.rand(4000, 1, generator=generator(102)) < 0.5).float()
    blank, told = leakage(noise, c), leakage(noise + 6 * c, c)
    assert float(blank.accuracy[0] - blank.chance[0]) < 0.03
    assert float(told.accuracy[0]) > 0.99
    with pytest.raises(ValueError, match="attribute 0 is constant"):
        leakage(noise, torch.zeros(4000, 1))


def test_accuracy_counts_the_attributes_that_are_seen():
    seen = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    found = attribute_accuracy(seen, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), nn.Identity())
    assert found.overall == 0.5
    assert found.each.tolist() == [0.5, 0.5]
    assert found.confidence == pytest.approx(1 / (1 + torch.exp(torch.tensor(-1.0)).item()))
    with pytest.raises(ValueError, match="lengths differ"):
        attribute_accuracy(seen, torch.zeros(3, 2), nn.Identity())


def test_a_trained_judge_knows_the_attributes_of_points_it_has_not_seen():
    judge = AttributeJudge((6,), 3, width=32, features=16).fit(X[:400], C[:400], steps=200, lr=5e-3, device="cpu")
    assert attribute_accuracy(X[400:], C[400:], judge).overall > 0.95
    assert frechet_feature_distance(X[:200], X[200:400], judge) < frechet_feature_distance(X[:200], X[200:] + 1, judge)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 6\)"):
        judge(X[:, :3])


def test_energy_distance_is_symmetric_zero_between_draws_of_one_law_and_grows_with_a_shift():
    a, b = X[:250], X[250:]
    assert energy_distance(a, b) == pytest.approx(energy_distance(b, a))
    assert abs(energy_distance(a, b, estimator="unbiased")) < 0.1
    shifts = [energy_distance(a, b + s) for s in (0.0, 0.5, 1.0, 2.0)]
    assert shifts == sorted(shifts)


class _Offset(nn.Module):
    """Returns the points themselves, moved by how far the weight is from 2; ``wrong`` weights ignore the request."""

    def __init__(self, beta):
        super().__init__()
        self.beta = beta

    def sample(self, c, n, generator=None):
        return (X[: len(c)] + abs(self.beta - 2.0))[:, None]


def test_the_weight_of_the_nearest_samples_is_chosen():
    choice = choose_beta(_Offset, (X, C), [0.5, 1.5, 4.0])
    assert choice.beta == 1.5
    assert [t.beta for t in choice.trials] == [0.5, 1.5, 4.0]


def test_weights_whose_samples_miss_the_attributes_are_out():
    class _Sees(nn.Module):
        def forward(self, x):
            # Only points that were moved by 2 show what was asked for.
            return torch.where((x - X).mean(1, keepdim=True) > 1, 2 * C - 1, 1 - 2 * C)

    assert choose_beta(_Offset, (X, C), [1.5, 4.0], classifier=_Sees()).beta == 4.0


def test_grids_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least one weight"):
        choose_beta(_Offset, (X, C), [])
    with pytest.raises(ValueError, match="beta must be in"):
        choose_beta(_Offset, (X, C), [-1.0])


def test_training_refuses_attributes_that_are_all_constant():
    model = ConditionalVAE.of_points(6, 3, width=8)
    with pytest.raises(ValueError, match="nothing to condition on"):
        train_attributes(model, X, torch.ones(500, 3), steps=1)
    with pytest.raises(ValueError, match="lengths differ"):
        train_attributes(model, X, C[:10], steps=1)
    with pytest.raises(ValueError, match="hide must be in"):
        train_attributes(model, X, C, steps=1, hide=1.0)
