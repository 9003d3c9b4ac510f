"""Laws of label-prior, covariate and long-tail sampling."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.shifts import (
    covariate_environments,
    label_prior_subsample,
    long_tail_subsample,
    tilted_priors,
)
from holdfast.data.shifts.resampled import input_score
from holdfast.data.shifts.sampling import random_parts


def test_parts_are_equal_in_total_and_in_every_stratum():
    strata = np.random.default_rng(100).integers(0, 5, 997)
    codes = random_parts(997, 4, seed=100, strata=strata)
    assert np.ptp(np.bincount(codes)) <= 1
    for s in range(5):
        assert np.ptp(np.bincount(codes[strata == s], minlength=4)) <= 1


def test_parts_are_random():
    a, b = (random_parts(1000, 2, seed=s) for s in (100, 101))
    assert abs((a == b).mean() - 0.5) < 0.1


@pytest.mark.parametrize("prior", [[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.9, 0.1], [0.01, 0.01, 0.98]])
def test_realised_prior_is_the_one_asked_for_and_the_sample_is_the_largest(prior):
    y = np.random.default_rng(100).choice(3, 5000, p=[0.5, 0.3, 0.2])
    rows = label_prior_subsample(y, np.array(prior), seed=100)
    count = np.bincount(y[rows], minlength=3)
    assert np.abs(count - len(rows) * np.array(prior)).max() <= 1
    assert len(np.unique(rows)) == len(rows)
    have = np.bincount(y, minlength=3)
    used = np.array(prior) > 0
    assert ((len(rows) + 1) * np.array(prior)[used] > have[used]).any()


def test_prior_sampling_leaves_the_inputs_of_a_class_alone():
    rng = np.random.default_rng(100)
    y, x = rng.integers(0, 2, 20_000), rng.standard_normal(20_000)
    x = x + y
    rows = label_prior_subsample(y, np.array([0.2, 0.8]), seed=100)
    for k in (0, 1):
        kept = x[rows][y[rows] == k]
        assert abs(kept.mean() - k) < 5 / np.sqrt(len(kept))


def test_tilted_priors_are_distributions_that_differ_and_are_flat_at_zero():
    p = tilted_priors(3, 6, 2.0)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert len(set(p.argmax(axis=1))) == 3
    np.testing.assert_allclose(tilted_priors(3, 6, 0.0), 1 / 6)


@pytest.mark.parametrize("ratio", [1, 10, 100])
def test_tail_has_its_ratio_and_falls_off_exponentially(ratio):
    y = np.repeat(np.arange(5), 2000)
    count = np.bincount(y[long_tail_subsample(y, ratio, 5, seed=100)])
    assert count[0] == 2000
    np.testing.assert_allclose(count[0] / count[-1], ratio)
    steps = np.log(count[:-1] / count[1:])
    np.testing.assert_allclose(steps, np.log(ratio) / 4, atol=0.02)


def test_tail_has_its_ratio_however_unequal_the_classes_were():
    y = np.repeat(np.arange(3), [300, 5000, 900])
    count = np.bincount(y[long_tail_subsample(y, 9, 3, order=[2, 0, 1], seed=100)])
    assert count.tolist() == [300, 100, 900]


def test_every_class_keeps_a_sample():
    y = np.repeat(np.arange(4), 20)
    assert np.bincount(y[long_tail_subsample(y, 1e6, 4, seed=100)]).min() == 1


def test_covariate_selection_is_random_at_zero_and_disjoint_when_strong():
    score = np.random.default_rng(100).standard_normal(6000)
    split = covariate_environments(score, 3, 0.0, seed=100)
    assert np.abs(np.bincount(split) / 6000 - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 6000)
    assert abs(np.corrcoef(score, split)[0, 1]) < 5 / np.sqrt(6000)
    ranges = covariate_environments(score, 3, 1e6, seed=100)
    assert score[ranges == 0].max() < score[ranges == 1].min()
    assert score[ranges == 1].max() < score[ranges == 2].min()


def test_covariate_gap_grows_with_strength_and_leaves_the_labels_given_the_input_alone():
    rng = np.random.default_rng(100)
    score = rng.random(40_000)
    y = rng.random(40_000) < score
    gaps = []
    for strength in (0.0, 2.0, 5.0, 20.0):
        e = covariate_environments(score, 2, strength, seed=100)
        gaps.append(score[e == 1].mean() - score[e == 0].mean())
        middle = (score > 0.45) & (score < 0.55)
        rates = [y[middle & (e == k)].mean() for k in (0, 1)]
        assert abs(rates[0] - rates[1]) < 0.1
    # Disjoint halves of the unit interval have means at distance one half.
    assert abs(gaps[0]) < 0.02
    assert abs(gaps[3] - 0.5) < 0.02
    assert gaps[0] + 0.1 < gaps[1] < gaps[2] < gaps[3]


def test_principal_score_is_the_direction_of_largest_variance():
    rng = np.random.default_rng(100)
    shared = rng.standard_normal((500, 1))
    x = np.concatenate([shared + 0.1 * rng.standard_normal((500, 4)), rng.standard_normal((500, 2))], axis=1)
    assert abs(np.corrcoef(input_score(x, "principal", seed=100), shared[:, 0])[0, 1]) > 0.99
    a, b = (input_score(x, "principal", seed=s) for s in (100, 101))
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y: label_prior_subsample(y, np.array([0.5, 0.6]), seed=1), "sum to one"),
        (lambda y: label_prior_subsample(y, np.array([1.0]), seed=1), "entry for each of the 2 classes"),
        (lambda y: label_prior_subsample(y, np.array([0.4, 0.4, 0.2]), seed=1), "class 2, of which there is no"),
        (lambda y: long_tail_subsample(y, 0.5, 2, seed=1), "ratio must be in"),
        (lambda y: long_tail_subsample(y, 2, 3, seed=1), "class 2 has no sample"),
        (lambda y: long_tail_subsample(y, 2, 2, order=[0, 0], seed=1), "each of the 2 classes once"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([0, 1, 0, 1]))


def test_scores_drawn_from_the_same_seed_are_independent_of_the_division():
    score = np.random.default_rng(100).random(10_000)
    for codes in (covariate_environments(score, 2, 0.0, seed=100), random_parts(10_000, 2, seed=100)):
        assert abs(np.corrcoef(score, codes)[0, 1]) < 5 / np.sqrt(10_000)
