from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks as checks
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.subsets import (
    MeanFieldSubsetModel,
    SubsetSelector,
    make_relative_utility_sets,
    make_subset_utility,
    subset_jaccard,
    train_subsets,
)

FAST = {"width": 24, "head_width": 32, "epochs": 12, "batch_size": 32, "lr": 5e-3, "negatives": None, "n_eval": 3}


@pytest.fixture(scope="module")
def data():
    return make_relative_utility_sets(500, seed=100), make_relative_utility_sets(200, seed=101)


@pytest.fixture(scope="module")
def fitted(data):
    train, _ = data
    return SubsetSelector(**FAST, random_state=100).fit(list(train.V.numpy()), list(train.S.numpy()))


def test_it_learns_the_best_points_of_a_cloud(fitted, data):
    _, test = data
    chosen = np.stack(fitted.predict(list(test.V.numpy()), size=3))
    both, either = (chosen & test.S.numpy()).sum(1), (chosen | test.S.numpy()).sum(1)
    # Chance is 0.19; the direction alone, without the place of the cut, needs no size here.
    assert (both / either).mean() > 0.6
    assert fitted.score(list(test.V.numpy()), list(test.S.numpy())) > 0.45


def test_saved_and_loaded_it_says_the_same(fitted, data, tmp_path):
    _, test = data
    sets = [test.V[0].numpy(), test.V[1, :6].numpy()]
    again = SubsetSelector.load(fitted.save(tmp_path / "m.holdfast"))
    for a, b in zip(fitted.predict_proba(sets), again.predict_proba(sets)):
        np.testing.assert_array_equal(a, b)
    assert again.get_params()["width"] == 24


def test_a_fit_is_repeatable_and_a_clone_is_unfitted(fitted, data):
    train, test = data
    options = FAST | {"epochs": 1}
    one, two = (
        SubsetSelector(**options, random_state=100)
        .fit(train.V.numpy(), train.S.numpy())
        .predict_proba(test.V[:3].numpy())
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    assert not hasattr(clone(fitted), "model_")


@pytest.mark.parametrize(
    "check",
    [
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_get_params_invariance,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_set_params,
    ],
)
def test_scikit_learn_conventions_that_know_nothing_of_the_data(check):
    check("SubsetSelector", SubsetSelector(**FAST))


def test_it_is_refused_before_fit():
    with pytest.raises(NotFittedError):
        SubsetSelector().predict([np.zeros((3, 2))])


def test_cross_validation_and_grid_search_take_lists_of_sets(data):
    train, _ = data
    X, y = list(train.V[:60].numpy()), list(train.S[:60].numpy())
    model = SubsetSelector(**(FAST | {"epochs": 1}), random_state=100)
    scores = cross_val_score(model, X, y, cv=2)
    assert ((scores >= 0) & (scores <= 1)).all()
    search = GridSearchCV(model, {"background": ["none", "linear"]}, cv=2).fit(X, y)
    assert set(search.best_params_) == {"background"}
    assert len(search.predict(X[:2])) == 2


def test_sets_of_different_sizes_and_the_order_of_elements(fitted, data):
    _, test = data
    sizes = (4, 10, 7)
    sets = [test.V[i, :n].numpy() for i, n in enumerate(sizes)]
    assert [len(m) for m in fitted.predict(sets)] == list(sizes)
    assert [int(m.sum()) for m in fitted.predict(sets, size=np.array([1, 3, 2]))] == [1, 3, 2]
    assert [len(m) for m in fitted.predict(sets, rule="threshold")] == list(sizes)


def test_items_of_a_catalogue_are_learned_by_their_number():
    # Items 0..9 and 10..19 are two families; the best subset is the smaller family in the set.
    rng = np.random.default_rng(100)
    X, y = [], []
    for _ in range(400):
        few, many = rng.permutation(10)[:3], rng.permutation(10)[:6]
        items = np.concatenate([few, many + 10]) if rng.random() < 0.5 else np.concatenate([few + 10, many])
        X.append(items)
        y.append(np.arange(9) < 3)
    model = SubsetSelector(**FAST, random_state=100).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.9
    with pytest.raises(ValueError, match=r"item that is not among 0\.\.19"):
        model.predict([np.array([3, 20])])


@pytest.mark.parametrize("mode", ["ind", "copula"])
def test_recognition_modes_fit_and_save(mode, data, tmp_path):
    train, test = data
    options = FAST | {"epochs": 2}
    model = SubsetSelector(mode=mode, **options, random_state=100).fit(train.V.numpy(), train.S.numpy())
    again = SubsetSelector.load(model.save(tmp_path / "m.holdfast"))
    np.testing.assert_array_equal(again.predict_proba(test.V[:2].numpy()), model.predict_proba(test.V[:2].numpy()))


def test_a_backbone_of_your_own_reads_elements_of_any_shape(tmp_path):
    X = torch.randn(40, 5, 1, 4, 4, generator=generator(100)).numpy()
    y = X.mean((2, 3, 4)).argsort(1).argsort(1) >= 3
    body = nn.Sequential(nn.Flatten(2), nn.Linear(16, 24))
    model = SubsetSelector(backbone=body, **(FAST | {"epochs": 1}), random_state=100).fit(X, y)
    path = model.save(tmp_path / "m.holdfast")
    with pytest.raises(ValueError, match="your own backbone Sequential"):
        SubsetSelector.load(path)
    from holdfast.core.saving import load

    np.testing.assert_array_equal(load(path, backbone=body).predict_proba(X[:2]), model.predict_proba(X[:2]))
    with pytest.raises(ValueError, match="give a backbone"):
        SubsetSelector().fit(X, y)


def test_sums_far_from_the_sizes_of_training_are_warned_about(fitted):
    with pytest.warns(UserWarning, match="use pool='mean'"):
        fitted.predict([np.zeros((60, 2), dtype=np.float32)])


def test_training_lowers_the_loss_of_every_mode_of_background():
    data = make_relative_utility_sets(300, seed=100)
    for background in ("none", "concat", "attention"):
        with isolated_rng(100):
            phi = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16))
            model = MeanFieldSubsetModel(make_subset_utility(phi, 16, background=background, head_width=32))
        before = float(subset_jaccard(model, data).mean())
        train_subsets(model, data, steps=150, batch_size=32, lr=5e-3, device="cpu")
        assert float(subset_jaccard(model, data).mean()) > before + 0.15


def test_bad_sets_are_refused(fitted):
    with pytest.raises(ValueError, match=r"elements of ground set 1 must have shape \(2,\), got \(3,\)"):
        fitted.predict([np.zeros((4, 2)), np.zeros((4, 3))])
    with pytest.raises(ValueError, match="ground set 0 must be finite"):
        fitted.predict([np.full((4, 2), np.nan)])
    with pytest.raises(ValueError, match="size must be in"):
        fitted.predict([np.zeros((4, 2))], size=5)
    with pytest.raises(ValueError, match="has no elements"):
        fitted.predict([np.zeros((0, 2))])
    with pytest.raises(ValueError, match="teaches nothing"):
        SubsetSelector().fit([np.zeros((4, 2))], [np.ones(4, dtype=bool)])
    with pytest.raises(ValueError, match="non-negative"):
        SubsetSelector().fit([np.array([-1, 2])], [[True, False]])
    with pytest.raises(ValueError, match="lengths differ"):
        SubsetSelector().fit([np.zeros((4, 2))], [])
