"""The category model as a classifier and as a detector of what it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.saving import load
from holdfast.metrics.calibration import expected_calibration_error
from holdfast.metrics.detection import ood_metrics
from holdfast.representation.category_model import CategoryModel

FAST = {"epochs": 40, "lr": 1e-2, "size": "tiny", "random_state": 100}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a class has fewer than 2 samples")
@parametrize_with_checks([CategoryModel(**FAST)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def world(n=400, d=6, seed=100, spread=1.0):
    rng = np.random.default_rng(seed)
    centers = 4 * np.random.default_rng(1).normal(size=(4, d))
    y = np.arange(n) % 4
    return centers[y] + spread * rng.normal(size=(n, d)), np.array(["a", "b", "c", "d"])[y]


@pytest.fixture(scope="module")
def fitted():
    return CategoryModel(validation_fraction=0.25, **FAST).fit(*world())


def test_prediction_is_the_most_similar_centre(fitted):
    x, y = world(seed=101)
    assert fitted.score(x, y) > 0.9
    q = torch.from_numpy(fitted.transform(x)).unflatten(1, (8, 8))
    expected = fitted.classes_[fitted.network_.head.loss.predict(q).numpy()]
    assert (fitted.predict(x) == expected).all()


def test_representation_is_groups_of_cosines(fitted):
    q = fitted.transform(world(seed=101)[0])
    assert q.shape == (400, 64)
    assert np.abs(q).max() <= 1 + 1e-5


def test_score_is_the_density_of_the_representation_and_separates_outliers(fitted):
    x, _ = world(seed=101)
    scores = fitted.score_ood(x)
    np.testing.assert_allclose(scores, fitted.density_.score(fitted.transform(x)))
    other = 4 * np.random.default_rng(102).normal(size=(400, 6))
    assert ood_metrics(scores, fitted.score_ood(other))["auroc"] > 0.8


def test_distrust_is_uniform_on_known_samples(fitted):
    d = fitted.distrust(world(seed=101)[0])
    assert d.min() >= 0
    assert d.max() <= 1
    assert np.mean(d > 0.95) < 0.15
    assert abs(d.mean() - 0.5) < 0.1


def test_probabilities_are_calibrated_on_held_out_rows():
    x, y = world(spread=3.0)
    model = CategoryModel(validation_fraction=0.3, **FAST).fit(x, y)
    x, y = world(n=2000, seed=101, spread=3.0)
    assert expected_calibration_error(y, model.predict_proba(x), classes=model.classes_) < 0.1


def test_training_without_mistakes_still_gives_finite_confidence():
    x, y = world(spread=0.1)
    p = CategoryModel(**FAST).fit(x, y).predict_proba(x)
    assert p.max() < 0.9999


def test_saved_model_predicts_scores_and_distrusts_alike(fitted, tmp_path):
    x, _ = world(seed=101)
    loaded = load(fitted.save(tmp_path / "m"))
    for name in ("predict_proba", "score_ood", "distrust", "transform"):
        np.testing.assert_allclose(getattr(loaded, name)(x), getattr(fitted, name)(x), rtol=1e-5, atol=1e-6)


class _EqualCentres(CategoryModel):
    def _make_network(self, encoder, context):
        network = super()._make_network(encoder, context)
        centers = network.head.loss.centers
        centers.data.copy_(centers.data[:1].expand_as(centers).clone())
        return network


def test_collapse_of_the_centres_is_reported():
    with pytest.warns(UserWarning, match=r"collapsed onto one \(mean cosine 1\.00\)"):
        _EqualCentres(train_centers=False, **(FAST | {"epochs": 2})).fit(*world())


def test_a_class_of_one_sample_gives_no_densities():
    x, y = world()
    y = np.where(np.arange(400) == 7, "z", y)
    with pytest.warns(UserWarning, match="fewer than 2 samples"):
        model = CategoryModel(**(FAST | {"epochs": 2})).fit(x, y)
    with pytest.raises(ValueError, match="no densities"):
        model.score_ood(x)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("n_groups", {"n_groups": 0}),
        ("group_dim", {"group_dim": 1}),
        ("alpha", {"alpha": -1.0}),
        ("gamma", {"gamma": 2.0}),
        ("mlp_layers", {"mlp_layers": 2}),
        ("aggregate", {"aggregate": "sum"}),
        ("shrinkage", {"shrinkage": "some"}),
    ],
)
def test_bad_settings_are_refused_at_fit(match, options):
    with pytest.raises(ValueError, match=match):
        CategoryModel(**(FAST | {"epochs": 1} | options)).fit(*world())
