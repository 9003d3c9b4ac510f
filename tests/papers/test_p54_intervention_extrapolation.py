from __future__ import annotations

import math

import numpy as np
import pytest

from holdfast.papers.p54_intervention_extrapolation import PAPER, _new_actions


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("direct", "direct,x and a", "vanilla", "oracle", "oracle,no control", "2sls", "mean"):
        assert values[f"{row}/rmse"] > 0


def test_new_actions_lie_outside_the_tried_range():
    for k in (1, 4):
        a = _new_actions(k, 24, 100)
        assert a.shape == (24, k)
        assert (np.abs(a).max(1) >= 1.7 - 1e-12).all()
        assert np.abs(a).max() <= 3.0 + 1e-12
