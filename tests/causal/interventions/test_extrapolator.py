from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from holdfast.causal import (
    ControlFunctionRegressor,
    InterventionExtrapolator,
    InvariantAutoencoder,
    LinearInvariancePenalty,
    PlainAutoencoder,
    UnconditionalVAE,
    reconstruction_error,
    select_lambda,
)
from holdfast.core.random import generator, isolated_rng
from holdfast.core.saving import load
from holdfast.data.worlds import simulate_linear_action_scm
from holdfast.distribution.generators.cvae import ConditionalVAE

WORLD = simulate_linear_action_scm(400, seed=100)


def extrapolator(**options):
    quick = ControlFunctionRegressor("spline", "spline", n_bootstrap=5)
    return InterventionExtrapolator(**({"regressor": quick, "steps": 20, "random_state": 0, "device": "cpu"} | options))


@pytest.fixture(scope="module")
def fitted():
    return extrapolator().fit(WORLD.X, WORLD.A, WORLD.Y)


def vae():
    with isolated_rng(100):
        return ConditionalVAE.of_points(6, 1, latent=1, width=16)


def test_a_plugged_in_vae_without_the_constraint_has_its_own_loss_to_the_last_bit():
    model, x, a = vae(), torch.from_numpy(WORLD.X[:64]).float(), torch.from_numpy(WORLD.A[:64]).float()
    plugged = UnconditionalVAE(model, torch.zeros(1))
    own = model.loss(x, torch.zeros(64, 1), generator(1))
    free = InvariantAutoencoder(plugged, lam=0.0).objective(x, a, generator(1))["loss"]
    assert torch.equal(own, free)


def test_the_penalty_acts_on_the_mean_of_the_posterior():
    model, x, a = vae(), torch.from_numpy(WORLD.X[:64]).float(), torch.from_numpy(WORLD.A[:64]).float()
    plugged, penalty = UnconditionalVAE(model, torch.zeros(1)), LinearInvariancePenalty()
    parts = InvariantAutoencoder(plugged, penalty, 2.0).objective(x, a, generator(1))
    mean = model.encode(x, torch.zeros(64, 1))
    torch.testing.assert_close(plugged.encode(x), mean)
    torch.testing.assert_close(parts["penalty"], penalty(mean, a))
    torch.testing.assert_close(parts["loss"], model.loss(x, torch.zeros(64, 1), generator(1)) + 2 * parts["penalty"])
    torch.testing.assert_close(plugged.decode(mean), model.reconstruct(x, torch.zeros(64, 1)))


def test_the_extrapolator_takes_a_vae_and_loads_it_again(tmp_path):
    plugged = UnconditionalVAE(vae(), torch.zeros(1))
    model = extrapolator(autoencoder=plugged, compare=False).fit(WORLD.X, WORLD.A, WORLD.Y)
    path = model.save(tmp_path / "m.holdfast")
    with pytest.raises(ValueError, match="your own autoencoder UnconditionalVAE"):
        load(path)
    again = load(path, backbone=UnconditionalVAE(vae(), torch.zeros(1)))
    np.testing.assert_array_equal(again.transform(WORLD.X), model.transform(WORLD.X))


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    again = load(fitted.save(tmp_path / "m.holdfast"))
    for first, second in zip(fitted.predict_do([0.0, 2.0]), again.predict_do([0.0, 2.0])):
        np.testing.assert_array_equal(first, second)
    first, second = (m.predict_conditional(WORLD.X[:9], [1.0]) for m in (fitted, again))
    np.testing.assert_array_equal(first, second)
    assert str(again.identifiability_report()) == str(fitted.identifiability_report())


def test_the_seed_fixes_everything(fitted):
    again = clone(fitted).fit(WORLD.X, WORLD.A, WORLD.Y)
    np.testing.assert_allclose(fitted.predict_do([2.0]).mean, again.predict_do([2.0]).mean, rtol=1e-12)
    # The last bit of a product may depend on where its matrices lie in memory.
    np.testing.assert_allclose(fitted.predict_do([2.0]).low, again.predict_do([2.0]).low, rtol=1e-12)
    other = clone(fitted).set_params(random_state=1).fit(WORLD.X, WORLD.A, WORLD.Y)
    assert other.predict_do([2.0]).mean != fitted.predict_do([2.0]).mean


def test_what_was_fitted_is_the_regression_on_the_code(fitted):
    np.testing.assert_array_equal(fitted.predict_do([2.0]).mean, fitted.regressor_.predict_do([2.0]))
    code = fitted.transform(WORLD.X[:9])
    np.testing.assert_array_equal(
        fitted.predict_conditional(WORLD.X[:9], [2.0]), fitted.regressor_.predict_do_given(code, [2.0])
    )


def test_the_report_reads_in_order_and_names_every_doubt(fitted):
    report = fitted.identifiability_report()
    text = str(report)
    order = ["reconstruction R^2", "before training", "condition number", "outside", "low", "2SLS", "no constraint"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    assert set(report.baselines) == {"2SLS", "no constraint", "Y on A"}
    assert report.reconstruction_r2 < 0.95
    assert any("R^2" in doubt for doubt in report.doubts)
    assert report.actions.min() < 1.5 * WORLD.A.min()


def test_more_weight_makes_the_code_more_linear():
    penalty = LinearInvariancePenalty()
    a = torch.from_numpy(WORLD.A)
    codes = [extrapolator(lam=v, steps=150, compare=False).fit(WORLD.X, WORLD.A, WORLD.Y) for v in (0.0, 30.0)]
    free, bound = (float(penalty(torch.from_numpy(m.transform(WORLD.X)), a)) for m in codes)
    assert bound < free


def test_far_actions_warn_and_strict_gives_no_interval(fitted):
    with pytest.warns(UserWarning, match="1 of 2 actions move over 90%"):
        found = fitted.predict_do([0.0, 500.0], strict=True)
    assert found.outside[1] == 1.0
    assert np.isnan(found.low).tolist() == [False, True]
    assert np.isfinite(found.mean).all()
    with pytest.warns(UserWarning, match="over 90%"):
        assert np.isfinite(fitted.predict_do([500.0]).low).all()


def test_the_weight_is_chosen_by_its_rule():
    x, a = torch.from_numpy(WORLD.X).float(), torch.from_numpy(WORLD.A).float()
    make = lambda: PlainAutoencoder(nn.Linear(6, 1), nn.Linear(1, 6))  # noqa: E731
    options = {"steps": 10, "device": "cpu", "seed": 0}
    choice = select_lambda(make, x, a, (0.1, 1.0, 10.0), tolerance=0.2, **options)
    kept = [v for v in (0.1, 1.0, 10.0) if choice.errors[v] <= 1.2 * choice.errors[0.0]]
    assert choice.lam == max(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        by_test = select_lambda(make, x, a, (0.1, 1.0, 10.0), rule="test", **options)
    kept = [v for v in (0.1, 1.0, 10.0) if by_test.p_values[v] >= 0.05]
    assert by_test.lam == (min(kept) if kept else 10.0)
    fitted = extrapolator(lam="reconstruction", compare=False, steps=5).fit(WORLD.X, WORLD.A, WORLD.Y)
    assert fitted.lam_ == fitted.lambda_choice_.lam


def test_reconstruction_error_is_one_minus_r2():
    x = torch.randn(50, 3, generator=generator(0))
    mean = PlainAutoencoder(nn.Identity(), nn.Linear(3, 3))
    with torch.no_grad():
        mean.decoder.weight.zero_()
        mean.decoder.bias.copy_(x.mean(0))
    assert reconstruction_error(mean, x) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 2}, "needs at least 2 actions"),
        ({"A": np.ones((400, 1))}, "A is constant in column 0"),
        ({"A": np.c_[WORLD.A, 2 * WORLD.A + 1], "dim": 1}, "A is collinear"),
        ({"A": np.repeat([0.0, 1.0], 200)}, "A takes 2 different values"),
        ({"n": 40}, "needs at least 50 rows"),
        ({"X": np.where(np.arange(6) == 3, np.nan, WORLD.X)}, "X must be finite"),
        ({"A": np.where(np.arange(400) == 7, np.nan, WORLD.A[:, 0])}, "A must be finite"),
        ({"Y": np.full(400, np.inf)}, "Y must be finite"),
        ({"Y": np.repeat("good", 400)}, "Y must hold numbers"),
        ({"Y": WORLD.Y[:-1]}, "lengths differ"),
        ({"lam": -1.0}, "lam must be in"),
        ({"lam": "best"}, "lam must be one of"),
        ({"X": WORLD.X[:, :1]}, "at least two columns"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change, message):
    change = dict(change)
    n = change.pop("n", 400)
    data = [change.pop(name, getattr(WORLD, name))[:n] for name in ("X", "A", "Y")]
    with pytest.raises(ValueError, match=message):
        extrapolator(**change).fit(*data)


def test_more_bad_input(fitted):
    with pytest.raises(ValueError, match="a must have 1 columns, got 2"):
        fitted.predict_do(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"rows of shape \(6,\)"):
        fitted.transform(WORLD.X[:, :4])
    with pytest.raises(ValueError, match="ci must be in"):
        fitted.predict_do([0.0], ci=1.0)
    with pytest.raises(TypeError, match="without decode, loss"):
        extrapolator(autoencoder=_EncodesOnly()).fit(WORLD.X, WORLD.A, WORLD.Y)
    with pytest.raises(ValueError, match="at least one weight"):
        select_lambda(nn.Identity, torch.zeros(9, 2), torch.zeros(9, 1), ())


class _EncodesOnly(nn.Linear):
    def __init__(self):
        super().__init__(6, 1)

    def encode(self, x):
        return self(x)


def test_fewer_actions_than_numbers_of_the_code_only_on_request():
    model = extrapolator(dim=2, allow_underidentified=True, compare=False).fit(WORLD.X, WORLD.A, WORLD.Y)
    assert model.predict_do([0.0]).mean.shape == (1,)
