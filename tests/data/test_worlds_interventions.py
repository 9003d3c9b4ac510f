from __future__ import annotations

import math

import numpy as np
import pytest

from holdfast.data.worlds import simulate_linear_action_scm


def test_the_state_is_linear_in_the_action_and_its_noise_is_independent_of_it():
    w = simulate_linear_action_scm(4000, 2, 3, 8, mixing="perceptron", seed=100)
    np.testing.assert_allclose(w.Z - w.V, w.A @ w.M0.T, atol=1e-12)
    np.testing.assert_allclose(w.M0 @ w.M0.T, np.eye(2), atol=1e-12)
    assert np.abs(np.corrcoef(w.A.T, w.V.T)[:3, 3:]).max() < 0.08


def test_the_truth_is_its_closed_form_for_one_state():
    w = simulate_linear_action_scm(10, seed=100)
    a = np.array([-2.0, 0.5, 3.0])
    exact = 2 * np.exp(-0.72) * np.sin(1.2 * a) + 0.4 * (a**2 + 1)
    np.testing.assert_allclose(w.expected(a[:, None], n_draws=200_000), exact, atol=0.03)


def test_confounding_ties_the_outcome_to_the_noise_of_the_state():
    for c in (0.0, 1.0):
        w = simulate_linear_action_scm(4000, confounding=c, seed=100)
        u = w.Y - w.outcome(w.Z)
        assert u.std() == pytest.approx(math.hypot(c, 0.3), rel=0.05)
        assert np.cov(u, w.V[:, 0])[0, 1] == pytest.approx(c, abs=0.05)


@pytest.mark.parametrize(("mixing", "d"), [("exponential", 1), ("perceptron", 2), ("disc", 2)])
def test_states_that_differ_show_features_that_differ(mixing, d):
    w = simulate_linear_action_scm(300, d, mixing=mixing, seed=100)
    x = w.X.reshape(300, -1)
    gap = np.linalg.norm(x[:, None] - x[None], axis=2) + np.eye(300)
    far = np.linalg.norm(w.Z[:, None] - w.Z[None], axis=2) > 0.5
    assert gap[far].min() > 1e-2


def test_the_seed_fixes_the_draws_and_bad_numbers_are_refused():
    np.testing.assert_array_equal(simulate_linear_action_scm(9, seed=1).X, simulate_linear_action_scm(9, seed=1).X)
    with pytest.raises(ValueError, match=r"k must be in \[2"):
        simulate_linear_action_scm(9, 2, 1, mixing="perceptron", seed=1)
    with pytest.raises(ValueError, match="shows a state of length 1"):
        simulate_linear_action_scm(9, 2, seed=1)
    with pytest.raises(ValueError, match="actions must have shape"):
        simulate_linear_action_scm(9, seed=1).expected(np.zeros((2, 3)))
