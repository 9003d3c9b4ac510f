from __future__ import annotations

import math

import pytest

from holdfast.papers.p30_binary_latent import PAPER, _digits, _network, _toy


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("bae-8/mse", "bae-16/mse", "vq-256/mse", "gaussian-4/mse", "mean-image/mse", "untrained/mse"):
        assert values[row] > 0
    for row in ("flip/bce", "direct/bce", "independent-bits/bce", "untrained/bce", "coins/fd", "real/fd"):
        assert row in values


def test_untrained_bits_cost_ln_2_and_bounds_hold(values):
    assert values["untrained/bce"] == pytest.approx(math.log(2))
    assert 0 <= values["bae-16/dead_bits"] <= 1
    assert 0 <= values["bae-16/bit_entropy"] <= 1
    assert 1 <= values["vq-256/perplexity"] <= 256


def test_the_exact_kernel_comes_nearer_to_the_law_with_more_steps_and_the_published_one_does_not():
    law = _toy([16, 64])
    assert law["toy-mixture/tv@64"] < law["toy-mixture/tv@16"] < law["toy-coins/tv"]
    assert law["toy-plug-in/tv@64"] > 0.2


def test_priors_of_both_parametrisations_start_from_the_same_weights():
    s = _digits("smoke")
    a, b = (_network(s, 16, (2, 2), 100).state_dict() for _ in range(2))
    assert all((a[k] == b[k]).all() for k in a)
