from __future__ import annotations

import numpy as np
import pytest

from holdfast.causal import ControlFunctionRegressor, two_stage_least_squares
from holdfast.core.saving import load
from holdfast.data.worlds import simulate_linear_action_scm

NEW = np.concatenate([np.linspace(-3, -1.7, 12), np.linspace(1.7, 3, 12)])


def world(seed=100, n=600, d=1, k=None):
    rng = np.random.default_rng(seed)
    k = d if k is None else k
    a, v = rng.uniform(-1.5, 1.5, (n, k)), rng.normal(size=(n, d))
    z = a @ rng.normal(size=(k, d)) + v
    return z, a, z @ rng.normal(size=d) + 2 * v[:, 0] + 0.3 * rng.normal(size=n)


@pytest.mark.parametrize("d", [1, 3])
def test_with_lines_it_is_two_stage_least_squares(d):
    z, a, y = world(d=d)
    model = ControlFunctionRegressor("linear", "linear").fit(z, a, y)
    new = np.random.default_rng(1).normal(size=(20, d)) * 5
    np.testing.assert_allclose(model.predict_do(new), two_stage_least_squares(z, a, y).predict_do(new), atol=1e-6)


@pytest.mark.parametrize("d", [1, 3])
def test_an_affine_map_of_the_code_changes_no_prediction(d):
    z, a, y = world(d=d)
    rng = np.random.default_rng(2)
    h, c = rng.normal(size=(d, d)), rng.normal(size=d)
    models = [ControlFunctionRegressor("linear", "linear").fit(code, a, y) for code in (z, z @ h + c)]
    first, second = (m.predict_do(3 * a[:20]) for m in models)
    np.testing.assert_allclose(first, second, atol=1e-8)
    given = models[0].predict_do_given(z[:20], a[20:40])
    np.testing.assert_allclose(models[1].predict_do_given(z[:20] @ h + c, a[20:40]), given, atol=1e-8)


@pytest.mark.parametrize("learner", ["mlp", "spline", "linear"])
def test_psi_is_centred_and_the_sum_is_what_was_fitted(learner):
    z, a, y = world()
    model = ControlFunctionRegressor(learner, learner, steps=30, random_state=0).fit(z, a, y)
    assert abs(model.psi_of(model.control_.numpy()).mean()) < 1e-8
    np.testing.assert_allclose(model.control_.numpy(), z - a @ model.W_.numpy().T - model.alpha_.numpy(), atol=1e-10)
    np.testing.assert_allclose(
        model.predict_do_given(z, a), model.nu_of(z) + model.psi_of(model.control_.numpy()), atol=1e-9
    )
    before = model.nu_of(z) + model.psi_of(model.control_.numpy())
    model._offset = model._offset + 0.7  # moves a constant from psi to nu
    np.testing.assert_allclose(model.nu_of(z) + model.psi_of(model.control_.numpy()), before, atol=1e-9)


def test_prediction_is_the_mean_of_nu_over_moved_codes():
    z, a, y = world()
    model = ControlFunctionRegressor("spline", "spline").fit(z, a, y)
    moved = 2.5 * model.W_.numpy()[:, 0] + model.alpha_.numpy() + model.control_.numpy()
    assert model.predict_do([2.5])[0] == pytest.approx(model.nu_of(moved).mean(), abs=1e-10)


def test_inside_the_tried_actions_it_agrees_with_a_regression_on_the_action():
    w = simulate_linear_action_scm(3000, seed=100)
    model = ControlFunctionRegressor("spline", "spline", n_bootstrap=30, random_state=0).fit(w.Z, w.A, w.Y)
    direct = ControlFunctionRegressor("spline", None, knots=5, n_bootstrap=30, random_state=0).fit(w.A, w.A, w.Y)
    grid = np.linspace(-1, 1, 5)
    low, high = model.interval_do(grid, 0.6827)  # one deviation to each side
    # Without a control variable the code of an action is the action, and its control variable is 0.
    rough_low, rough_high = direct.interval_do(grid, 0.6827)
    error = np.hypot((high - low) / 2, (rough_high - rough_low) / 2)
    assert (np.abs(model.predict_do(grid) - direct.nu_of(grid)) < 3 * error).all()


@pytest.mark.parametrize("seed", [100, 101, 102])
def test_the_true_state_extrapolates_with_the_control_variable_and_not_without(seed):
    w = simulate_linear_action_scm(3000, seed=seed)
    truth = w.expected(NEW[:, None])
    error = {}
    for psi in ("spline", None):
        model = ControlFunctionRegressor("spline", psi).fit(w.Z, w.A, w.Y)
        error[psi] = np.sqrt(np.mean((model.predict_do(NEW) - truth) ** 2))
    assert error["spline"] <= 0.4
    assert error[None] >= 1.0


def test_perceptrons_learn_the_same_curve():
    w = simulate_linear_action_scm(3000, seed=100)
    model = ControlFunctionRegressor(steps=300, batch_size=512, random_state=0).fit(w.Z, w.A, w.Y)
    assert np.sqrt(np.mean((model.predict_do(NEW) - w.expected(NEW[:, None])) ** 2)) <= 0.4


def test_resamples_leave_the_prediction_as_it_is_and_give_a_wider_interval_at_a_higher_level():
    z, a, y = world()
    options = {"steps": 20, "batch_size": 64, "random_state": 0}
    alone = ControlFunctionRegressor(**options).fit(z, a, y)
    beside = ControlFunctionRegressor(n_bootstrap=3, **options).fit(z, a, y)
    np.testing.assert_allclose(beside.predict_do([0.0, 2.0]), alone.predict_do([0.0, 2.0]), atol=1e-4)
    narrow, wide = (np.subtract(*beside.interval_do([2.0], ci)[::-1]) for ci in (0.5, 0.99))
    assert 0 < narrow[0] < wide[0]
    assert np.isnan(alone.interval_do([2.0])[0]).all()


def test_the_order_of_rows_means_nothing():
    z, a, y = world(d=2)
    order = np.random.default_rng(3).permutation(len(y))
    for learner in ("spline", "linear"):
        first, second = (
            ControlFunctionRegressor(learner, learner).fit(z[o], a[o], y[o]).predict_do(a[:9]) for o in (order, ...)
        )
        np.testing.assert_allclose(first, second, atol=1e-7)


def test_codes_leave_the_region_as_actions_grow():
    z, a, y = world()
    model = ControlFunctionRegressor("linear", "linear").fit(z, a, y)
    inside, far = model.diagnostics([0.0, 100.0]).outside
    assert inside < 0.05
    assert far == 1.0


@pytest.mark.parametrize("forms", [("mlp", "mlp"), ("mlp", "linear"), ("spline", "linear"), ("linear", None)])
def test_saved_and_loaded_it_predicts_the_same(forms, tmp_path):
    z, a, y = world(d=2)
    model = ControlFunctionRegressor(*forms, steps=5, n_bootstrap=3, random_state=0).fit(z, a, y)
    again = load(model.save(tmp_path / "m.holdfast"))
    np.testing.assert_array_equal(model.predict_do(a[:5]), again.predict_do(a[:5]))
    np.testing.assert_array_equal(model.interval_do(a[:5]), again.interval_do(a[:5]))
    np.testing.assert_array_equal(model.diagnostics(a[:5]).outside, again.diagnostics(a[:5]).outside)


def test_two_stage_least_squares_is_its_closed_form():
    z, a, y = world(d=2, k=3)
    effect = two_stage_least_squares(z, a, y)
    zc, ac, yc = (t - t.mean(0) for t in (z, a, y))
    p = ac @ np.linalg.solve(ac.T @ ac, ac.T)
    np.testing.assert_allclose(effect.slope, np.linalg.solve(zc.T @ p @ zc, zc.T @ p @ yc), atol=1e-10)


def test_bad_input_is_refused_with_the_reason():
    z, a, y = world()
    fit = ControlFunctionRegressor("linear", "linear").fit
    with pytest.raises(ValueError, match="no variance in some direction"):
        fit(np.zeros((600, 1)), a, y)
    with pytest.raises(ValueError, match="lengths differ"):
        fit(z, a, y[:-1])
    with pytest.raises(ValueError, match="Y must be finite"):
        fit(z, a, np.full(600, np.nan))
    with pytest.raises(ValueError, match="not fitted together"):
        ControlFunctionRegressor("mlp", "spline").fit(z, a, y)
    with pytest.raises(ValueError, match="nu must be one of"):
        ControlFunctionRegressor("tree").fit(z, a, y)
    model = fit(z, a, y)
    with pytest.raises(ValueError, match="a must have 1 columns, got 2"):
        model.predict_do(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one action for each of the 600 codes"):
        model.predict_do_given(z, a[:5])
    with pytest.raises(ValueError, match="at least 2 actions as instruments"):
        two_stage_least_squares(np.c_[z, z**2], a, y)
    with pytest.raises(ValueError, match="do not move the state"):
        two_stage_least_squares(np.c_[a, 2 * a], np.c_[a, a**2], y)
