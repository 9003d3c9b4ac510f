from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.core.random import generator
from holdfast.distribution.embedding import SetMixer, SetTable, sets_from_labels


@pytest.fixture
def table():
    """Sets of 3, 40 and 8 points; the points of set i are 100 i and up."""
    return SetTable.of([100 * i + np.arange(n, dtype=float)[:, None] for i, n in enumerate((3, 40, 8))])


def test_points_are_drawn_from_their_own_set_and_without_repetition_where_there_are_enough(table):
    x = table.draw(torch.tensor([2, 0, 1]), 8, generator(100)).squeeze(-1)
    assert (x // 100).long().tolist() == [[2] * 8, [0] * 8, [1] * 8]
    assert [len(set(row.tolist())) for row in x][0::2] == [8, 8]
    assert sorted(x[0].tolist()) == [200.0 + i for i in range(8)]


def test_every_point_of_a_set_is_drawn_equally_often(table):
    n = 4000
    for size in (4, 60):
        x = table.draw(torch.ones(n, dtype=torch.long), size, generator(100)).long() - 100
        shares = torch.bincount(x.flatten(), minlength=40) / x.numel()
        assert bool(((shares - 1 / 40).abs() < 5 * (1 / 40 / x.numel()) ** 0.5).all())


def test_sets_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="there are no sets"):
        SetTable.of([])
    with pytest.raises(ValueError, match="set 1 has no points"):
        SetTable.of([torch.zeros(2, 3), torch.zeros(0, 3)])
    with pytest.raises(ValueError, match=r"points of set 1 have shape \(4,\), those of set 0 \(3,\)"):
        SetTable.of([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="points must be finite, but row 1 holds nan"):
        SetTable.of([torch.tensor([[0.0], [float("nan")]])])
    with pytest.raises(ValueError, match=r"set 0 must have shape \(points, features\)"):
        SetTable.of([torch.zeros(2)])


def test_a_mixture_holds_points_of_its_sources_in_their_proportions():
    x = torch.arange(5.0).view(5, 1, 1).expand(5, 2000, 1)
    weights = torch.tensor([[0.6, 0.3, 0.1]])
    mixed = SetMixer(3).mix(x, torch.tensor([[4, 0, 2]]), weights, generator(100)).flatten()
    for value, w in zip((4, 0, 2), weights[0].tolist()):
        share = float((mixed == value).float().mean())
        assert abs(share - w) < 4 * (w * (1 - w) / 2000) ** 0.5
    whole = SetMixer(2).mix(x, torch.tensor([[3, 1]]), torch.tensor([[1.0, 0.0]]), generator(100))
    assert bool((whole == 3).all())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_proportions_have_the_moments_of_the_dirichlet_law(alpha):
    k, n = 3, 20_000
    w = SetMixer(k, alpha).proportions(n, generator(100))
    torch.testing.assert_close(w.sum(1), torch.ones(n))
    variance = (k - 1) / (k**2 * (k * alpha + 1))
    torch.testing.assert_close(w.mean(0), torch.full((k,), 1 / k), atol=4 * (variance / n) ** 0.5, rtol=0)
    torch.testing.assert_close(w.var(0), torch.full((k,), variance), rtol=0.05, atol=0)


def test_a_batch_is_mixed_from_different_sets_of_its_own():
    x = torch.arange(6.0).view(6, 1, 1).expand(6, 500, 1)
    mixed = SetMixer(2)(x, generator(100))
    assert mixed.shape == x.shape
    assert all(1 <= len(set(row.flatten().tolist())) <= 2 for row in mixed)
    assert sum(len(set(row.flatten().tolist())) == 2 for row in mixed) >= 5


def test_more_sources_than_sets_are_refused():
    with pytest.raises(ValueError, match="k = 4 sources cannot be taken from a batch of 3 sets"):
        SetMixer(4)(torch.zeros(3, 5, 1), generator(100))


def test_sets_of_a_label_hold_points_of_that_label():
    y = torch.arange(300) % 3
    sets, target = sets_from_labels(y[:, None].float(), y, "discrete", n_sets=20, set_size=7, generator=generator(100))
    assert bool((sets.squeeze(-1) == target[:, None]).all())


def test_kernel_weights_give_the_label_law_around_the_target():
    y = torch.linspace(-3, 3, 6001)
    sets, target = sets_from_labels(
        y[:, None], y, n_sets=1, set_size=20_000, bandwidth=0.5, targets=torch.tensor([0.4]), generator=generator(100)
    )
    assert float(sets.mean()) == pytest.approx(0.4, abs=0.02)
    assert float(sets.std()) == pytest.approx(0.5, rel=0.03)
    assert target.tolist() == pytest.approx([0.4])


def test_a_likelihood_weighs_points():
    y = torch.tensor([0.0, 1.0])
    sets, _ = sets_from_labels(
        y[:, None], y, "likelihood", n_sets=1, set_size=8000, targets=torch.tensor([1.0]), generator=generator(100),
        likelihood=lambda labels, t: torch.where(labels[None] == t[:, None], 0.75, 0.25),
    )  # fmt: skip
    assert float(sets.mean()) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 8000) ** 0.5)


def test_labels_that_cannot_be_used_are_refused():
    x, y, g = torch.zeros(4, 1), torch.zeros(4), generator(0)
    with pytest.raises(ValueError, match="needs bandwidth"):
        sets_from_labels(x, y, n_sets=1, set_size=1, generator=g)
    with pytest.raises(ValueError, match="needs likelihood"):
        sets_from_labels(x, y, "likelihood", n_sets=1, set_size=1, generator=g)
    with pytest.raises(ValueError, match="weights must be non-negative, got -1"):
        sets_from_labels(
            x, y, "likelihood", n_sets=1, set_size=1, generator=g, likelihood=lambda a, b: -torch.ones(1, 4)
        )
    with pytest.raises(ValueError, match="no point has any weight for target 5"):
        sets_from_labels(x, y, "discrete", n_sets=1, set_size=1, generator=g, targets=torch.tensor([5.0]))
    with pytest.raises(ValueError, match="lengths differ: x has 4, y has 3"):
        sets_from_labels(x, y[:3], "discrete", n_sets=1, set_size=1, generator=g)
