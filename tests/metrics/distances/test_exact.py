import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from holdfast.metrics import exact_transport
from holdfast.metrics.distances import exact
from tests.metrics.distances.points import sets, weights


def test_sets_of_one_size_are_matched_one_for_one():
    x, y = sets(8, 8)
    for p in (1, 2):
        cost = torch.cdist(x, y).pow(p).numpy()
        expected = [c[linear_sum_assignment(c)].mean() for c in cost]
        np.testing.assert_allclose(exact_transport(x, y, p=p), expected, rtol=1e-9)


def test_in_one_dimension_it_is_the_distance_of_quantile_functions():
    x, y = sets(d=1)
    a, b = weights(7), weights(5, seed=104)
    expected = [wasserstein_distance(x[i, :, 0], y[i, :, 0], a[i], b[i]) for i in range(2)]
    np.testing.assert_allclose(exact_transport(x, y, p=1, x_weights=a, y_weights=b), expected, rtol=1e-9)


def test_a_shift_costs_its_square():
    x, _ = sets()
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=x.dtype)
    torch.testing.assert_close(exact_transport(x, x + shift), torch.full((2,), 9.0, dtype=x.dtype))


def test_both_solvers_find_the_same_plan_and_prices():
    pytest.importorskip("ot")
    x, y = sets(6, 9)
    a, b = weights(6), weights(9, seed=104)
    for cost, u, v in zip(torch.cdist(x, y).square().numpy(), a.numpy(), b.numpy()):
        one, two = exact._by_pot(cost, u, v), exact._by_scipy(cost, u, v)
        np.testing.assert_allclose(one[0], two[0], atol=1e-9)
        for plan, f, g in (one, two):
            np.testing.assert_allclose(plan.sum(1), u, atol=1e-9)
            np.testing.assert_allclose(plan.sum(0), v, atol=1e-9)
            assert (cost - f[:, None] - g).min() > -1e-9  # prices are feasible, and worth as much as the plan
            np.testing.assert_allclose(f @ u + g @ v, (plan * cost).sum(), rtol=1e-9)


def test_pot_finds_the_same():
    ot = pytest.importorskip("ot")
    x, y = sets(40, 30)
    a, b = weights(40), weights(30, seed=104)
    expected = [ot.emd2(a[i].numpy(), b[i].numpy(), ot.dist(x[i].numpy(), y[i].numpy())) for i in range(2)]
    np.testing.assert_allclose(exact_transport(x, y, x_weights=a, y_weights=b), expected, rtol=1e-9)


def test_without_pot_scipy_is_taken(monkeypatch):
    x, y = sets()
    expected = exact_transport(x, y)
    monkeypatch.setattr(exact, "find_spec", lambda name: None)
    torch.testing.assert_close(exact_transport(x, y), expected, rtol=1e-8, atol=1e-10)


def test_a_power_below_one_is_refused():
    with pytest.raises(ValueError, match=r"p must be in \[1"):
        exact_transport(*sets(), p=0.5)
