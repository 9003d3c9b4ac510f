import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi2, kstest, multivariate_normal
from sklearn.covariance import LedoitWolf, shrunk_covariance

from holdfast.core.random import generator
from holdfast.metrics import ClassGroupGaussians, aggregate_mahalanobis


def _data(n=240, c=3, k=2, d=4, seed=100):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(c, k, d, d))
    y = np.r_[np.arange(c), rng.choice(c, n - c, p=np.arange(1, c + 1) / np.arange(1, c + 1).sum())]
    x = np.einsum("nkij,nkj->nki", mix[y], rng.normal(size=(n, k, d))) + rng.normal(size=(c, k, d))[y] * 3
    return x, y


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_and_distances_equal_the_loop(tied, ddof):
    x, y = _data()
    model = ClassGroupGaussians().fit(x, y, ddof=ddof, tied=tied)
    dist = model.mahalanobis(x).numpy()
    n, c = len(y), 3
    for k in range(2):
        means = np.stack([x[y == j, k].mean(0) for j in range(c)])
        np.testing.assert_allclose(model.means[:, k], means, atol=1e-12)
        residual = x[:, k] - means[y]
        for j in range(c):
            if tied:
                s = residual.T @ residual / (n - c * ddof)
            else:
                s = np.cov(x[y == j, k].T, ddof=ddof)
            np.testing.assert_allclose(model.covariance[0 if tied else j, k], s, atol=1e-10)
            inverse = np.linalg.inv(s)
            loop = [mahalanobis(row, means[j], inverse) ** 2 for row in x[:, k]]
            np.testing.assert_allclose(dist[:, j, k], loop, rtol=1e-9)


def test_log_prob_agrees_with_scipy():
    x, y = _data(k=1)
    model = ClassGroupGaussians().fit(x[:, 0], y)
    for j in range(3):
        peer = multivariate_normal(x[y == j, 0].mean(0), np.cov(x[y == j, 0].T))
        np.testing.assert_allclose(model.log_prob(x[:, 0])[:, j, 0], peer.logpdf(x[:, 0]), rtol=1e-9)


def test_mean_own_distance_over_the_fitting_data_is_d_times_n_minus_1_over_n():
    x, y = _data()
    own = ClassGroupGaussians().fit(x, y).mahalanobis(x)[np.arange(len(y)), y]
    for j in range(3):
        n = (y == j).sum()
        np.testing.assert_allclose(own[y == j].mean(0), 4 * (n - 1) / n, atol=1e-8)


@pytest.mark.parametrize("tied", [False, True])
def test_distances_are_invariant_under_invertible_affine_maps_of_a_group(tied):
    x, y = _data()
    rng = np.random.default_rng(101)
    a, b = rng.normal(size=(2, 4, 4)), 1e3 * rng.normal(size=(2, 4))
    moved = np.einsum("kij,nkj->nki", a, x) + b
    before = ClassGroupGaussians().fit(x, y, tied=tied).mahalanobis(x)
    after = ClassGroupGaussians().fit(moved, y, tied=tied).mahalanobis(moved)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("n", [12, 200])
def test_ledoit_wolf_agrees_with_scikit_learn(n):
    x, y = _data(n=n, c=2, d=6)
    model = ClassGroupGaussians().fit(x, y, shrinkage="ledoit_wolf", ddof=0)
    tied = ClassGroupGaussians().fit(x, y, shrinkage="ledoit_wolf", ddof=0, tied=True)
    for k in range(2):
        for j in range(2):
            peer = LedoitWolf().fit(x[y == j, k])
            assert float(model.shrinkage[j, k]) == pytest.approx(peer.shrinkage_, abs=1e-10)
            np.testing.assert_allclose(model.covariance[j, k], peer.covariance_, atol=1e-10)
        residual = x[:, k] - np.stack([x[y == j, k].mean(0) for j in range(2)])[y]
        peer = LedoitWolf(assume_centered=True).fit(residual)
        np.testing.assert_allclose(tied.covariance[0, k], peer.covariance_, atol=1e-10)


def test_fixed_shrinkage_agrees_with_scikit_learn_and_one_gives_a_sphere():
    x, y = _data(k=1)
    model = ClassGroupGaussians().fit(x[:, 0], y, shrinkage=0.3)
    np.testing.assert_allclose(model.covariance[1, 0], shrunk_covariance(np.cov(x[y == 1, 0].T), 0.3), atol=1e-10)
    sphere = ClassGroupGaussians().fit(x[:, 0], y, shrinkage=1.0).covariance[1, 0]
    torch.testing.assert_close(sphere, sphere.diagonal().mean() * torch.eye(4, dtype=sphere.dtype))


def test_many_unequal_classes_equal_the_fit_of_each_alone():
    rng = np.random.default_rng(100)
    sizes = rng.integers(4, 60, 40)
    y = rng.permutation(np.repeat(np.arange(40), sizes))
    x = rng.normal(size=(len(y), 3)) * (1 + y[:, None])
    model = ClassGroupGaussians().fit(x, y)
    assert model.counts.tolist() == sizes.tolist()
    for j in range(40):
        np.testing.assert_allclose(model.covariance[j, 0], np.cov(x[y == j].T), rtol=1e-9, atol=1e-9)


def test_draws_have_the_fitted_moments_and_the_shape_of_the_input():
    x, y = _data()
    model = ClassGroupGaussians().fit(x, y)
    draws = model.sample(2, 200_000, generator(100))
    assert draws.shape == (200_000, 2, 4)
    spread = model.covariance[2].diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(((draws.mean(0) - model.means[2]) / spread).abs().max()) < 5 / np.sqrt(200_000)
    np.testing.assert_allclose(np.cov(draws[:, 1].T), model.covariance[2, 1], atol=0.02 * float(spread.max()) ** 2)
    assert ClassGroupGaussians().fit(x[:, 0], y).sample(0, 5, generator(100)).shape == (5, 4)
    assert torch.equal(model.sample(1, 3, generator(7)), model.sample(1, 3, generator(7)))


def test_twice_the_aggregate_of_independent_groups_is_chi_squared():
    rng = np.random.default_rng(100)
    k, d = 3, 2
    fit, fresh = rng.normal(size=(200_000, k, d)), rng.normal(size=(5000, k, d))
    model = ClassGroupGaussians().fit(fit, np.zeros(len(fit), int))
    score = 2 * aggregate_mahalanobis(model.mahalanobis(fresh), np.ones((1, k)))
    assert kstest(score.numpy(), chi2(k * d).cdf).pvalue > 0.01


def test_aggregate_equals_the_loop_and_a_one_hot_weight_picks_one_group():
    rng = np.random.default_rng(100)
    dist, w = rng.random((7, 3, 4)), rng.random((3, 4))
    loop = [min(sum(w[c, k] * 0.5 * row[c, k] for k in range(4)) for c in range(3)) for row in dist]
    np.testing.assert_allclose(aggregate_mahalanobis(dist, w), loop, atol=1e-12)
    one_hot = np.zeros((3, 4))
    one_hot[:, 2] = 1
    np.testing.assert_allclose(aggregate_mahalanobis(dist, one_hot), 0.5 * dist[:, :, 2].min(1), atol=1e-12)


def test_soft_minimum_lies_within_log_classes_below_the_minimum():
    rng = np.random.default_rng(100)
    dist, w = rng.random((50, 3, 4)) * 20, np.ones((3, 4))
    gap = aggregate_mahalanobis(dist, w) - aggregate_mahalanobis(dist, w, "logsumexp")
    assert float(gap.min()) >= 0
    assert float(gap.max()) <= np.log(3)


def test_tensors_round_trip():
    x, y = _data()
    for tied in (False, True):
        model = ClassGroupGaussians().fit(x, y, tied=tied)
        copy = ClassGroupGaussians.from_tensors(model.to_tensors())
        assert torch.equal(copy.mahalanobis(x), model.mahalanobis(x))
        assert copy.tied == model.tied == tied
    tensors = model.to_tensors()
    del tensors["means"]
    with pytest.raises(ValueError, match="lack means"):
        ClassGroupGaussians.from_tensors(tensors)
    with pytest.raises(ValueError, match="scale_tril must have shape"):
        ClassGroupGaussians.from_tensors({**model.to_tensors(), "scale_tril": torch.ones(3, 2, 5, 5)})


def test_too_few_samples_are_refused_with_advice():
    x, y = _data(n=30, c=2)
    y = np.where(np.arange(30) < 4, 0, 1)
    with pytest.raises(ValueError, match=r"class 0 has 4 samples.*at least 5.*ledoit_wolf"):
        ClassGroupGaussians().fit(x, y)
    assert ClassGroupGaussians().fit(x, y, shrinkage="ledoit_wolf").mahalanobis(x).isfinite().all()
    with pytest.raises(ValueError, match="class 0 has 1 samples"):
        ClassGroupGaussians().fit(x, np.where(np.arange(30) < 1, 0, 1), shrinkage="ledoit_wolf")
    with pytest.raises(ValueError, match=r"tied covariance.*at least 6"):
        ClassGroupGaussians().fit(x[[0, 1, 2, 10, 11]], y[[0, 1, 2, 10, 11]], tied=True)


def test_a_singular_covariance_is_named_by_class_and_group():
    x, y = _data()
    x[y == 1, 1, 3] = 2 * x[y == 1, 1, 0] - x[y == 1, 1, 2]
    with pytest.raises(ValueError, match="class 1, group 1, is singular"):
        ClassGroupGaussians().fit(x, y)
    x, y = _data()
    x[:, 0, 2] = 5.0
    with pytest.raises(ValueError, match="tied covariance, group 0, is singular"):
        ClassGroupGaussians().fit(x, y, tied=True)


def test_features_of_very_different_scale_are_not_called_singular():
    x, y = _data()
    scale = np.array([1e-6, 1.0, 1e3, 1e6])
    torch.testing.assert_close(
        ClassGroupGaussians().fit(x * scale, y).mahalanobis(x * scale),
        ClassGroupGaussians().fit(x, y).mahalanobis(x),
        atol=1e-6,
        rtol=1e-6,
    )


def test_gaussians_refuse_bad_input():
    x, y = _data()
    model = ClassGroupGaussians().fit(x, y)
    with pytest.raises(ValueError, match="x must have shape"):
        model.mahalanobis(x[:, :, :3])
    with pytest.raises(ValueError, match="class 1 has no samples"):
        ClassGroupGaussians().fit(x, np.where(y == 1, 2, y))
    with pytest.raises(ValueError, match=r"y must lie in \[0, 2\)"):
        ClassGroupGaussians().fit(x, y, n_classes=2)
    with pytest.raises(ValueError, match="finite"):
        ClassGroupGaussians().fit(np.where(x > 3, np.nan, x), y)
    with pytest.raises(ValueError, match="shrinkage"):
        ClassGroupGaussians().fit(x, y, shrinkage=1.5)
    with pytest.raises(ValueError, match="rows but y"):
        ClassGroupGaussians().fit(x, y[:-1])
    with pytest.raises(RuntimeError, match="not fitted"):
        ClassGroupGaussians().mahalanobis(x)
    with pytest.raises(ValueError, match="weights"):
        aggregate_mahalanobis(np.ones((2, 3, 4)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="non-negative"):
        aggregate_mahalanobis(np.ones((2, 3, 4)), -np.ones((3, 4)))
    with pytest.raises(ValueError, match="c must be in"):
        model.sample(3, 1)
