import pytest
import torch

from holdfast.metrics import energy_discrepancy, kernel_discrepancy, median_distance
from tests.metrics.distances.points import sets, weights


def test_values_are_the_sums_over_pairs():
    x, y = sets()
    a, b = weights(7), weights(5, seed=104)

    def mean(f, u, v, p, q):
        return torch.einsum("bi,bj,bij->b", p, q, f(torch.cdist(u, v)))

    for f, found, sign in (
        (lambda d: torch.exp(-d.square() / 2), kernel_discrepancy(x, y, 1.0, x_weights=a, y_weights=b), 1),
        (lambda d: d, energy_discrepancy(x, y, x_weights=a, y_weights=b), -1),
    ):
        expected = sign * (mean(f, x, x, a, a) + mean(f, y, y, b, b) - 2 * mean(f, x, y, a, b))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("f", [lambda *a, **k: kernel_discrepancy(*a, 1.0, **k), energy_discrepancy])
def test_without_the_pairs_of_a_point_with_itself_the_mean_under_one_law_is_zero(f):
    rng = torch.Generator().manual_seed(100)
    x, y = torch.randn(2, 4000, 6, 2, generator=rng, dtype=torch.float64)
    found = f(x, y, estimator="unbiased")
    assert abs(found.mean()) < 4 * found.std() / 4000**0.5
    assert found.min() < 0
    assert f(x, y).min() >= 0
    equal = torch.full((6,), 1 / 6, dtype=torch.float64)
    torch.testing.assert_close(f(x, y, estimator="unbiased", x_weights=equal, y_weights=equal), found)


def test_bandwidths_are_one_several_each_pairs_own_or_the_median_distance():
    x, y = sets()
    one, two = kernel_discrepancy(x, y, 0.7), kernel_discrepancy(x, y, 1.9)
    torch.testing.assert_close(kernel_discrepancy(x, y, [0.7, 1.9]), (one + two) / 2)
    own = kernel_discrepancy(x, y, torch.tensor([[0.7], [1.9]]))
    torch.testing.assert_close(own, torch.stack([one[0], two[1]]), rtol=1e-6, atol=1e-8)
    scale = median_distance(x, y)[:, None] * torch.tensor([0.25, 0.5, 1, 2, 4], dtype=x.dtype)
    torch.testing.assert_close(kernel_discrepancy(x, y), kernel_discrepancy(x, y, scale))


def test_the_slope_is_finite_where_points_meet():
    x = torch.zeros(3, 2, requires_grad=True)
    energy_discrepancy(x, torch.ones(2, 2)).backward()
    assert bool(x.grad.isfinite().all())


def test_options_that_make_no_sense_are_refused():
    x, y = sets()
    for bandwidths, message in (
        (0.0, "bandwidths must be in"),
        ([1.0, -1.0], "bandwidths must be in"),
        (torch.ones(3, 1), r"bandwidths must be \(several,\) or \(2, several\), got shape \(3, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_discrepancy(x, y, bandwidths)
    for f in (kernel_discrepancy, energy_discrepancy):
        with pytest.raises(ValueError, match="estimator"):
            f(x, y, estimator="u")
        with pytest.raises(ValueError, match="at least two points"):
            f(x[:, :1], y, estimator="unbiased")
