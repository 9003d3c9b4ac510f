from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.distribution.subsets import (
    make_anomaly_sets,
    make_class_sets,
    make_gaussian_sets,
    make_relative_utility_sets,
    make_two_moons_sets,
)

X, Y = np.arange(200.0)[:, None], np.arange(200) % 5


def test_odd_elements_share_one_class_other_than_that_of_the_rest():
    data = make_anomaly_sets(X, Y, 12, (2, 3), 300, seed=100)
    classes = data.V.squeeze(-1).long() % 5
    for c, odd in zip(classes, data.S):
        a, b = c[~odd].unique(), c[odd].unique()
        assert len(a) == len(b) == 1
        assert a != b
    assert set(data.S.sum(1).tolist()) == {2, 3}
    assert all(len(v.unique()) == 12 for v in data.V)
    assert set(classes[data.S].tolist()) == set(classes[~data.S].tolist()) == set(range(5))


def test_places_of_the_odd_elements_are_uniform():
    share = make_anomaly_sets(X, Y, 12, 3, 4000, seed=100).S.float().mean(0)
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / 4000) ** 0.5).all()


def test_class_sets_are_labelled_by_class_alone():
    data = make_class_sets(X, Y, [0, 1], 12, (2, 3), 300, seed=100)
    assert torch.equal(data.V.squeeze(-1).long() % 5 < 2, data.S)
    assert set(data.S.sum(1).tolist()) == {2, 3}


@pytest.mark.parametrize("best", ["direction", "far"])
def test_the_best_points_are_those_of_the_rule_and_do_not_change_with_place_or_scale(best):
    data = make_relative_utility_sets(200, best=best, seed=100)

    def label(V):
        good = V[..., 0] - V[..., 1] if best == "direction" else (V - V.mean(1, keepdim=True)).norm(dim=-1)
        return good.argsort(1).argsort(1) >= 7

    V = data.V.double()
    assert torch.equal(label(V), data.S)
    assert torch.equal(label(V + torch.tensor([5.0, -2.0])), data.S)
    assert torch.equal(label(3.7 * V), data.S)


@pytest.mark.parametrize("make", [make_two_moons_sets, make_gaussian_sets])
def test_best_points_come_from_one_law_and_the_rest_from_the_other(make):
    data = make(200, seed=100)
    assert data.V.shape == (200, 100, 2)
    assert (data.S.sum(1) == 10).all()
    best = torch.stack([v[s].mean(0) for v, s in zip(data.V, data.S)])
    rest = torch.stack([v[~s].mean(0) for v, s in zip(data.V, data.S)])
    # Means of the two moons are (0, 0.64) and (1, -0.14), of the Gaussians (0.71, 0.71) and its negative.
    centres = {
        make_two_moons_sets: [[0, 2 / np.pi], [1, 0.5 - 2 / np.pi]],
        make_gaussian_sets: [[0.5**0.5] * 2, [-(0.5**0.5)] * 2],
    }
    c = torch.tensor(centres[make], dtype=torch.float32)
    which_best, which_rest = torch.cdist(best, c).argmin(1), torch.cdist(rest, c).argmin(1)
    assert (which_best != which_rest).all()
    assert 60 < int(which_best.sum()) < 140
    assert torch.cdist(rest, c).amin(1).max() < 0.4


def test_the_same_seed_gives_the_same_sets_and_another_does_not():
    for make in (
        lambda s: make_relative_utility_sets(5, seed=s),
        lambda s: make_two_moons_sets(5, seed=s),
        lambda s: make_gaussian_sets(5, seed=s),
        lambda s: make_anomaly_sets(X, Y, 6, 2, 5, seed=s),
    ):
        a, b, c = make(100), make(100), make(101)
        assert torch.equal(a.V, b.V)
        assert torch.equal(a.S, b.S)
        assert not torch.equal(a.V, c.V)


def test_bad_worlds_are_refused():
    with pytest.raises(ValueError, match="needs 50 samples of one class"):
        make_anomaly_sets(X, Y, 50, 2, 3, seed=100)
    with pytest.raises(ValueError, match="one class only"):
        make_anomaly_sets(X, np.zeros(200), 5, 2, 3, seed=100)
    with pytest.raises(ValueError, match="best subset must be in"):
        make_anomaly_sets(X, Y, 5, 5, 3, seed=100)
    with pytest.raises(ValueError, match="must hold some of the samples"):
        make_class_sets(X, Y, [9], 5, 2, 3, seed=100)
    with pytest.raises(ValueError, match="x must be finite"):
        make_anomaly_sets(np.full((200, 1), np.nan), Y, 5, 2, 3, seed=100)
    with pytest.raises(ValueError, match="lengths differ"):
        make_anomaly_sets(X, Y[:5], 5, 2, 3, seed=100)
    with pytest.raises(ValueError, match="size must be in"):
        make_relative_utility_sets(3, size=10, seed=100)
    with pytest.raises(ValueError, match="size must be in"):
        make_two_moons_sets(3, size=100, seed=100)
