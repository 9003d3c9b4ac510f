import numpy as np
import pytest
import torch

from holdfast.metrics import exact_transport, mean_squared_distance, sinkhorn_divergence
from tests.metrics.distances.points import sets, weights


def test_it_tends_to_the_exact_distance_as_the_entropic_weight_falls():
    x, y = sets(30, 20)
    exact = exact_transport(x, y)
    errors = []
    for eps in (1.0, 0.1, 0.01):
        found = sinkhorn_divergence(x, y, eps=eps, tolerance=1e-3, max_iterations=20_000)
        errors.append(float(((found - exact).abs() / exact).max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_a_shift_costs_its_square_whatever_the_entropic_weight():
    x, _ = sets(30)
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=x.dtype)
    for eps in (10.0, 1.0, 0.3):
        found = sinkhorn_divergence(x, x + shift, eps=eps, tolerance=1e-4, max_iterations=20_000)
        torch.testing.assert_close(found, torch.full((2,), 9.0, dtype=x.dtype), rtol=1e-5, atol=0)


def test_the_error_is_of_second_order_in_the_tolerance():
    x, y = sets(30, 20)
    best = sinkhorn_divergence(x, y, eps=0.2, tolerance=1e-10, max_iterations=20_000)
    for tolerance in (1e-2, 1e-3):
        found = sinkhorn_divergence(x, y, eps=0.2, tolerance=tolerance)
        assert float((found - best).abs().max()) < 10 * tolerance**2 + 1e-9


def _pot(x, y, a, b, eps):
    """The divergence from the plans of POT, with the entropy against the product of the weights."""
    import ot

    def one(u, v, p, q):
        cost = ot.dist(u, v)
        plan = ot.sinkhorn(p, q, cost, eps, method="sinkhorn_log", stopThr=1e-9, numItermax=10_000)
        kept = plan > 0
        return (plan * cost).sum() + eps * (plan[kept] * np.log(plan[kept] / np.outer(p, q)[kept])).sum()

    return one(x, y, a, b) - (one(x, x, a, a) + one(y, y, b, b)) / 2


@pytest.mark.parametrize("eps", [1.0, 4.0])
def test_pot_finds_the_same(eps):
    pytest.importorskip("ot")
    x, y = sets(20, 15)
    a, b = weights(20), weights(15, seed=104)
    expected = [_pot(*(t[i].numpy() for t in (x, y, a, b)), eps) for i in range(2)]
    found = sinkhorn_divergence(x, y, eps=eps, tolerance=1e-8, max_iterations=50_000, x_weights=a, y_weights=b)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_geomloss_finds_the_same():
    geomloss = pytest.importorskip("geomloss")
    x, y = sets(20, 15)
    # Its cost is half of the squared distance, and its weight the square of blur.
    peer = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.5, scaling=0.99, backend="tensorized")
    found = sinkhorn_divergence(x, y, eps=2 * 0.5**2, tolerance=1e-8, max_iterations=50_000)
    torch.testing.assert_close(found, 2 * peer(x, y), rtol=2e-3, atol=0)


def test_the_weight_by_default_is_a_twentieth_of_the_mean_squared_distance():
    x, y = sets(20, 15)
    eps = 0.05 * mean_squared_distance(x, y)
    torch.testing.assert_close(sinkhorn_divergence(x, y), sinkhorn_divergence(x, y, eps=eps))
    torch.testing.assert_close(sinkhorn_divergence(x, y, share=0.2), sinkhorn_divergence(x, y, eps=4 * eps))


def test_far_sets_and_tiny_weights_stay_finite():
    x, y = sets(20, 15, dtype=torch.float32)
    x = x.requires_grad_()
    found = sinkhorn_divergence(x, y + 1000)
    found.sum().backward()
    centres = (x.mean(1) - y.mean(1) - 1000).square().sum(1)
    torch.testing.assert_close(found, centres, rtol=1e-3, atol=0)
    assert bool(x.grad.isfinite().all())


def test_a_plan_that_is_not_reached_gives_a_warning():
    x, y = sets(30, 20)
    with pytest.warns(UserWarning, match="after 10 iterations, more than tolerance"):
        sinkhorn_divergence(x, y, eps=1e-3, tolerance=1e-9, max_iterations=10)


def test_options_that_make_no_sense_are_refused():
    x, y = sets()
    for options, message in (
        ({"eps": 0.0}, "eps must be in"),
        ({"eps": torch.ones(3)}, "eps must be one number or one for each of 2 pairs"),
        ({"share": 0.0}, "share must be in"),
        ({"tolerance": 0.0}, "tolerance must be in"),
        ({"max_iterations": 0}, "max_iterations must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            sinkhorn_divergence(x, y, **options)
