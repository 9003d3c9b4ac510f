import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.representation.probe import LinearProbe


def _blobs(n=150, d=5, c=3, seed=100, spread=2.0):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(c), np.arange(c), rng.integers(0, c, n - 2 * c)]
    return rng.normal(size=(n, d)) + spread * rng.normal(size=(c, d))[y], y


def _not_for_cosine(estimator):
    if not estimator.cosine:
        return {}
    return {"check_class_weight_classifiers": "without a bias no weight makes one class win everywhere in a plane"}


@parametrize_with_checks(
    [LinearProbe(), LinearProbe(backend="sklearn", standardize="zscore"), LinearProbe(cosine=True)],
    expected_failed_checks=_not_for_cosine,
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize("c", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 5.0}])
@pytest.mark.parametrize("decay", [1e-3, 1e-1])
def test_both_backends_solve_the_same_problem(c, class_weight, decay):
    x, y = _blobs(c=c)
    probes = [
        LinearProbe(backend=b, weight_decay_grid=(decay,), class_weight=class_weight).fit(x, y)
        for b in ("torch", "sklearn")
    ]
    np.testing.assert_allclose(probes[0].predict_proba(x), probes[1].predict_proba(x), atol=1e-4)


def test_the_gradient_of_the_stated_objective_is_zero_at_the_solution():
    x, y = _blobs()
    probe = LinearProbe(weight_decay_grid=(1e-2,)).fit(x, y)
    z, p = probe.transform(x), probe.predict_proba(x)
    residual = (p - np.eye(3)[y]) / len(y)
    gradient = residual.T @ z + 1e-2 * probe.head_.weight.numpy()
    assert np.abs(gradient).max() < 1e-6
    assert np.abs(residual.sum(0)).max() < 1e-6


def test_agrees_with_a_scaled_logistic_regression_pipeline():
    x, y = _blobs(c=4)
    probe = LinearProbe(standardize="zscore", weight_decay_grid=(1e-2,)).fit(x, y)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (1e-2 * len(y)), tol=1e-8)).fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(x), peer.predict_proba(x), atol=1e-5)


def test_zscore_makes_predictions_invariant_to_shift_and_scale_of_each_feature():
    x, y = _blobs()
    moved = x * np.array([1e-3, 1.0, 50.0, 1e4, 3.0]) + np.array([1e3, -5.0, 0.0, 1e5, 7.0])
    probes = [LinearProbe(standardize="zscore").fit(v, y) for v in (x, moved)]
    np.testing.assert_allclose(probes[0].predict_proba(x), probes[1].predict_proba(moved), atol=1e-5)


def test_batchnorm_equals_the_torch_layer_in_training_mode():
    x, y = _blobs()
    layer = torch.nn.BatchNorm1d(5, affine=False)
    expected = layer(torch.as_tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(LinearProbe(weight_decay_grid=(1.0,)).fit(x, y).transform(x), expected, atol=1e-4)


def test_cosine_ignores_the_length_of_a_feature_vector():
    x, y = _blobs()
    probe = LinearProbe(cosine=True, standardize="none").fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(x), probe.predict_proba(7 * x), atol=1e-10)
    norms = probe.head_.weight.norm(dim=1)
    torch.testing.assert_close(norms, norms[:1].expand(3))
    assert probe.score(x, y) > 0.8


def test_stronger_decay_gives_smaller_weights_down_to_the_class_frequencies():
    x, y = _blobs()
    norms = [float(LinearProbe(weight_decay_grid=(d,)).fit(x, y).head_.weight.norm()) for d in (1e-4, 1e-2, 1, 1e4)]
    assert norms == sorted(norms, reverse=True)
    flat = LinearProbe(weight_decay_grid=(1e6,)).fit(x, y).predict_proba(x)
    np.testing.assert_allclose(flat, np.tile(np.bincount(y) / len(y), (len(y), 1)), atol=1e-3)


def test_the_chosen_decay_is_the_best_of_the_held_out_scores():
    rng = np.random.default_rng(100)
    x, y = _blobs(n=90, spread=0.7)
    x = np.c_[x, rng.normal(size=(90, 60))]  # many useless features: weak decay overfits
    for selection in ("accuracy", "nll"):
        probe = LinearProbe(selection=selection, random_state=100).fit(x, y)
        chosen = probe.validation_[probe.weight_decay_]
        assert len(probe.validation_) == 7
        if selection == "nll":
            assert chosen["nll"] == min(v["nll"] for v in probe.validation_.values())
            assert probe.weight_decay_ >= 1e-2
        else:
            assert chosen["accuracy"] == max(v["accuracy"] for v in probe.validation_.values())


def test_refit_uses_all_data():
    x, y = _blobs()
    tuned = LinearProbe(random_state=100).fit(x, y)
    alone = LinearProbe(weight_decay_grid=(tuned.weight_decay_,)).fit(x, y)
    np.testing.assert_allclose(tuned.predict_proba(x), alone.predict_proba(x), atol=2e-3)


def test_reads_digits_linearly_as_well_as_expected():
    x, y = load_digits(return_X_y=True)
    probe = LinearProbe(random_state=100).fit(x[:1200], y[:1200])
    peer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[:1200], y[:1200])
    assert probe.score(x[1200:], y[1200:]) >= peer.score(x[1200:], y[1200:]) - 0.01


def test_string_labels_and_tensors():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    probe = LinearProbe().fit(torch.as_tensor(x), names[y])
    assert set(probe.predict(torch.as_tensor(x))) == set(names)
    assert probe.score(x, names[y]) > 0.95


def test_same_seed_same_model_and_the_global_state_is_untouched():
    x, y = _blobs()
    before = torch.get_rng_state()
    a, b = (LinearProbe(random_state=100).fit(x, y).predict_proba(x) for _ in range(2))
    assert np.array_equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_works_inside_model_selection():
    x, y = _blobs()
    assert cross_val_score(clone(LinearProbe()), x, y, cv=3).mean() > 0.7
    search = GridSearchCV(LinearProbe(), {"standardize": ["none", "zscore"]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.7


@pytest.mark.parametrize(
    "probe",
    [
        LinearProbe(),
        LinearProbe(cosine=True),
        LinearProbe(class_weight={"a": 3.0}, backend="sklearn", val_fraction=0.3),
    ],
)
def test_saved_probe_predicts_the_same(probe, tmp_path):
    x, y = _blobs()
    probe.fit(x, np.array(["a", "b", "c"])[y]).save(tmp_path / "probe")
    copy = LinearProbe.load(tmp_path / "probe")
    assert np.array_equal(copy.predict_proba(x), probe.predict_proba(x))
    assert np.array_equal(copy.predict(x), probe.predict(x))
    assert copy.validation_ == probe.validation_
    assert copy.get_params() == probe.get_params()


def test_exported_probe_maps_raw_features_to_the_same_probabilities(tmp_path):
    x, y = _blobs()
    probe = LinearProbe().fit(x, y)
    program = torch.export.load(probe.export(tmp_path / "probe")).module()
    np.testing.assert_allclose(program(torch.as_tensor(x)).softmax(1), probe.predict_proba(x), atol=1e-12)


def test_zero_gradient_mode_of_the_caller_does_not_matter():
    x, y = _blobs()
    with torch.no_grad():
        inside = LinearProbe().fit(x, y).predict_proba(x)
    assert np.array_equal(inside, LinearProbe().fit(x, y).predict_proba(x))


def test_probe_refuses_bad_input():
    x, y = _blobs()
    with pytest.raises(ValueError, match="NaN"):
        LinearProbe().fit(np.where(x > 2, np.nan, x), y)
    with pytest.raises(ValueError, match="one class"):
        LinearProbe().fit(x, np.zeros(len(x), int))
    lonely = y.copy()
    lonely[0] = 9
    with pytest.raises(ValueError, match=r"class 9 has 1|class np.int64\(9\) has 1"):
        LinearProbe().fit(x, lonely)
    assert LinearProbe(weight_decay_grid=(1e-2,)).fit(x, lonely).classes_.tolist() == [0, 1, 2, 9]
    with pytest.raises(ValueError, match="without some class"):
        LinearProbe(val_fraction=0.1).fit(x[:12], y[:12])
    with pytest.raises(ValueError, match="weight_decay_grid"):
        LinearProbe(weight_decay_grid=()).fit(x, y)
    with pytest.raises(ValueError, match="weight_decay_grid"):
        LinearProbe(weight_decay_grid=(-1.0,)).fit(x, y)
    with pytest.raises(ValueError, match="val_fraction"):
        LinearProbe(val_fraction=1.0).fit(x, y)
    with pytest.raises(ValueError, match="cosine"):
        LinearProbe(backend="sklearn", cosine=True).fit(x, y)
    with pytest.raises(ValueError, match="standardize"):
        LinearProbe(standardize="whiten").fit(x, y)
    with pytest.raises(ValueError, match="zero after standardisation"):
        LinearProbe(cosine=True, standardize="none").fit(np.r_[np.zeros((1, 5)), x[1:]], y)
    with pytest.raises(ValueError, match="features"):
        LinearProbe().fit(x, y).predict(x[:, :3])
