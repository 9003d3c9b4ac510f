from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers._aligned_digits import digit_world, make_model
from holdfast.papers.p41_sra import _ARMS, PAPER, _blocks, _shaken


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("base", *_ARMS, "repa", "untrained"):
        assert f"{row}/frechet" in values
    for row in (*_ARMS, "random-network"):
        assert {f"{row}/cosine", f"{row}/centred_cosine"} <= values.keys()


def test_without_a_head_features_of_one_network_are_near_each_other(values):
    assert values["sra-no-head/cosine"] > values["sra/cosine"]


def test_the_random_network_of_the_control_is_no_identity():
    world = digit_world("smoke")
    x, t = world.x[:4], torch.full((4,), 0.5)
    student, teacher = _blocks(world)
    plain, shaken = (m(x, t, taps=(student, teacher)).taps for m in (make_model(world, 0), _shaken(world, 0)))
    assert torch.equal(plain[student], plain[teacher])
    assert not torch.allclose(shaken[student], shaken[teacher], atol=0.1)
