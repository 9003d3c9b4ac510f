"""Verdicts follow the confidence interval of the seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from holdfast.papers import Claim, mean_interval


def claim(**bounds) -> Claim:
    return Claim("k", "a statement", lambda v: v["a/b"], **bounds)


def test_interval_is_student_t():
    values = [0.1, 0.4, 0.2, 0.5]
    i = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (i.low, i.high) == pytest.approx((low, high))


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(5)
    draws = rng.normal(3.0, 2.0, (4000, 5))
    covered = [i.low <= 3.0 <= i.high for i in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_one_seed_never_decides():
    assert claim(at_least=0.0).verdict([5.0]) == "undecided"


@pytest.mark.parametrize(
    ("bounds", "values", "verdict"),
    [
        ({"at_least": 1.0}, [1.1, 1.2, 1.15], "held"),
        ({"at_least": 1.0}, [0.9, 1.2, 1.1], "undecided"),
        ({"at_least": 1.0}, [0.1, 0.2, 0.15], "not held"),
        ({"at_most": 1.0}, [0.1, 0.2, 0.15], "held"),
        ({"at_most": 1.0}, [0.9, 1.2, 1.1], "undecided"),
        ({"at_most": 1.0}, [1.1, 1.2, 1.15], "not held"),
        ({"at_least": 1.0, "null": 0.0}, [0.9, 1.2, 1.1], "held"),
        ({"at_least": 1.0, "null": 0.0}, [-2.0, 5.0, 1.1], "undecided"),
        ({"at_most": -1.0, "null": 0.0}, [-0.9, -1.2, -1.1], "held"),
        ({"at_least": 1.0}, [1.0, 1.0, 1.0], "held"),
    ],
)
def test_verdicts(bounds, values, verdict):
    assert claim(**bounds).verdict(values) == verdict


def test_a_claim_has_exactly_one_bound():
    with pytest.raises(ValueError, match="exactly one"):
        claim()
    with pytest.raises(ValueError, match="exactly one"):
        claim(at_least=0.0, at_most=1.0)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        mean_interval([0.1, float("nan")])
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
