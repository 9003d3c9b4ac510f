from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers._aligned_digits import digit_world
from holdfast.papers.p22_erw import PAPER, _patches


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("base", "repa", "erw", "misplaced", "no-decay"):
        assert f"{row}/probe@aligned" in values
    assert {"warm/representation", "cold/representation", "warm/total"} <= values.keys()


def test_every_arm_spends_the_same_blocks(values):
    budget = digit_world("smoke").steps
    for arm in ("base", "repa", "erw", "misplaced", "no-decay"):
        assert abs(values[f"{arm}/full_steps"] - budget) <= 0.5


def test_patches_are_in_the_order_of_the_tokens():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert _patches(x, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
