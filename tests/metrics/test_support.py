from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from holdfast.core.random import generator
from holdfast.metrics import (
    distance_to_support,
    energy_distance,
    intrinsic_dimension,
    sliced_wasserstein,
    wasserstein1_1d,
)

N = 2000


def sphere(d, n=N, seed=100):
    x = torch.randn(n, d + 1, generator=generator(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def turned(x, dim=10, seed=100):
    q = torch.linalg.qr(torch.randn(dim, x.shape[1], generator=generator(seed), dtype=torch.float64)).Q
    return x @ q.T


@pytest.mark.parametrize(("x", "d", "error"), [(sphere(1), 1, 0.1), (sphere(2), 2, 0.15)])
def test_the_dimension_of_a_sphere_is_found_in_any_space(x, d, error):
    assert intrinsic_dimension(turned(x)) == pytest.approx(d, abs=error)
    # 10 * x only changes the unit.
    assert intrinsic_dimension(10 * x) == pytest.approx(intrinsic_dimension(x), abs=1e-6)


def test_the_dimension_of_a_normal_law_is_that_of_the_space():
    x = torch.randn(N, 3, generator=generator(100), dtype=torch.float64)
    assert intrinsic_dimension(x) == pytest.approx(3, abs=0.25)


def test_some_points_tell_the_dimension_of_all_and_copies_do_not_count():
    x = sphere(1, 5000)
    assert intrinsic_dimension(x, max_points=500) == pytest.approx(1, abs=0.1)
    few = x[:500]
    assert intrinsic_dimension(torch.cat([few, few])) == intrinsic_dimension(few)


def test_noise_shows_only_at_the_distance_of_neighbours():
    x = turned(sphere(1))
    e = torch.randn(x.shape, generator=generator(101), dtype=torch.float64)
    assert intrinsic_dimension(x + 1e-4 * e) == pytest.approx(1, abs=0.1)
    assert intrinsic_dimension(x + 0.3 * e) > 4


def test_the_distance_to_a_circle_is_that_of_the_radii():
    circle = sphere(1, 20_000)
    assert distance_to_support(1.5 * sphere(1, 100, 101), circle) == pytest.approx(0.5, abs=1e-4)
    assert distance_to_support(circle[:50], circle) == pytest.approx(0, abs=1e-6)


def test_one_dimensional_transport_agrees_with_peers():
    ot = pytest.importorskip("ot")
    rng = generator(100)
    u, v = torch.randn(40, generator=rng).double(), 2 * torch.rand(70, generator=rng).double()
    assert wasserstein1_1d(u, v) == pytest.approx(ot.wasserstein_1d(u.numpy(), v.numpy(), p=1), abs=1e-9)
    assert wasserstein1_1d(u, v) == pytest.approx(stats.wasserstein_distance(u, v), abs=1e-9)
    assert wasserstein1_1d(u, u.flip(0)) == 0


def test_sliced_transport_of_a_translation_is_its_mean_length_along_lines():
    rng = generator(100)
    x = torch.randn(200, 5, generator=rng).double()
    v = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    assert sliced_wasserstein(x, x, p=1) == 0
    # E |<v, u>| for u uniform on the sphere in R^5.
    mean = float(v.norm()) * math.gamma(2.5) / (math.sqrt(math.pi) * math.gamma(3.0))
    assert sliced_wasserstein(x, x + v, p=1, n_projections=20_000) == pytest.approx(mean, rel=0.02)


def test_the_energy_distance_is_the_square_of_scipys():
    rng = generator(100)
    u, v = torch.randn(40, generator=rng).double(), 2 * torch.rand(70, generator=rng).double()
    found = energy_distance(u[:, None], v[:, None])
    assert found == pytest.approx(stats.energy_distance(u, v) ** 2, abs=1e-9)
    assert found > 0
    assert energy_distance(u[:, None], u[:, None]) == pytest.approx(0, abs=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="more than 20 different points, got 1"):
        intrinsic_dimension(torch.ones(50, 2))
    with pytest.raises(ValueError, match=r"k2 must be in \[10, inf\), got 5"):
        intrinsic_dimension(torch.rand(50, 2), 10, 5)
    with pytest.raises(ValueError, match="2 columns but the gallery has 3"):
        distance_to_support(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="u must have 1 dimension"):
        wasserstein1_1d(torch.zeros(2, 2), torch.zeros(2))
