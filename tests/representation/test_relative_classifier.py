from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.saving import load
from holdfast.representation.relative_classifier import RelativeClassifier

OPTIONS = {"n_anchors": 30, "epochs": 15, "size": "tiny", "lr": 5e-3, "random_state": 0}


@parametrize_with_checks([RelativeClassifier(epochs=40, lr=1e-2, size="tiny", random_state=0)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def _data(n=300, seed=100):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(3, 6)) * 2
    y = np.arange(n) % 3
    return (centres[y] + 0.6 * rng.normal(size=(n, 6))).astype(np.float32), np.array(["u", "v", "w"])[y]


@pytest.fixture(scope="module")
def model():
    return RelativeClassifier(**OPTIONS).fit(*_data())


def test_it_classifies_and_its_representation_is_normalised_similarities(model):
    x, y = _data(seed=101)
    assert (model.predict(x) == y).mean() > 0.9
    r = model.transform(x)
    assert r.shape == (300, 30)
    raw = model.network_.encoder.relative(model.input_.encode(x)).detach().numpy()
    assert np.abs(raw).max() <= 1 + 1e-6


def test_fits_share_anchors_across_seeds_and_can_be_joined_without_training(model, tmp_path):
    other = RelativeClassifier(**(OPTIONS | {"random_state": 5})).fit(*_data())
    assert other.contract_ == model.contract_
    x, y = _data(seed=101)
    joined = model.stitched(other)
    assert (joined.predict(x) == y).mean() > 0.85
    np.testing.assert_array_equal(model.stitched(model).predict_proba(x), model.predict_proba(x))
    again = load(joined.save(tmp_path / "joined"))
    np.testing.assert_array_equal(again.predict_proba(x), joined.predict_proba(x))


def test_other_anchors_cannot_be_joined(model):
    other = RelativeClassifier(**(OPTIONS | {"anchor_seed": 1, "epochs": 1})).fit(*_data())
    with pytest.raises(ValueError, match=r"anchors cannot be used together: .* digests are"):
        model.stitched(other)
    fewer = RelativeClassifier(**(OPTIONS | {"n_anchors": 12, "epochs": 1})).fit(*_data())
    with pytest.raises(ValueError, match="of size 30 and 12"):
        model.stitched(fewer)


def test_saving_keeps_anchors_and_predictions(model, tmp_path):
    again = load(model.save(tmp_path / "model"))
    x, _ = _data(seed=101)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.contract_ == model.contract_
    np.testing.assert_array_equal(again.anchor_indices_, model.anchor_indices_)


def test_exported_program_agrees(model, tmp_path):
    import torch

    x, _ = _data(n=8, seed=101)
    path = model.export(tmp_path / "model.pt2")
    served = torch.export.load(path).module()(torch.from_numpy(x))
    np.testing.assert_allclose(served.detach().numpy(), model.predict_proba(x), atol=1e-5)


def _texts(n=60):
    words = {"u": "apple pear fruit", "v": "bolt screw nut"}
    y = np.array(["u", "v"])[np.arange(n) % 2]
    return [f"{words[c]} number {i % 7}" for i, c in enumerate(y)], y


def _sets(n=60):
    rng = np.random.default_rng(100)
    y = np.arange(n) % 2
    return [rng.normal(size=(3 + i % 4, 2)).astype(np.float32) + 3 * c for i, c in enumerate(y)], y


def _graphs(n=40):
    import torch

    data = pytest.importorskip("torch_geometric.data")
    y = np.arange(n) % 2
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    g = torch.Generator().manual_seed(0)
    return [data.Data(x=torch.randn(3, 4, generator=g) + 3 * int(c), edge_index=edges) for c in y], y


@pytest.mark.parametrize("make", [_texts, _sets, _graphs], ids=["texts", "sets", "graphs"])
def test_anchors_of_every_kind_of_input_are_saved_with_the_model(make, tmp_path):
    x, y = make()
    model = RelativeClassifier(**(OPTIONS | {"n_anchors": 8})).fit(x, y)
    assert (model.predict(x) == y).mean() > 0.9
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.contract_ == model.contract_


def test_anchor_numbers_are_checked():
    x, y = _data(60)
    with pytest.raises(ValueError, match="k=61 anchors cannot be drawn from 60 samples"):
        RelativeClassifier(**(OPTIONS | {"n_anchors": 61})).fit(x, y)
    with pytest.raises(ValueError, match="positive multiple of the 3 classes, got k=10"):
        RelativeClassifier(**(OPTIONS | {"n_anchors": 10, "anchor_method": "stratified"})).fit(x, y)
    model = RelativeClassifier(**(OPTIONS | {"n_anchors": None, "anchor_method": "stratified", "epochs": 1})).fit(x, y)
    assert np.unique(y[model.anchor_indices_], return_counts=True)[1].tolist() == [20, 20, 20]
