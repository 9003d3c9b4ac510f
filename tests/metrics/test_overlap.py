import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from holdfast.metrics import effective_rank, feature_overlap, ridge_r2


def _z(n, d, seed=100):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("d", [4, 60])  # narrow and wide
def test_leave_one_out_equals_refitting_without_each_sample(d):
    n, penalty = 25, 3.0
    x, y = _z(n, d) + 2, _z(n, 2, 101)
    y = y + x[:, :2]
    xc = x - x.mean(0)
    held_out = cross_val_predict(Ridge(alpha=penalty), x, y, cv=LeaveOneOut())
    base = np.stack([np.delete(y, i, 0).mean(0) for i in range(n)])
    expected = 1 - np.square(y - held_out).sum() / np.square(y - base).sum()
    assert ridge_r2(x, y, alpha=penalty * d / np.square(xc).sum()) == pytest.approx(expected, abs=1e-9)


def test_a_linear_function_is_predicted_and_independent_noise_is_not():
    x = _z(200, 5)
    assert ridge_r2(x, x @ _z(5, 3, 101), alpha=1e-8) == pytest.approx(1, abs=1e-9)
    assert ridge_r2(x, _z(200, 3, 102)) < 0.05


def test_prediction_does_not_improve_by_width_alone():
    assert ridge_r2(_z(60, 200), _z(60, 3, 101)) < 0.1


def test_overlap_is_one_sided_for_a_part_of_the_features():
    z = _z(300, 6)
    o = feature_overlap(z, z[:, :2])
    assert o["r2_12"] > 0.99
    assert o["r2_21"] == pytest.approx(1 / 3, abs=0.1)
    assert set(o) == {"cka", "r2_12", "r2_21"}


def test_effective_rank_counts_equal_directions_and_ignores_scale_and_rotation():
    q, _ = np.linalg.qr(_z(8, 8))
    z = np.zeros((20, 8))
    z[:5, :5] = 7 * np.eye(5)
    assert effective_rank(z @ q) == pytest.approx(5, abs=1e-9)
    assert effective_rank(np.outer(np.arange(1.0, 5), np.ones(3))) == pytest.approx(1, abs=1e-6)


def test_effective_rank_lies_between_one_and_the_rank():
    z = _z(50, 7) * np.arange(1, 8)
    assert 1 < effective_rank(z) < 7
    assert effective_rank(z + 100, center=True) == pytest.approx(effective_rank(z, center=True), abs=1e-8)


def test_overlap_refuses_bad_input():
    with pytest.raises(ValueError, match="zero everywhere"):
        effective_rank(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="alpha"):
        ridge_r2(_z(5, 2), _z(5, 2), alpha=0)
    with pytest.raises(ValueError, match="constant"):
        ridge_r2(np.ones((5, 2)), _z(5, 2))
