from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.saving import load
from holdfast.representation.matryoshka_classifier import MatryoshkaClassifier

X, Y = load_digits(return_X_y=True)
X, X_TEST, Y, Y_TEST = train_test_split(X, Y, test_size=0.4, stratify=Y, random_state=0)
NAMES = np.array([f"digit {i}" for i in range(10)])
OPTIONS = {"dims": (4, 8, 16), "epochs": 20, "lr": 1e-2, "size": "tiny", "random_state": 0}


@pytest.fixture(scope="module")
def model() -> MatryoshkaClassifier:
    return MatryoshkaClassifier(validation_fraction=0.2, **OPTIONS).fit(X, NAMES[Y])


@parametrize_with_checks([MatryoshkaClassifier(epochs=40, lr=1e-2, size="tiny", random_state=0)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_prefixes_of_the_representation_classify(model: MatryoshkaClassifier) -> None:
    z = model.transform(X_TEST)
    assert z.shape == (len(X_TEST), 16)
    assert np.array_equal(model.predict_at(X_TEST, 16), model.predict(X_TEST))
    accuracy = {m: np.mean(model.predict_at(X_TEST, m) == NAMES[Y_TEST]) for m in (4, 8, 16)}
    assert accuracy[16] > 0.9
    assert accuracy[8] > 0.85
    assert accuracy[4] > 0.6


def test_probabilities_at_a_length_are_those_of_the_truncated_head(model: MatryoshkaClassifier) -> None:
    z = torch.from_numpy(model.transform(X_TEST))
    layer = model.network_.head.truncate(8)
    with torch.no_grad():
        expected = layer(z[:, :8]).softmax(1)
    np.testing.assert_allclose(model.predict_proba_at(X_TEST, 8), expected.numpy(), atol=1e-6)


def test_adaptive_prediction_spends_less_and_loses_little(model: MatryoshkaClassifier) -> None:
    labels, lengths = model.predict_adaptive(X_TEST)
    assert set(np.unique(lengths)) <= {4, 8, 16}
    assert lengths.mean() < 16
    full = np.mean(model.predict(X_TEST) == NAMES[Y_TEST])
    assert np.mean(labels == NAMES[Y_TEST]) > full - 0.05


def test_cascade_can_be_fitted_on_other_held_out_data(model: MatryoshkaClassifier) -> None:
    fitted = MatryoshkaClassifier(**OPTIONS).fit(X, NAMES[Y])
    with pytest.raises(ValueError, match="no cascade was fitted"):
        fitted.predict_adaptive(X_TEST)
    labels, lengths = fitted.fit_cascade(X_TEST, NAMES[Y_TEST]).predict_adaptive(X_TEST)
    assert labels.shape == lengths.shape == (len(X_TEST),)
    with pytest.raises(ValueError, match="not seen in training: 'other'"):
        fitted.fit_cascade(X_TEST[:1], ["other"])


def test_saved_model_predicts_the_same_at_every_length(model: MatryoshkaClassifier, tmp_path: Path) -> None:
    again = load(model.save(tmp_path / "model"))
    assert again.dims_ == model.dims_
    for m in model.dims_:
        np.testing.assert_array_equal(again.predict_proba_at(X_TEST, m), model.predict_proba_at(X_TEST, m))
    assert all(np.array_equal(a, b) for a, b in zip(again.predict_adaptive(X_TEST), model.predict_adaptive(X_TEST)))


def test_default_lengths_double_up_to_the_backbone_width() -> None:
    fitted = MatryoshkaClassifier(size="tiny", steps=2, random_state=0).fit(X, Y)
    width = fitted.context_.width
    assert fitted.dims_[-1] == width
    assert fitted.transform(X_TEST).shape[1] == width


def test_tied_heads_answer_at_lengths_between() -> None:
    fitted = MatryoshkaClassifier(efficient=True, **OPTIONS).fit(X, Y)
    assert np.mean(fitted.predict_at(X_TEST, 11) == Y_TEST) > 0.8


def test_wrong_lengths_and_weights_are_refused(model: MatryoshkaClassifier) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        MatryoshkaClassifier(dims=(8, 4)).fit(X, Y)
    with pytest.raises(ValueError, match="weights must hold one value per length: 2, got 1"):
        MatryoshkaClassifier(dims=(4, 8), length_weights=(1.0,)).fit(X, Y)
    with pytest.raises(ValueError, match=r"trained lengths \[4, 8, 16\]"):
        model.predict_at(X_TEST, 5)
