import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import energy_distance as scipy_energy
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import rbf_kernel

from holdfast.metrics import energy_distance, gaussian_w2, gaussian_w2_moments, mmd2, sliced_wasserstein


def _x(n=60, d=4, seed=100):
    return np.random.default_rng(seed).normal(size=(n, d))


DISTANCES = [
    lambda a, b: mmd2(a, b, 1.0, estimator="biased"),
    energy_distance,
    sliced_wasserstein,
    gaussian_w2,
]


@pytest.mark.parametrize("f", DISTANCES)
def test_distance_is_symmetric_zero_with_itself_and_grows_with_a_shift(f):
    a, b = _x(), _x(50, seed=101)
    assert f(a, b) == pytest.approx(f(b, a), abs=1e-10)
    assert f(a, a[::-1].copy()) == pytest.approx(0, abs=1e-6)
    values = [f(a, b + s) for s in (0.5, 1.0, 2.0)]
    assert values == sorted(values)


@pytest.mark.parametrize("f", [*DISTANCES[1:2], DISTANCES[3]])
def test_distance_is_invariant_under_a_common_rotation_and_shift(f):
    q, _ = np.linalg.qr(_x(4, 4, 102))
    a, b = _x(), _x(50, seed=101) + 1
    assert f(a @ q + 3, b @ q + 3) == pytest.approx(f(a, b), abs=1e-9)


def test_mmd_agrees_with_kernel_sums():
    a, b, s = _x(30), _x(25, seed=101) + 0.5, 1.3
    k = rbf_kernel(np.r_[a, b], gamma=1 / (2 * s * s))
    xx, yy, xy = k[:30, :30], k[30:, 30:], k[:30, 30:]
    assert mmd2(a, b, s, estimator="biased") == pytest.approx(xx.mean() + yy.mean() - 2 * xy.mean(), abs=1e-12)
    off = (xx.sum() - 30) / (30 * 29) + (yy.sum() - 25) / (25 * 24) - 2 * xy.mean()
    assert mmd2(a, b, s) == pytest.approx(off, abs=1e-12)
    assert mmd2(a, b, [s, 2 * s]) == pytest.approx((mmd2(a, b, s) + mmd2(a, b, 2 * s)) / 2, abs=1e-12)


def test_unbiased_mmd_averages_to_zero_under_equal_distributions():
    values = np.array([mmd2(_x(20, 2, s), _x(20, 2, s + 1000), 1.0) for s in range(100, 400)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0


def test_mmd_of_gaussians_has_its_closed_form():
    # x ~ N(0, 1), y ~ N(m, 1), kernel width s: E k = s / sqrt(s^2 + 2) exp(-m^2 / (2 (s^2 + 2))).
    s, m = 1.0, 1.5
    c = s / np.sqrt(s * s + 2)
    expected = 2 * c - 2 * c * np.exp(-m * m / (2 * (s * s + 2)))
    assert mmd2(_x(3000, 1), _x(3000, 1, 101) + m, s) == pytest.approx(expected, abs=0.03)


def test_one_dimensional_distances_agree_with_scipy_for_unequal_sizes():
    a, b = _x(37, 1), _x(52, 1, 101) * 2 + 0.3
    assert sliced_wasserstein(a, b, p=1) == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), abs=1e-12)
    assert energy_distance(a, b) == pytest.approx(scipy_energy(a[:, 0], b[:, 0]) ** 2, abs=1e-10)


def test_unequal_sizes_agree_with_repeated_samples():
    a, b = _x(6, 3), _x(4, 3, 101)
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(a.repeat(2, 0), b.repeat(3, 0)), abs=1e-12)


def test_sliced_distance_of_a_shift_is_the_shift_over_root_d():
    a, shift = _x(50, 5), np.array([3.0, 0, 0, 4.0, 0])
    # The mean of (theta . shift)^2 over the sphere is |shift|^2 / d.
    assert sliced_wasserstein(a, a + shift, n_projections=20_000) == pytest.approx(5 / np.sqrt(5), rel=0.02)


def test_gaussian_distance_agrees_with_the_matrix_square_root_and_with_known_cases():
    a, b = _x(80), _x(90, seed=101) @ _x(4, 4, 102) + 1
    s1, s2 = np.cov(a.T), np.cov(b.T)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert gaussian_w2(a, b) ** 2 == pytest.approx(expected, abs=1e-8)
    # Commuting covariances: the distance of the square roots; a point mass: the spread.
    assert gaussian_w2_moments([0, 0], np.diag([4.0, 9.0]), [0, 0], np.eye(2)) == pytest.approx(np.sqrt(5))
    assert gaussian_w2_moments([0, 0], np.eye(2), [3, 0], np.zeros((2, 2))) == pytest.approx(np.sqrt(9 + 2))


def test_transport_is_seeded_and_leaves_the_global_state_alone():
    a, b = _x(), _x(seed=101)
    before = torch.get_rng_state()
    assert sliced_wasserstein(a, b, seed=100) == sliced_wasserstein(a, b, seed=100)
    assert sliced_wasserstein(a, b, seed=100) != sliced_wasserstein(a, b, seed=101)
    assert torch.equal(before, torch.get_rng_state())


def test_transport_refuses_bad_input():
    with pytest.raises(ValueError, match="columns"):
        energy_distance(_x(), _x(5, 3))
    with pytest.raises(ValueError, match="two rows"):
        mmd2(_x(1), _x())
    with pytest.raises(ValueError, match="bandwidths"):
        mmd2(_x(), _x(), 0.0)
    with pytest.raises(ValueError, match="median distance is 0"):
        mmd2(np.ones((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="finite"):
        gaussian_w2(_x() * np.nan, _x())
    with pytest.raises(ValueError, match="symmetric"):
        gaussian_w2_moments([0, 0], [[1.0, 2.0], [0.0, 1.0]], [0, 0], np.eye(2))
    with pytest.raises(ValueError, match="semi-definite"):
        gaussian_w2_moments([0, 0], [[1.0, 0.0], [0.0, -1.0]], [0, 0], np.eye(2))
    with pytest.raises(ValueError, match="covariances shape"):
        gaussian_w2_moments([0, 0], np.eye(3), [0, 0], np.eye(2))
    with pytest.raises(ValueError, match="estimator"):
        energy_distance(_x(), _x(), estimator="u")
