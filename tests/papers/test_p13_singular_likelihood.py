from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers.p13_singular_likelihood import PAPER, _digits, _gain, _levels, _Size


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    s = _Size()
    for arm, levels in (("curve", s.curve), ("eager", s.eager), ("noisy", s.noisy), ("exact", s.exact)):
        for metric in ("sw1", "sigma", "off_curve"):
            assert set(_levels(values, arm, metric)) == set(levels)
    assert set(_levels(values, "images", "frechet")) == {0.0, 0.1, 0.4}
    assert values["images/gain"] < 1
    assert values["images/too_much"] > 0


def test_fresh_points_are_nearer_than_samples_of_a_hardly_trained_model(values):
    assert values["data/sw1"] < min(_levels(values, "curve", "sw1").values())
    assert values["images/data/frechet"] < min(_levels(values, "images", "frechet").values())


def test_a_gain_is_the_share_that_the_best_noise_takes_off():
    v = {"a/0/sw1": 2.0, "a/0.1/sw1": 1.0, "a/0.4/sw1": 3.0}
    assert _gain("a")(v) == 0.5
    assert _gain("a")(v | {"a/0.1/sw1": 2.5}) == pytest.approx(-0.25)


def test_held_out_digits_are_in_no_training_set():
    x, y, new, labels = _digits(100)
    assert (len(x), len(new)) == (1197, 600)
    assert len(y) == len(x)
    assert len(labels) == len(new)
    # No two digits of the data are equal, so that a shared image would be a shared row.
    assert len(torch.cat([x, new]).flatten(1).unique(dim=0)) == 1797
