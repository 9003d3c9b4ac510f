"""Laws of the distrust score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.representation.trust import DistrustScore


def _sites(n: int, d: int = 6, shift: float = 5.0, seed: int = 100):
    """Two classes in three environments, environments apart along the last feature."""
    rng = np.random.default_rng(seed)
    y, e = np.arange(n) % 2, (np.arange(n) // 2) % 3
    z = rng.normal(size=(n, d))
    z[:, 0] += 3 * y
    z[:, -1] += shift * e
    return z, np.array(["no", "yes"])[y], np.array(["A", "B", "C"])[e]


@pytest.fixture(scope="module")
def fitted() -> DistrustScore:
    z, y, e = _sites(1500)
    c, _, ce = _sites(999, seed=101)
    return DistrustScore().fit(z, y, e, calibration_features=c, calibration_environment=ce)


def test_p_values_are_uniform_on_exchangeable_samples(fitted):
    z, _, _ = _sites(3000, seed=102)
    p = fitted.score(z).p_value
    # Given one calibration set of 999, P(p <= a) has standard deviation sqrt(a (1 - a) / 1000).
    for a in (0.05, 0.2, 0.5, 0.8):
        assert abs((p <= a).mean() - a) < 4.5 * np.sqrt(a * (1 - a) * (1 / 1000 + 1 / 3000))


def test_p_values_are_valid_on_average_over_calibration_sets():
    rng = np.random.default_rng(103)
    hits = []
    for _ in range(400):
        z = rng.exponential(size=(60, 2))  # no Gaussian: validity does not need one
        trust = DistrustScore().fit(z[:40], np.arange(40) % 2, calibration_features=z[40:59]).score(z[59:])
        hits.append(trust.p_value[0] <= 0.1)
    assert stats.binomtest(int(np.sum(hits)), 400, 0.1, alternative="greater").pvalue > 1e-3


def test_far_samples_get_the_smallest_p_value_there_is(fitted):
    far = np.full((5, 6), 100.0)
    trust = fitted.score(far)
    assert np.allclose(trust.p_value, 1 / 1000)
    assert np.allclose(trust.distrust, 1 - 1 / 1000)


def test_distrust_grows_with_the_distance_from_the_data(fitted):
    z, _, _ = _sites(50, seed=104)
    direction = np.zeros(6)
    direction[2] = 1.0
    distrust = np.stack([fitted.score(z + t * direction).distrust.mean() for t in (0, 2, 4, 8)])
    assert (np.diff(distrust) > 0).all()


def test_nearest_environment_recovers_where_samples_come_from(fitted):
    z, _, e = _sites(900, shift=5.0, seed=105)
    # Between unit Gaussians 5 apart the Bayes error is Phi(-2.5): 0.6% at the ends, twice that in the middle.
    assert (fitted.score(z).nearest_environment == e).mean() > 0.97


def test_a_new_environment_is_less_surprising_than_an_outlier_but_more_than_a_known_one(fitted):
    z, _, _ = _sites(600, seed=106)
    z[:, -1] = np.random.default_rng(0).normal(size=600) + 15.0  # one step further along the same axis
    trust = fitted.score(z)
    assert np.median(trust.p_value) < 0.01
    assert np.median(trust.p_value_new) > np.median(trust.p_value)
    assert (fitted.score(np.full((3, 6), 1e4)).p_value_new <= trust.p_value_new.min()).all()


def test_p_value_new_bounds_the_error_rate_on_an_exchangeable_new_environment():
    # Environments are exchangeable draws. The share of a new one rejected at 20% is at most about 20% on average
    # (it has 12 environments to be near to, a calibration sample 11); the p-value of known ones rejects far more.
    rng = np.random.default_rng(107)
    new, known = [], []
    for _ in range(20):
        centres = rng.normal(size=(13, 3)) * 2
        sites = np.repeat(np.arange(13), 60)
        z, y = rng.normal(size=(780, 3)) + centres[sites], np.arange(780) % 2
        held = (np.arange(780) % 3 == 0) & (sites < 12)
        fit = (sites < 12) & ~held
        score = DistrustScore().fit(
            z[fit], y[fit], sites[fit], calibration_features=z[held], calibration_environment=sites[held]
        )
        trust = score.score(z[sites == 12])
        new.append((trust.p_value_new <= 0.2).mean())
        known.append((trust.p_value <= 0.2).mean())
    assert np.mean(new) < np.mean(known)
    assert np.mean(new) < 0.2 + 3 * np.std(new) / np.sqrt(len(new))


def test_scores_do_not_depend_on_units_or_offsets_of_features(fitted):
    z, y, e = _sites(600, seed=108)
    a, b = np.array([1e-3, 1.0, 1e3, 5.0, 0.2, 70.0]), np.arange(6) * 1e3
    one = DistrustScore(random_state=0).fit(z, y, e).score(z)
    two = DistrustScore(random_state=0).fit(z * a + b, y, e).score(z * a + b)
    np.testing.assert_allclose(one.distance, two.distance, rtol=1e-6)
    assert (one.nearest_environment == two.nearest_environment).all()


def test_constant_features_change_nothing():
    z, y, e = _sites(300)
    padded = np.concatenate([z, np.full((300, 2), 7.0)], 1)
    one, two = (DistrustScore(random_state=1).fit(f, y, e).score(f) for f in (z, padded))
    np.testing.assert_allclose(one.distance, two.distance)


def test_state_round_trips_exactly(fitted):
    state, tensors = fitted._get_state()
    again = DistrustScore()
    again._set_state(state, {k: v.clone() for k, v in tensors.items()})
    z, _, _ = _sites(60, seed=109)
    for one, two in zip(fitted.score(z), again.score(z)):
        assert (one == two).all()
    assert all(isinstance(v, torch.Tensor) for v in tensors.values())


def test_more_features_than_samples_still_gives_valid_p_values():
    rng = np.random.default_rng(110)
    z = rng.normal(size=(160, 300))
    trust = DistrustScore().fit(z[:60], np.arange(60) % 2, calibration_features=z[60:110]).score(z[110:])
    assert abs(trust.p_value.mean() - 0.5) < 0.25


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((10, 2)), "constant"),
        (np.array([[0.0, np.nan]] * 10), "row 0"),
        (np.zeros(10), r"shape \(n, d\)"),
        (np.ones((2, 2)), "too few"),
    ],
)
def test_unusable_features_are_refused_with_the_reason(features, message):
    n = len(features)
    with pytest.raises(ValueError, match=message):
        DistrustScore(random_state=0).fit(features, np.arange(n) % 2)


def test_features_of_another_width_are_refused(fitted):
    with pytest.raises(ValueError, match="must have 6 columns"):
        fitted.score(np.zeros((2, 5)))
