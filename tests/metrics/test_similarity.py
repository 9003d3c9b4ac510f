import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.stats import ortho_group

from holdfast.metrics import (
    cknna,
    cross_space_mrr,
    linear_cka,
    mean_cosine,
    minibatch_cka,
    mutual_knn,
    procrustes_distance,
    topk_jaccard,
)


def _z(n, d, seed=100):
    return np.random.default_rng(seed).normal(size=(n, d))


Q = ortho_group.rvs(6, random_state=100)


@pytest.mark.parametrize("n", [4, 50])  # kernel form and feature form
@pytest.mark.parametrize("unbiased", [False, True])
def test_cka_is_one_under_rotation_scale_and_shift(n, unbiased):
    z = _z(n, 6)
    assert linear_cka(z, 2.5 * z @ Q + 3, unbiased=unbiased) == pytest.approx(1, abs=1e-9)


def test_cka_is_symmetric_and_equals_its_kernel_definition():
    a, b = _z(30, 6), _z(30, 4, 101) + _z(30, 6)[:, :4]
    h = np.eye(30) - 1 / 30
    k, m = h @ a @ a.T @ h, h @ b @ b.T @ h
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(a, b) == pytest.approx(expected, abs=1e-10)
    assert linear_cka(a, b) == pytest.approx(linear_cka(b, a), abs=1e-12)
    assert linear_cka(a.repeat(6, 1), b) == pytest.approx(expected, abs=1e-10)  # wide: the other form


def test_unbiased_hsic_is_the_mean_over_ordered_quadruples():
    # Song et al., eq. 3: the U-statistic over distinct (i, j, q, r), written out for n = 5.
    from itertools import permutations

    a, b = _z(5, 2), _z(5, 3, 101)

    def u_statistic(x, y):
        x, y = x - x.mean(0), y - y.mean(0)
        k, m = x @ x.T, y @ y.T
        return np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(5), 4)])

    expected = u_statistic(a, b) / np.sqrt(u_statistic(a, a) * u_statistic(b, b))
    assert linear_cka(a, b, unbiased=True) == pytest.approx(expected, abs=1e-10)


def test_unbiased_cka_of_independent_wide_features_is_near_zero_where_the_biased_one_is_not():
    a, b = _z(100, 400), _z(100, 400, 101)
    assert abs(linear_cka(a, b, unbiased=True)) < 0.05
    assert linear_cka(a, b) > 0.5


def test_cknna_is_one_for_rotations_and_near_zero_for_independent_gaussians():
    z = _z(500, 6)
    assert cknna(z, z @ Q) == pytest.approx(1, abs=1e-6)
    assert abs(cknna(z, _z(500, 6, 101))) < 0.05


def test_cknna_with_all_neighbours_is_unbiased_cka():
    a, b = _z(40, 6), _z(40, 4, 101) + _z(40, 6)[:, :4]
    assert cknna(a, b, k=39, normalise=False) == pytest.approx(linear_cka(a, b, unbiased=True), abs=1e-6)


def test_exchange_metrics_are_one_for_a_space_with_itself():
    z = _z(60, 6)
    for metric in ("cosine", "l2"):
        assert topk_jaccard(z, z, 5, metric) == 1.0
        assert cross_space_mrr(z, z, metric) == 1.0
        assert mutual_knn(z, 2 * z @ Q, 5, metric) == 1.0
    assert mean_cosine(z, 4 * z) == pytest.approx(1, abs=1e-12)


def test_cross_space_mrr_of_unrelated_spaces_is_the_harmonic_number_over_n():
    n = 400
    expected = np.sum(1 / np.arange(1, n + 1)) / n
    values = [cross_space_mrr(_z(n, 30, s), _z(n, 30, s + 1)) for s in range(100, 120, 2)]
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / np.sqrt(10))


def test_cross_space_mrr_equals_the_loop():
    a, b = _z(25, 4), _z(25, 4, 101)
    d = np.linalg.norm(a[:, None] - b[None], axis=2)
    expected = np.mean(1 / (1 + (d < np.diag(d)[:, None]).sum(1)))
    assert cross_space_mrr(a, b, "l2") == pytest.approx(expected, abs=1e-12)


def test_a_collapsed_space_earns_only_the_mean_rank():
    assert cross_space_mrr(np.ones((9, 2)), np.ones((9, 2))) == pytest.approx(1 / 5)


def test_jaccard_counts_by_hand():
    z2 = np.array([[0.0], [1.0], [2.0], [3.0]])
    z1 = z2[::-1].copy()
    # k = 2, l2: from space 2, sets {0,1},{0|2,1},{..}; ends 0 and 3 exchange {0,1} for {2,3}: no overlap.
    assert topk_jaccard(z1[[0, 3]], z2[[0, 3]], 1, "l2") == 0.0
    assert topk_jaccard(z2 + 0.9, z2, 1, "l2") == pytest.approx(0.25)  # only the last row finds itself


def test_procrustes_distance_is_zero_for_rotations_and_agrees_with_scipy():
    a, b = _z(30, 6), _z(30, 6, 101)
    assert procrustes_distance(a, 3 * a @ Q + 1) == pytest.approx(0, abs=1e-10)
    d = procrustes_distance(a, b)
    # scipy also fits the scale: disparity = 1 - nuclear^2, ours = 2 - 2 nuclear.
    assert 1 - (1 - d / 2) ** 2 == pytest.approx(procrustes(a, b)[2], abs=1e-10)


def test_procrustes_distance_is_the_minimum_over_rotations():
    a, b = _z(20, 6), _z(20, 6, 101)
    best = procrustes_distance(a, b, center=False, scale=False)
    for seed in range(20):
        q = ortho_group.rvs(6, random_state=100 + seed)
        assert best <= np.square(a - b @ q).sum() + 1e-9


def test_numpy_and_torch_input_give_the_same_value():
    a, b = _z(20, 6), _z(20, 6, 101)
    for f in (linear_cka, cknna, topk_jaccard, cross_space_mrr, mean_cosine, procrustes_distance):
        assert f(a, b) == f(torch.as_tensor(a), torch.as_tensor(b))


def test_cka_from_batches_is_that_of_one_batch_in_the_mean():
    a = _z(600, 6)
    b = a @ _z(6, 5, 101) + _z(600, 5, 102)
    assert minibatch_cka([(a, b)]) == pytest.approx(linear_cka(a, b, unbiased=True))
    parts = [(a[i : i + 60], b[i : i + 60]) for i in range(0, 600, 60)]
    assert minibatch_cka(parts) == pytest.approx(linear_cka(a, b, unbiased=True), abs=0.05)
    assert abs(minibatch_cka((x, _z(60, 5, 200 + i)) for i, (x, _) in enumerate(parts))) < 0.05
    q = ortho_group.rvs(6, random_state=100)
    assert minibatch_cka((x, 3 * x @ q) for x, _ in parts) == pytest.approx(1)
    with pytest.raises(ValueError, match="holds nothing"):
        minibatch_cka([])
    with pytest.raises(ValueError, match="at least 4"):
        minibatch_cka([(a[:3], b[:3])])


def test_similarity_refuses_bad_input():
    z = _z(10, 3)
    with pytest.raises(ValueError, match="equally many rows"):
        linear_cka(z, z[:5])
    with pytest.raises(ValueError, match="constant"):
        linear_cka(np.full((10, 3), 0.1), z)
    with pytest.raises(ValueError, match="width"):
        cross_space_mrr(z, _z(10, 4))
    with pytest.raises(ValueError, match="norm is zero"):
        mean_cosine(z, np.zeros((10, 3)))
    with pytest.raises(ValueError, match="k must be in"):
        cknna(z, z, k=10)
    with pytest.raises(ValueError, match="at least 4"):
        cknna(z[:3], z[:3], k=1)
    with pytest.raises(ValueError, match="finite"):
        procrustes_distance(z, z * np.inf)
    with pytest.raises(ValueError, match="zero everywhere"):
        procrustes_distance(z, 0 * z, center=False)
