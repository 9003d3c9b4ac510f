"""The classifier on diffusion features: a learner like the others, on vectors, tables and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.saving import load
from holdfast.core.signature import InputSignature
from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.feature_classifier import DiffusionFeatureClassifier
from holdfast.diffusion.feature_encoder import DiffusionEncoder
from holdfast.diffusion.features import DiffusionFeatures
from holdfast.diffusion.paths import LinearPath

X, Y = load_digits(return_X_y=True)
X = (X.reshape(-1, 8, 8) / 16).astype(np.float32)
X, X_TEST, Y, Y_TEST = train_test_split(X, Y, train_size=400, test_size=300, stratify=Y, random_state=0)
OPTIONS = {"size": "tiny", "steps": 60, "lr": 3e-3, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def model() -> DiffusionFeatureClassifier:
    return DiffusionFeatureClassifier(**OPTIONS).fit(X, Y)


@parametrize_with_checks([DiffusionFeatureClassifier(size="tiny", steps=25, lr=1e-2, random_state=0)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_it_classifies_images_by_features_of_the_chosen_block(model: DiffusionFeatureClassifier) -> None:
    assert model.score(X_TEST, Y_TEST) > 0.85
    choice = model.feature_choice_
    accuracy = np.array(choice.accuracy)
    assert accuracy.shape == (len(choice.blocks), len(choice.times))
    best = np.unravel_index(accuracy.argmax(), accuracy.shape)
    assert accuracy[choice.blocks.index(choice.block), choice.times.index(choice.time)] == accuracy[best]
    assert model.transform(X_TEST).shape == (300, model.context_.width)


def test_the_encoder_is_the_diffusion_feature_at_shared_noise(model: DiffusionFeatureClassifier) -> None:
    encoder = model.network_.encoder
    choice = model.feature_choice_
    features = DiffusionFeatures(
        encoder.denoiser, choice.time, choice.block, pool=min(2, encoder.map_shape[-1]), noise="shared", bound=None
    )
    x = torch.from_numpy(X_TEST[:5])[:, None]
    features._epsilon = lambda images, *_: encoder.noise.expand(images.shape)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), features(encoder.scaled(x)).flatten(1), atol=1e-5, rtol=1e-5)


def test_the_denoiser_is_frozen_and_knows_no_labels(model: DiffusionFeatureClassifier) -> None:
    assert not any(p.requires_grad for p in model.network_.encoder.parameters())
    other = DiffusionFeatureClassifier(**OPTIONS, time=0.1, block=6).fit(X, (Y + 3) % 10)
    for a, b in zip(model.network_.encoder.denoiser.parameters(), other.network_.encoder.denoiser.parameters()):
        assert torch.equal(a, b)
    assert (other.feature_choice_.time, other.feature_choice_.block) == (0.1, 6)


def test_unlabelled_samples_change_the_denoiser_and_not_the_rest(model: DiffusionFeatureClassifier) -> None:
    more = DiffusionFeatureClassifier(**OPTIONS).fit(X, Y, unlabelled=X_TEST)
    first = next(model.network_.encoder.denoiser.parameters())
    assert not torch.equal(first, next(more.network_.encoder.denoiser.parameters()))
    assert more.score(X_TEST, Y_TEST) > 0.85
    with pytest.raises(ValueError, match="shape"):
        DiffusionFeatureClassifier(**OPTIONS).fit(X, Y, unlabelled=X_TEST[:, :4])


@pytest.mark.parametrize("head", ["linear", "mlp", "attention"])
def test_saved_and_loaded_it_predicts_the_same(head: str, tmp_path: Path) -> None:
    options = OPTIONS | {"steps": 20, "head": head, "block": 6, "draws": 2}
    model = DiffusionFeatureClassifier(**options).fit(X, Y)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X_TEST), model.predict_proba(X_TEST))
    np.testing.assert_array_equal(again.transform(X_TEST), model.transform(X_TEST))
    assert again.feature_choice_ == model.feature_choice_
    assert model.score(X_TEST, Y_TEST) > 0.8


def test_exported_it_predicts_the_same(model: DiffusionFeatureClassifier, tmp_path: Path) -> None:
    program = torch.export.load(model.export(tmp_path / "model.pt2")).module()
    x = torch.from_numpy(X_TEST)[:, None]
    np.testing.assert_allclose(program(x).detach().numpy(), model.predict_proba(X_TEST), atol=1e-5)


def test_the_same_seed_gives_the_same_model(model: DiffusionFeatureClassifier) -> None:
    again = DiffusionFeatureClassifier(**OPTIONS).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X_TEST), model.predict_proba(X_TEST))


def test_a_transformer_and_a_network_of_ones_own_serve_as_well() -> None:
    dit = DiffusionFeatureClassifier(**OPTIONS | {"steps": 10}, backbone="dit").fit(X, Y)
    assert dit.score(X_TEST, Y_TEST) > 0.6
    own = UNet(1, 8, 8, (1, 2), 1, time_scale=1000.0)
    fitted = DiffusionFeatureClassifier(**OPTIONS | {"steps": 10}, backbone=own).fit(X, Y)
    assert fitted.transform(X_TEST).shape[1] == fitted.context_.width


def test_large_images_are_averaged_down_and_odd_ones_padded() -> None:
    encoder = DiffusionEncoder(InputSignature("image", (3, 90, 61)), size="tiny", resolution=30)
    assert encoder.input.shape == (3, 32, 32)
    x = torch.full((2, 3, 90, 61), 200, dtype=torch.uint8)
    torch.testing.assert_close(encoder.scaled(x), torch.full((2, 3, 32, 32), 0.5 * 200 / 255))


def test_tables_with_missing_values_and_two_classes() -> None:
    rng = np.random.default_rng(100)
    y = np.array(["no", "yes"])[np.arange(120) % 2]
    frame = pd.DataFrame({"a": rng.normal(size=120) + 2 * (y == "yes"), "b": rng.choice(["u", "v", None], 120)})
    frame.loc[::9, "a"] = np.nan
    model = DiffusionFeatureClassifier(size="tiny", steps=40, lr=1e-2, random_state=0).fit(frame, y)
    assert model.score(frame, y) > 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "forest"}, "head"),
        ({"pool": 0}, "pool"),
        ({"C": 0.0}, "C must be"),
        ({"draws": 0}, "draws"),
        ({"resolution": 2}, "resolution"),
        ({"time": 1.5, "steps": 1}, "time"),
        ({"block": 99, "steps": 1}, "block"),
        ({"backbone": "forest"}, "network"),
        ({"backbone": "mlp"}, "takes vectors"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionFeatureClassifier(**{"size": "tiny"} | options).fit(X[:40], Y[:40])


def test_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors, tables and images, got text"):
        DiffusionFeatureClassifier(steps=1).fit(["a", "b", "c", "d"], [0, 1, 0, 1])


def test_own_network_must_be_a_denoiser_with_blocks() -> None:
    assert isinstance(DiffusionEncoder(InputSignature("vector", (3,))).denoiser, Denoiser)
    assert isinstance(DiffusionEncoder(InputSignature("vector", (3,))).denoiser.path, LinearPath)
