from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers._aligned_digits import align, digit_world, fit, make_model
from holdfast.papers.p36_repa import _ARMS, PAPER


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in (*_ARMS, "untrained"):
        assert {f"{row}/probe@aligned", f"{row}/cknna", f"{row}/velocity_loss"} <= values.keys()
    assert values["encoder/probe"] > 0.3
    assert values["repa/worst_frechet_ratio"] > 0


def test_arms_of_a_seed_start_from_the_same_weights_and_see_the_same_batches():
    world = digit_world("smoke")
    a, b = make_model(world, 100), make_model(world, 100)
    fit(world, a, 100, steps=2)
    fit(world, b, 100, steps=2, terms=[align(world, 100, weight=0.0)])
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert any(not torch.equal(v, make_model(world, 101).state_dict()[k]) for k, v in a.state_dict().items())
