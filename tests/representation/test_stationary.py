from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.saving import load
from holdfast.nn.simplex import simplex_vertices
from holdfast.representation.compatibility_matrix import CompatibilityMatrix
from holdfast.representation.stationary import StationaryClassifier

OPTIONS = {"n_preallocated": 16, "epochs": 15, "size": "tiny", "lr": 5e-3, "random_state": 0}


@parametrize_with_checks([StationaryClassifier(**(OPTIONS | {"epochs": 40, "lr": 1e-2}))])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def _data(n=300, classes=4, seed=100):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(10, 6)) * 2
    y = np.arange(n) % classes
    return (centres[y] + 0.6 * rng.normal(size=(n, 6))).astype(np.float32), np.array(list("abcdefghij"))[y]


@pytest.fixture(scope="module")
def old():
    return StationaryClassifier(**OPTIONS).fit(*_data())


def test_features_point_to_the_fixed_prototypes_of_their_classes(old):
    x, y = _data(seed=101)
    f = torch.from_numpy(old.transform(x))
    w = simplex_vertices(16).flip(0)
    nearest = (torch.nn.functional.normalize(f, dim=1) @ w[:4].T).argmax(1).numpy()
    assert (old.classes_[nearest] == y).mean() > 0.9
    assert (old.predict(x) == y).mean() > 0.9
    assert f.shape == (300, 15)


def test_the_table_is_not_trained_and_is_the_same_for_every_fit(old):
    other = StationaryClassifier(**(OPTIONS | {"random_state": 3, "epochs": 1})).fit(*_data(classes=6))
    assert other.contract_ == old.contract_
    assert torch.equal(old.network_.head.table.vertices, simplex_vertices(16))


def test_an_update_keeps_prototypes_and_answers_from_the_old_gallery(old):
    x, y = _data(classes=6)
    # An earlier letter is added too: the order of names must not move the known classes.
    y = np.where(y == "f", "A", y)
    new = StationaryClassifier(reference=old, **OPTIONS).fit(x, y)
    assert new.known_classes_ == {"a": 0, "b": 1, "c": 2, "d": 3, "A": 4, "e": 5}
    fresh = StationaryClassifier(**(OPTIONS | {"random_state": 9})).fit(x, y)
    test, labels = _data(seed=103)
    codes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    g, q = slice(0, 150), slice(150, 300)

    def cross(model):
        f = [torch.from_numpy(m.transform(test)) for m in (old, model)]
        c = CompatibilityMatrix.from_embeddings([z[q] for z in f], [z[g] for z in f], codes[q], codes[g])
        return c.values[1, 0]

    def agreement(model):
        f = [torch.from_numpy(m.transform(test)) for m in (old, model)]
        return float(torch.nn.functional.cosine_similarity(*f).mean())

    assert cross(new) > 0.9
    assert agreement(new) > agreement(fresh) + 0.1


def test_a_saved_reference_is_as_good_as_the_model_itself(old, tmp_path):
    path = old.save(tmp_path / "v1")
    a = StationaryClassifier(reference=old, **(OPTIONS | {"epochs": 2})).fit(*_data())
    b = StationaryClassifier(reference=str(path), **(OPTIONS | {"epochs": 2})).fit(*_data())
    x, _ = _data(seed=101)
    np.testing.assert_array_equal(a.transform(x), b.transform(x))
    for model in (a, b):
        again = load(model.save(tmp_path / f"v2-{model is a}"))
        np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
        assert again.known_classes_ == model.known_classes_
        assert again.contract_ == model.contract_


def test_classes_that_rest_keep_their_slot_for_later_versions(old):
    x, y = _data()
    two = StationaryClassifier(reference=old, **(OPTIONS | {"epochs": 1})).fit(x[y >= "c"], y[y >= "c"])
    assert two.slots_.tolist() == [2, 3]
    three = StationaryClassifier(reference=two, **(OPTIONS | {"epochs": 1})).fit(*_data(classes=5))
    assert three.slots_.tolist() == [0, 1, 2, 3, 4]


def test_bad_references_and_tables_are_named(old):
    x, y = _data()
    with pytest.raises(ValueError, match=r"new model's table and the reference's table .* of size 12 and 16"):
        StationaryClassifier(reference=old, **(OPTIONS | {"n_preallocated": 12})).fit(x, y)
    with pytest.raises(TypeError, match="reference must be a fitted StationaryClassifier or the path of one, got int"):
        StationaryClassifier(reference=3, **OPTIONS).fit(x, y)
    with pytest.raises(ValueError, match="there are 4, the table has 3 rows"):
        StationaryClassifier(**(OPTIONS | {"n_preallocated": 3})).fit(x, y)
    with pytest.raises(ValueError, match="weights do not fit this model's backbone"):
        StationaryClassifier(reference=old, **(OPTIONS | {"size": "small"})).fit(x, y)
    larger = StationaryClassifier(reference=old, fine_tune=False, **(OPTIONS | {"size": "small", "epochs": 1}))
    assert larger.fit(x, y).slots_.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"compatibility must be in \[0, 1\], got 2"):
        StationaryClassifier(**(OPTIONS | {"compatibility": 2})).fit(x, y)
