from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers.p45_attribute_cvae import PAPER, _Bench, _cvae, _Size


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


@pytest.fixture(scope="module")
def bench():
    return _Bench(_Size(images=600, judge_images=600, judge_steps=150, judged=300), 100)


class _Copies:
    """Answers a request with real faces: of its own attributes, or of those of another row."""

    def __init__(self, bench, obedient):
        self.bench, self.obedient = bench, obedient

    def sample(self, c, n, generator):
        x, _ = self.bench.faces("copies", len(c), c=c.numpy() if self.obedient else c.flip(0).numpy())
        assert n == 1
        return x[:, None]


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("cvae", "unconditional", "regressor", "standard/smallest", "standard/one", "standard/largest"):
        assert 0 <= values[f"{row}/accuracy"] <= 1
        assert math.isfinite(values[f"{row}/frechet"])


def test_a_deterministic_network_has_no_variety(values):
    assert values["regressor/variety"] < 1e-9


def test_real_faces_pass_for_samples_and_only_obedient_ones_for_control(bench):
    obedient, other = (bench.measure(_Copies(bench, o)) for o in (True, False))
    judged = bench.accuracy(bench.new_x, bench.new_c).overall
    assert obedient["accuracy"] == pytest.approx(judged, abs=0.05)
    assert other["accuracy"] < 0.65
    assert obedient["variety"] == pytest.approx(1.0, abs=0.15)
    assert abs(obedient["energy"]) < 0.05


def test_held_out_combinations_are_not_trained_on(bench):
    assert len(bench.combinations) == 6
    assert not bool((bench.c[:, None] == bench.combinations).all(-1).any())
    assert bool((bench.new_c[:, None] == bench.combinations).all(-1).any())
    assert bench.held_out(_Copies(bench, True)) > 0.8


def test_models_that_are_compared_start_and_draw_alike(bench):
    a, b = (bench.make(_cvae, beta=w) for w in (0.02, 5.0))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert torch.equal(bench.draw(a, bench.new_c, "x"), bench.draw(b, bench.new_c, "x"))
