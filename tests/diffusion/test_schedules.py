"""Weights that change over training."""

import math

import pytest

from holdfast.diffusion.schedules import ExponentialDecay, weight_at


def test_a_weight_halves_every_half_life_and_stays_after_the_end():
    c = ExponentialDecay(0.7, half_life=120, until=600)
    assert c(0) == 0.7
    assert abs(c(120) - 0.35) < 1e-12
    values = [c(k) for k in range(0, 1000, 7)]
    assert values == sorted(values, reverse=True)
    assert c(600) == c(10_000) == 0.7 / 32


def test_it_begins_to_fall_when_told_and_an_infinite_half_life_keeps_it():
    late = ExponentialDecay(1.0, half_life=10, after=50)
    assert late(50) == 1
    assert late(60) == 0.5
    assert ExponentialDecay(0.3, math.inf)(10**9) == 0.3
    assert weight_at(0.4, 3) == weight_at(lambda step: 0.4, 3) == 0.4


def test_bad_weights_are_refused():
    for options, match in (
        ({"start": -1, "half_life": 1}, "start"),
        ({"start": 1, "half_life": -5}, "half_life"),
        ({"start": 1, "half_life": 0}, "half_life"),
        ({"start": 1, "half_life": 1, "after": 5, "until": 3}, "until"),
    ):
        with pytest.raises(ValueError, match=match):
            ExponentialDecay(**options)
