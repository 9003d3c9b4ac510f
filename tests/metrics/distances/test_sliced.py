import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from holdfast.metrics import sliced_transport
from tests.metrics.distances.points import sets, weights


def test_in_one_dimension_it_is_the_exact_distance():
    x, y = sets(d=1)
    a, b = weights(7), weights(5, seed=104)
    expected = [
        wasserstein_distance(x[i, :, 0], y[i, :, 0], u_weights=a[i], v_weights=b[i]) for i in range(2)
    ]  # fmt: skip
    found = sliced_transport(x, y, p=1, x_weights=a, y_weights=b)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(
        sliced_transport(x, y, p=1), [wasserstein_distance(u[:, 0], v[:, 0]) for u, v in zip(x, y)], atol=1e-12
    )


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 20)])
def test_pot_finds_the_same_along_the_same_lines(n, m):
    ot = pytest.importorskip("ot")
    x, y = sets(n, m)
    lines = torch.nn.functional.normalize(torch.randn(3, 50, dtype=x.dtype), dim=0)
    for p in (1, 2, 3):
        expected = [ot.sliced.sliced_wasserstein_distance(u, v, projections=lines, p=p) ** p for u, v in zip(x, y)]
        torch.testing.assert_close(sliced_transport(x, y, p=p, lines=lines), torch.stack(expected), rtol=1e-10, atol=0)
        a, b = weights(n), weights(m, seed=104)
        expected = [
            ot.sliced.sliced_wasserstein_distance(u, v, c, d, projections=lines, p=p) ** p
            for u, v, c, d in zip(x, y, a, b)
        ]
        found = sliced_transport(x, y, p=p, lines=lines, x_weights=a, y_weights=b)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-8, atol=0)


def test_a_shift_costs_its_square_over_the_dimension():
    x, _ = sets(d=4)
    shift = torch.tensor([3.0, 0.0, 0.0, 4.0], dtype=x.dtype)
    found = sliced_transport(x, x + shift, n_projections=50_000, generator=torch.Generator().manual_seed(100))
    torch.testing.assert_close(found, torch.full_like(found, 25 / 4), rtol=0.02, atol=0)


def test_options_that_make_no_sense_are_refused():
    x, y = sets()
    for options, message in (
        ({"p": 0.5}, r"p must be in \[1"),
        ({"n_projections": 0}, "n_projections must be in"),
        ({"lines": torch.ones(2, 4)}, r"lines must have shape \(3, L\), got \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            sliced_transport(x, y, **options)
