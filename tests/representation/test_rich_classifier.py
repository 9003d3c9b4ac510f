from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from holdfast.core.saving import load
from holdfast.representation.rich_classifier import RichClassifier

X, Y = load_digits(return_X_y=True)
X, X_TEST, Y, Y_TEST = train_test_split(X, Y, test_size=0.4, stratify=Y, random_state=0)
OPTIONS = {"n_episodes": 3, "epochs": 8, "lr": 1e-2, "size": "tiny", "random_state": 0}


@pytest.fixture(scope="module", params=[False, True], ids=["concatenated", "distilled"])
def model(request: pytest.FixtureRequest) -> RichClassifier:
    return RichClassifier(distill=request.param, **OPTIONS).fit(X, Y)


@parametrize_with_checks(
    [
        RichClassifier(n_episodes=2, epochs=20, lr=1e-2, size="tiny", random_state=0),
        RichClassifier(n_episodes=2, distill=True, distill_steps=60, epochs=20, lr=1e-2, size="tiny", random_state=0),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_representation_is_as_wide_as_its_episodes_or_as_one_network(model: RichClassifier) -> None:
    width = model.context_.width
    assert model.transform(X_TEST).shape == (len(X_TEST), width if model.distill else 3 * width)
    assert model.score(X_TEST, Y_TEST) > 0.9


def test_episodes_differ_and_stay_frozen(model: RichClassifier) -> None:
    members = model.network_.encoder.members
    assert not any(p.requires_grad for p in model.network_.parameters())
    if not model.distill:
        z = torch.from_numpy(model.transform(X_TEST)).split(model.context_.width, dim=1)
        assert len(z) == len(members) == 3
        assert not torch.allclose(z[0], z[1])


def test_same_seed_gives_the_same_model(model: RichClassifier) -> None:
    again = RichClassifier(distill=model.distill, **OPTIONS).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X_TEST), model.predict_proba(X_TEST))


def test_linear_layer_is_the_tuned_probe_on_the_representation(model: RichClassifier) -> None:
    expected = model.probe_.predict_proba(model.transform(X_TEST))
    np.testing.assert_allclose(model.predict_proba(X_TEST), expected, atol=1e-4)


def test_saved_model_predicts_the_same(model: RichClassifier, tmp_path: Path) -> None:
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X_TEST), model.predict_proba(X_TEST))
    np.testing.assert_array_equal(again.transform(X_TEST), model.transform(X_TEST))


def test_exported_model_predicts_the_same(model: RichClassifier, tmp_path: Path) -> None:
    path = model.export(tmp_path / "model.pt2")
    program = torch.export.load(path).module()
    x = torch.from_numpy(X_TEST.astype(np.float32))
    np.testing.assert_allclose(program(x).detach().numpy(), model.predict_proba(X_TEST), atol=1e-5)


def test_a_backbone_of_ones_own_serves_every_episode() -> None:
    backbone = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
    fitted = RichClassifier(backbone=backbone, n_episodes=2, epochs=5, lr=1e-2, random_state=0).fit(X, Y)
    assert fitted.transform(X_TEST).shape[1] == 24


def test_classes_too_small_to_hold_out_still_fit() -> None:
    x, y = X[:40], np.repeat([0, 1], [38, 2])
    assert RichClassifier(n_episodes=2, steps=3, size="tiny", random_state=0).fit(x, y).predict(x).shape == (40,)


@pytest.mark.parametrize(
    ("options", "message"), [({"n_episodes": 0}, "n_episodes"), ({"temperature": 0.0}, "temperature")]
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RichClassifier(**options).fit(X, Y)
