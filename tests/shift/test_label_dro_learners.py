"""The label-robust learners: scikit-learn's conventions, saving, calibration of meaning, and noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.core.saving import load
from holdfast.data.shifts.label_noise import uniform_label_noise
from holdfast.metrics.calibration import expected_calibration_error
from holdfast.shift.erm import ERM
from holdfast.shift.label_dro_learners import AdaptiveLabelDRO, LabelDRO, _AdaptiveHead
from holdfast.shift.label_robust import ldr_kl

FAST = {"epochs": 40, "lr": 1e-2, "size": "tiny", "random_state": 100}


@pytest.mark.slow
@parametrize_with_checks([LabelDRO(**FAST), AdaptiveLabelDRO(**FAST)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def world(n=150):
    rng = np.random.default_rng(100)
    y = np.arange(n) % 3
    return 3 * np.eye(3)[y] + rng.normal(size=(n, 3)), np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize(
    "model",
    [
        LabelDRO(temperature=0.0, margin=1.0, **FAST),
        LabelDRO(temperature=math.inf, normalize="softplus_mean", **FAST),
        LabelDRO(temperature=3.0, normalize="l1", **FAST),
        AdaptiveLabelDRO(temperature=10.0, **FAST),
        AdaptiveLabelDRO(solver="one_step", normalize="none", **FAST),
    ],
    ids=str,
)
def test_every_setting_learns_and_survives_saving(model, tmp_path):
    x, y = world()
    model.fit(x, y)
    assert model.score(x, y) > 0.85
    loaded = load(model.save(tmp_path / "m"))
    np.testing.assert_allclose(loaded.predict_proba(x), model.predict_proba(x), rtol=1e-5, atol=1e-7)
    assert loaded.temperature == model.temperature


def test_temperature_one_without_margin_is_empirical_risk_minimisation():
    x, y = world()
    ours, theirs = LabelDRO(margin=0.0, **FAST).fit(x, y), ERM(**FAST).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-4)


def test_adaptive_probabilities_are_the_posterior_at_the_minimum_of_the_risk():
    from holdfast.shift.adaptive_label_robust import AdaptiveLDR

    q = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double()
    f = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    loss = AdaptiveLDR(1, 4, 2.0, margin=0.0).double()
    descent = torch.optim.SGD([f], lr=3.0)
    for _ in range(200):
        descent.zero_grad()
        sum(q[0, k] * loss(f, torch.tensor([k]), torch.tensor([0])) for k in range(4)).backward()
        descent.step()
    head = _AdaptiveHead(4, 4, "none", 2.0, 2.0).double()
    torch.testing.assert_close(head._rescale(f.detach()).softmax(1), q, atol=1e-5, rtol=0)


def test_probabilities_of_a_fitted_temperature_are_the_scaled_scores():
    x, y = world()
    model = LabelDRO(temperature=4.0, margin=0.0, **FAST).fit(x, y)
    encoded = model._encode_input(x)
    h = model._outputs(model.network_, encoded, function=model.network_.features)
    f = model.network_.head.scores(h).detach()
    np.testing.assert_allclose(model.predict_proba(x), (f / 4.0).softmax(1).numpy(), rtol=1e-5)
    codes = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    # Near the minimum the loss is near its lowest value for data that can be told apart: -temperature log K.
    assert float(ldr_kl(f, codes, 4.0)) < -4.0 * math.log(3) + 2.0


def test_labels_that_are_mostly_wrong_are_outvoted():
    x, y = load_digits(return_X_y=True)
    noisy = uniform_label_noise(y[:900], 0.5, 10, seed=100)
    robust, plain = (cls(epochs=40, random_state=100).fit(x[:900], noisy) for cls in (AdaptiveLabelDRO, ERM))
    assert robust.score(x[900:], y[900:]) > plain.score(x[900:], y[900:]) + 0.02


@pytest.mark.parametrize(
    "model", [LabelDRO(normalize="l1", temperature=5.0, **FAST), AdaptiveLabelDRO(**FAST)], ids=str
)
def test_normalised_scores_are_calibrated(model):
    rng = np.random.default_rng(101)
    y = np.arange(2000) % 3
    x = 1.5 * np.eye(3)[y] + rng.normal(size=(2000, 3))
    model.set_params(validation_fraction=0.3).fit(x[:1000], y[:1000])
    assert expected_calibration_error(y[1000:], model.predict_proba(x[1000:])) < 0.08


def test_exported_model_agrees(tmp_path):
    x, y = world()
    model = AdaptiveLabelDRO(**(FAST | {"epochs": 3})).fit(x, y)
    program = torch.export.load(model.export(tmp_path / "m.pt2"))
    out = program.module()(torch.from_numpy(x).float())
    torch.testing.assert_close(out, torch.from_numpy(model.predict_proba(x)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("match", "model"),
    [
        ("temperature", LabelDRO(temperature=-1.0)),
        ("margin", LabelDRO(margin=-1.0)),
        ("normalize", LabelDRO(normalize="l2")),
        ("temperature", AdaptiveLabelDRO(temperature=0.0)),
        ("alpha", AdaptiveLabelDRO(alpha=1.0)),
        ("solver", AdaptiveLabelDRO(solver="newton")),
    ],
)
def test_bad_settings_are_refused_at_fit(match, model):
    with pytest.raises(ValueError, match=match):
        model.fit(*world())
