import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from holdfast.metrics import (
    FeatureSpace,
    density_coverage,
    frechet_distance,
    frechet_distance_infinity,
    gaussian_w2_moments,
    generation_scores,
    kernel_distance,
    precision_recall,
)


def _x(n=200, d=5, seed=100):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_frechet_distance_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = torch.from_numpy(_x()), torch.from_numpy(_x(150, seed=101) @ np.diag([1, 2, 3, 0.5, 0.1]) + 0.3)
    expected = fid._compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_distance_is_zero_for_equal_moments_symmetric_and_ignores_a_common_rotation():
    q, _ = np.linalg.qr(_x(5, 5, 102))
    a, b = _x(), 2 * _x(150, seed=101) + 1
    assert frechet_distance(a, a[::-1].copy()) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-9)
    assert frechet_distance(a @ q + 3, b @ q + 3) == pytest.approx(frechet_distance(a, b), abs=1e-8)
    assert frechet_distance(a, a + 2) == pytest.approx(5 * 2**2, abs=1e-8)


@pytest.mark.parametrize("n", [3, 20, 40])
def test_frechet_distance_of_few_samples_is_that_of_their_singular_gaussians(n):
    a, b = _x(n, 40), 1.5 * _x(60, 40, seed=101)
    with pytest.warns(UserWarning, match=f"40 features from {n} samples"):
        found = frechet_distance(a, b)
    moments = gaussian_w2_moments(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T)) ** 2
    assert found == pytest.approx(moments, rel=1e-6)


def test_frechet_distance_to_infinity_takes_the_bias_away():
    d, n = 8, 1500
    plain, extrapolated = [], []
    real = _x(20_000, d)
    for seed in range(101, 121):
        fake = _x(n, d, seed)
        plain.append(frechet_distance(real, fake))
        extrapolated.append(frechet_distance_infinity(real, fake, seed=seed))
    assert min(plain) > 0
    # The real sample keeps its own bias, of a thirteenth.
    assert abs(np.mean(extrapolated)) < np.mean(plain) / 13 + 4 * np.std(extrapolated) / np.sqrt(20) < np.mean(plain)


def test_precision_recall_and_density_coverage_are_the_counts_of_their_definitions():
    a, b, k = _x(80, 3), 1.5 * _x(60, 3, 101) + 0.5, 4
    aa, bb, ba = cdist(a, a), cdist(b, b), cdist(b, a)
    r_a, r_b = np.sort(aa, 1)[:, k], np.sort(bb, 1)[:, k]
    precision, recall = precision_recall(a, b, k=k)
    assert precision == pytest.approx((ba <= r_a).any(1).mean())
    assert recall == pytest.approx((r_b >= ba.T).any(1).mean())
    density, coverage = density_coverage(a, b, k=k)
    assert density == pytest.approx((ba <= r_a).sum() / (k * len(b)))
    assert coverage == pytest.approx((ba <= r_a).any(0).mean())


def test_equal_laws_have_density_one_and_the_coverage_of_the_lemma():
    n, m, k = 200, 300, 5
    found = np.array([density_coverage(_x(n, 2, s), _x(m, 2, s + 1000), k=k) for s in range(100, 130)])
    expected = 1 - np.prod([(n - i) / (n + m - i) for i in range(1, k + 1)])
    for values, truth in ((found[:, 0], 1.0), (found[:, 1], expected)):
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))


def test_mode_dropping_costs_recall_and_noise_costs_precision():
    real = np.r_[_x(200, 4), _x(200, 4, 101) + 20]
    one_mode, noisy = _x(200, 4, 102), np.r_[real[::2] + 1e-3, 60 * _x(200, 4, 103)]
    p, r = precision_recall(real, one_mode)
    assert p > 0.9
    assert r < 0.55
    assert density_coverage(real, one_mode).coverage < 0.55
    p, r = precision_recall(real, noisy)
    assert p < 0.65
    assert r > 0.9


def test_an_outlier_among_generated_samples_fools_recall_but_not_coverage():
    far = np.array([[50.0, 0, 0, 0]])
    real, fake = _x(200, 4), np.r_[_x(20, 4, 101) / 100, far, -far]
    assert precision_recall(real, fake).recall > 0.95
    assert density_coverage(real, fake).coverage < 0.3


def test_kernel_distance_agrees_with_torchmetrics_on_whole_samples():
    kid = pytest.importorskip("torchmetrics.image.kid")
    a, b = torch.from_numpy(_x(100)), torch.from_numpy(_x(100, seed=101) + 0.3)
    found = kernel_distance(a, b, subsets=1, subset_size=100)
    assert found.mean == pytest.approx(float(kid.poly_mmd(a, b)), abs=1e-10)
    assert found.std == 0
    found = kernel_distance(a, b, subsets=3, degree=2, gamma=0.1, coef=2.0)
    assert found.mean == pytest.approx(float(kid.poly_mmd(a, b, 2, 0.1, 2.0)), abs=1e-10)


def test_kernel_distance_of_subsets_is_unbiased():
    values = [kernel_distance(_x(60, 3, s), _x(50, 3, s + 1000), subsets=5, subset_size=20) for s in range(100, 300)]
    means = np.array([v.mean for v in values])
    assert abs(means.mean()) < 4 * means.std() / np.sqrt(len(means))
    assert means.min() < 0 < values[0].std
    whole = kernel_distance(_x(400, 3), _x(400, 3, 101) + 1, subsets=1, subset_size=400).mean
    parts = kernel_distance(_x(400, 3), _x(400, 3, 101) + 1, subsets=200, subset_size=100).mean
    assert parts == pytest.approx(whole, rel=0.1)


def test_kernel_distance_is_reproduced_by_its_seed():
    a, b = _x(100), _x(100, seed=101)
    assert kernel_distance(a, b, subset_size=30, seed=7) == kernel_distance(a, b, subset_size=30, seed=7)
    assert kernel_distance(a, b, subset_size=30, seed=7) != kernel_distance(a, b, subset_size=30, seed=8)


def test_scores_name_their_space_and_are_those_of_the_functions():
    space = FeatureSpace("first columns", lambda x: x[:, :3], batch_size=33)
    x, y = torch.from_numpy(_x(100)), torch.from_numpy(_x(90, seed=101) + 0.2)
    a, b = space(x), space(y)
    torch.testing.assert_close(a, x[:, :3])
    scores = generation_scores(a, b, space=space.name)
    assert (scores.space, scores.n_real, scores.n_generated) == ("first columns", 100, 90)
    assert scores.frechet == frechet_distance(a, b)
    assert (scores.precision, scores.recall) == precision_recall(a, b, k=5)
    assert (scores.density, scores.coverage) == density_coverage(a, b)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: frechet_distance(_x(9, 2), _x(9, 3)), "equally many columns, got 2 and 3"),
        (lambda: frechet_distance(_x(1, 2), _x(9, 2)), "at least two samples, got 1 and 9"),
        (lambda: frechet_distance(_x(9, 2) * np.nan, _x(9, 2)), "the first features must be finite, but row 0"),
        (lambda: frechet_distance(_x(9, 2)[0], _x(9, 2)), r"must have 2 dimension\(s\)"),
        (lambda: frechet_distance_infinity(_x(90, 9), _x(20, 9)), "more than 9 real and 49 generated rows"),
        (lambda: precision_recall(_x(9), _x(4), k=4), "below the number of generated samples, 4, got 4"),
        (lambda: density_coverage(_x(5), _x(9), k=5), "below the number of real samples, 5, got 5"),
        (lambda: precision_recall(_x(9), _x(9), k=0), r"k must be in \[1, inf\), got 0"),
        (lambda: kernel_distance(_x(9), _x(5), subset_size=6), "at most the smaller sample, 5 rows, got 6"),
        (lambda: kernel_distance(_x(9), _x(5), gamma=0), r"gamma must be in \(0, inf\)"),
        (lambda: FeatureSpace("flat", lambda x: x.sum())(torch.ones(2, 1)), "zero-dimensional|one row for each"),
        (lambda: FeatureSpace("raw", lambda x: x)(torch.ones(2, 1, 4)), "raw must give one row for each of 2"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises((ValueError, RuntimeError), match=match):
        call()
