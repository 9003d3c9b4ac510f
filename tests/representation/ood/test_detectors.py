import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.distance import mahalanobis
from scipy.special import logsumexp, softmax
from scipy.stats import chi2, kstest
from sklearn.neighbors import NearestNeighbors

from holdfast.metrics.detection import ood_metrics
from holdfast.metrics.gaussian import ClassGroupGaussians, aggregate_mahalanobis
from holdfast.representation.ood import (
    DETECTORS,
    KNN,
    MSP,
    Energy,
    GroupedGaussian,
    Mahalanobis,
    MaxLogit,
    OODDetector,
    ViM,
)


def world(n=400, d=12, c=3, seed=100):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    means, weight = 4 * rng.normal(size=(c, d)), rng.normal(size=(d, c))
    x = means[y] + rng.normal(size=(n, d))
    return x, y, x @ weight + rng.normal(size=c)


def make(name):
    return DETECTORS[name](n_groups=3) if name == "grouped-gaussian" else DETECTORS[name]()


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_scores_do_not_depend_on_the_company_and_survive_saving(name, tmp_path):
    x, y, z = world()
    detector = make(name).fit(x, y, z)
    scores = detector.score(x, z)
    assert scores.shape == (400,)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(detector.score(x[7:9], z[7:9]), scores[7:9], atol=1e-9)
    loaded = OODDetector.load(detector.save(tmp_path / "deep" / "d.safetensors"))
    assert loaded == detector
    np.testing.assert_allclose(loaded.score(x, z), scores, atol=0)


@pytest.mark.parametrize("name", ["mahalanobis", "knn", "vim", "grouped-gaussian"])
def test_features_far_from_training_score_higher(name):
    x, y, z = world()
    detector = make(name).fit(x, y, z)
    far = 12 * np.random.default_rng(101).normal(size=x.shape)
    assert ood_metrics(detector.score(x, z), detector.score(far, z))["auroc"] > 0.95


def test_logit_scores_are_their_formulas():
    _, _, z = world()
    np.testing.assert_allclose(MSP().fit(logits=z).score(logits=z), -softmax(z, 1).max(1))
    np.testing.assert_allclose(MaxLogit().fit(logits=z).score(logits=z), -z.max(1))
    energy = Energy(temperature=2.5).fit(logits=z).score(logits=z)
    np.testing.assert_allclose(energy, -2.5 * logsumexp(z / 2.5, 1))
    cold = Energy(temperature=1e-4).fit(logits=z).score(logits=z)
    np.testing.assert_allclose(cold, -z.max(1), atol=1e-3)


def test_tied_mahalanobis_is_scipys_to_the_nearest_mean():
    x, y, _ = world()
    ours = Mahalanobis(shrinkage="none").fit(x, y).score(x[:30])
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    residual = x - means[y]
    precision = np.linalg.inv(residual.T @ residual / (len(x) - 3))
    expected = [min(mahalanobis(v, m, precision) ** 2 for m in means) for v in x[:30]]
    np.testing.assert_allclose(ours, expected)


def test_neighbour_distance_is_scikit_learns_on_unit_features():
    x = world()[0]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = NearestNeighbors(n_neighbors=20).fit(unit).kneighbors(unit[:50])[0][:, -1]
    np.testing.assert_allclose(KNN(k=20).fit(x).score(3 * x[:50]), expected, atol=1e-7)


def test_vim_is_its_definition_with_the_true_last_layer():
    rng = np.random.default_rng(100)
    x, weight, bias = rng.normal(size=(300, 8)) * np.arange(1, 9), rng.normal(size=(8, 4)), rng.normal(size=4)
    z = x @ weight + bias
    origin = -np.linalg.pinv(weight.T) @ bias
    centred = x - origin
    vectors = np.linalg.eigh(centred.T @ centred)[1]
    residual = np.linalg.norm(centred @ vectors[:, :5], axis=1)
    expected = z.max(1).sum() / residual.sum() * residual - logsumexp(z, 1)
    np.testing.assert_allclose(ViM(n_components=3).fit(x, logits=z).score(x, z), expected, atol=1e-7)


def test_grouped_score_is_the_minimum_over_classes_of_weighted_half_distances():
    x, y, _ = world()
    groups = x.reshape(400, 3, 4)
    weights = np.random.default_rng(101).dirichlet(np.ones(3), size=3)
    detector = GroupedGaussian(n_groups=3).fit(x, y, weights=weights)
    brute = np.empty(25)
    for i in range(25):
        totals = []
        for c in range(3):
            total = 0.0
            for k in range(3):
                block = groups[y == c, k]
                precision = np.linalg.inv(np.cov(block.T))
                total += weights[c, k] * 0.5 * mahalanobis(groups[i, k], block.mean(0), precision) ** 2
            totals.append(total)
        brute[i] = min(totals)
    np.testing.assert_allclose(detector.score(x[:25]), brute, atol=1e-10)
    np.testing.assert_allclose(detector.score(groups.reshape(400, 12)[:25]), brute, atol=1e-10)
    np.testing.assert_allclose(
        GroupedGaussian(n_groups=3).fit(groups, y, weights=weights).score(groups[:25]), brute, atol=1e-10
    )


def test_one_group_is_half_scipys_squared_mahalanobis_distance():
    x, y, _ = world()
    detector = GroupedGaussian(n_groups=1).fit(x, y * 0, weights=[[1.0]])
    precision = np.linalg.inv(np.cov(x.T))
    expected = [mahalanobis(v, x.mean(0), precision) ** 2 / 2 for v in x[:20]]
    np.testing.assert_allclose(detector.score(x[:20]), expected)


def test_one_hot_weights_leave_one_groups_distance():
    x, y, _ = world()
    model = ClassGroupGaussians().fit(x.reshape(400, 3, 4), y)
    one = GroupedGaussian(n_groups=3).fit(x, y, weights=np.eye(3)[[2, 2, 2]])
    np.testing.assert_allclose(one.score(x), 0.5 * model.mahalanobis(x.reshape(400, 3, 4))[:, :, 2].amin(1).numpy())


def test_twice_the_unweighted_score_of_gaussian_data_is_chi_squared():
    rng = np.random.default_rng(100)
    k, d = 3, 4
    mixing = rng.normal(size=(k, d, d))
    fit = np.einsum("nki,kij->nkj", rng.normal(size=(200_000, k, d)), mixing)
    test = np.einsum("nki,kij->nkj", rng.normal(size=(5_000, k, d)), mixing)
    detector = GroupedGaussian(n_groups=k).fit(fit, np.zeros(len(fit), dtype=int), weights=np.ones((1, k)))
    assert kstest(2 * detector.score(test), chi2(k * d).cdf).pvalue > 0.01


def test_score_is_invariant_under_affine_maps_of_each_group():
    x, y, _ = world()
    rng = np.random.default_rng(101)
    maps, shift = rng.normal(size=(3, 4, 4)), rng.normal(size=(3, 4))
    moved = np.einsum("nki,kij->nkj", x.reshape(400, 3, 4), maps) + shift
    before = GroupedGaussian(n_groups=3).fit(x, y).score(x)
    np.testing.assert_allclose(GroupedGaussian(n_groups=3).fit(moved, y).score(moved), before, atol=1e-6)


def test_mixture_and_product_scores_are_their_log_densities():
    x, y, _ = world()
    groups, weights = x.reshape(400, 3, 4), np.random.default_rng(101).dirichlet(np.ones(3), size=3)
    log_p = ClassGroupGaussians().fit(groups, y).log_prob(groups).numpy()
    mixture = GroupedGaussian(n_groups=3, aggregate="mixture").fit(x, y, weights=weights).score(x)
    np.testing.assert_allclose(mixture, -logsumexp(log_p + np.log(weights / 3), axis=(1, 2)))
    product = GroupedGaussian(n_groups=3, aggregate="product").fit(x, y).score(x)
    np.testing.assert_allclose(product, -logsumexp(log_p.sum(2), axis=1) + np.log(3))


def test_soft_minimum_is_never_above_the_minimum():
    distance = torch.rand(50, 4, 3, generator=torch.Generator().manual_seed(100))
    weights = torch.full((4, 3), 1 / 3)
    assert bool(
        (aggregate_mahalanobis(distance, weights, "logsumexp") <= aggregate_mahalanobis(distance, weights)).all()
    )


def test_swapping_inside_and_outside_mirrors_auroc():
    rng = np.random.default_rng(100)
    a, b = rng.normal(size=100), rng.normal(size=80) + 1
    assert ood_metrics(a, b)["auroc"] == pytest.approx(1 - ood_metrics(b, a)["auroc"])


X, Y, Z = world()


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "needs features", lambda: KNN().fit(labels=Y)),
        (ValueError, "needs labels", lambda: Mahalanobis().fit(X)),
        (ValueError, "needs logits", lambda: MSP().fit(X, Y)),
        (ValueError, "differ in length", lambda: Mahalanobis().fit(X, Y[:-1])),
        (ValueError, "differ in length", lambda: ViM().fit(X, logits=Z[:-1])),
        (ValueError, "finite", lambda: KNN().fit(X * np.nan)),
        (ValueError, "at least 50", lambda: KNN().fit(X[:10])),
        (ValueError, "k must", lambda: KNN(k=0)),
        (ValueError, "temperature", lambda: Energy(temperature=0)),
        (ValueError, "aggregate", lambda: GroupedGaussian(aggregate="sum")),
        (ValueError, "do not divide", lambda: GroupedGaussian(n_groups=5).fit(X, Y)),
        (ValueError, "must have 3 groups", lambda: GroupedGaussian(n_groups=3).fit(X.reshape(-1, 4, 3), Y)),
        (ValueError, "weights", lambda: GroupedGaussian(n_groups=3).fit(X, Y, weights=np.ones((3, 2)))),
        (ValueError, "ledoit_wolf", lambda: GroupedGaussian().fit(X[:20], Y[:20])),
        (ValueError, "singular", lambda: GroupedGaussian().fit(np.repeat(X[:, :6], 2, axis=1), Y)),
        (ValueError, "no samples", lambda: GroupedGaussian().fit(X, Y * 2)),
        (ValueError, r"\[0, ", lambda: GroupedGaussian().fit(X, Y - 1)),
        (TypeError, "integer", lambda: Mahalanobis().fit(X, Y.astype(float))),
        (ValueError, "as fitted", lambda: KNN().fit(X).score(X[:, :5])),
        (ValueError, "at least one row", lambda: KNN().fit(X).score(X[:0])),
        (ValueError, "finite", lambda: KNN().fit(X).score(X / 0)),
        (ValueError, "below the 12 features", lambda: ViM(n_components=12).fit(X, logits=Z)),
        (RuntimeError, "not fitted", lambda: KNN().score(X)),
        (ValueError, "finite", lambda: ood_metrics([0.0, np.nan], [1.0])),
        (ValueError, "empty", lambda: ood_metrics([0.0], [])),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input_is_refused_by_name(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_files_that_hold_no_detector_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no detector file"):
        OODDetector.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a readable detector"):
        OODDetector.load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not of a detector"):
        OODDetector.load(tmp_path / "other")
    save_file({"a": torch.zeros(1)}, tmp_path / "new", metadata={"holdfast.ood": "9", "about": "{}"})
    with pytest.raises(ValueError, match="format 9"):
        OODDetector.load(tmp_path / "new")
    about = '{"detector": "Evil", "settings": {}, "shape": null}'
    save_file({"fitted": torch.zeros(1)}, tmp_path / "evil", metadata={"holdfast.ood": "1", "about": about})
    with pytest.raises(ValueError, match="none of"):
        OODDetector.load(tmp_path / "evil")
    whole = KNN().fit(X).save(tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable detector"):
        OODDetector.load(tmp_path / "cut")
