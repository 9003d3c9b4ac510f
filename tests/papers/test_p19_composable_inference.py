from __future__ import annotations

import math

import numpy as np
import pytest

from holdfast.inference import enumerate_measure
from holdfast.papers.p19_composable_inference import (
    _BROKEN,
    _PAIRS,
    MEANS,
    OBS,
    PAPER,
    ROWS,
    _coin,
    _forward,
    _long_run,
    _short_hmm,
)


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    assert set(_PAIRS) <= values.keys()
    for row in (*_BROKEN, "smc", "mh"):
        assert f"{row}/distance" in values


def test_what_is_exact_holds_at_any_scale(values):
    claims = {c.key: c for c in PAPER.claims}
    assert claims["preservation"].statistic(values) <= 1e-10
    assert claims["broken-found"].statistic(values) == 1.0
    assert abs(values["sprinkler/mass_dry"] - 0.448) < 1e-12
    assert abs(values["sprinkler/mass_rain"] - 0.0546) < 1e-12
    assert abs(values["smc/rain"] - 0.0546 / 0.5026) < 1e-12
    assert abs(values["mh/distance"]) < 1e-9


def test_a_chain_that_forgets_the_number_of_choices_ends_at_five_sixths(values):
    assert abs(values["mh-without-sites/heads"] - 5 / 6) < 1e-9
    assert abs(values["mh/heads"] - 0.5) < 1e-9


def test_the_forward_algorithm_is_the_evidence_of_the_program():
    assert abs(float(_forward(MEANS)) + 44.6858) < 1e-4
    ys = OBS[:3]
    alpha = np.full(3, 1 / 3)
    for y in ys:
        alpha = alpha @ ROWS * np.exp(-0.5 * (y - MEANS) ** 2) / math.sqrt(2 * math.pi)
    total = sum(enumerate_measure(lambda: _short_hmm(tuple(ys))).values())
    assert abs(total - alpha.sum()) < 1e-12


def test_the_long_run_of_a_right_chain_is_the_posterior():
    from holdfast.inference import mh_move

    law = _long_run(_coin, mh_move)
    assert abs(law[True] - 0.5) < 1e-9
