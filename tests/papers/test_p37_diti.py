from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.time_steps.attribute_error import loss_time
from holdfast.papers._textured_digits import textured_digits
from holdfast.papers._three_scales import FACTORS, clean_images, read_factors, three_scales
from holdfast.papers.p37_diti import PAPER, _edit_norms, _model, _ramps, _train


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("diti", "base", "pdae", "autoencoder", "untrained"):
        assert f"{row}/centroid_coarse" in values
    for row in ("frozen/noise_error@0", "diti/kept_coarse", "pdae/swapped_coarse", "untrained/probe_coarse@7"):
        assert row in values
    assert {f"diti/{row}_coarse" for row in ("all", "noise", "late+noise", "late+fresh")} <= values.keys()


def test_codes_that_are_trained_together_learn_what_each_learns_alone():
    s = replace(_ramps("smoke", 100), steps=5)
    together, alone = ([_model(s, arm, 100) for arm in ("diti", "pdae")] for _ in range(2))
    _train(s, together, 100)
    for one in alone:
        _train(s, [one], 100)
    for a, b in zip(together, alone):
        for p, q in zip(a.parameters(), b.parameters()):
            torch.testing.assert_close(p, q)


def test_every_seed_has_to_be_ordered():
    (claim,) = (c for c in PAPER.claims if c.key == "band-order")
    seeds = [{f"diti/centroid_{f}": v for f, v in zip(FACTORS, c)} for c in ([1, 2, 4], [1.0, 1.1, 3], [2, 1, 4])]
    verdicts = [claim.verdict([claim.statistic(v) for v in found]) for found in (seeds[:2], seeds)]
    assert verdicts[0] == "held"
    assert verdicts[1] != "held"


def test_edits_of_the_drawn_factors_are_as_far_apart_as_meant():
    fine, middle, coarse = (float(n.mean()) for n in _edit_norms())
    assert fine < middle < coarse
    times = [loss_time(n, DDPMSchedule(1000)) for n in (2.26, 5.4, 16.6)]
    assert times == sorted(times)


def test_factors_are_read_back_from_noisy_images():
    data = three_scales(200, 100)
    assert torch.equal(read_factors(data.x), data.factors)
    assert torch.equal(read_factors(clean_images(data.factors)), data.factors)


def test_textured_digits_have_factors_of_different_size_and_the_same_bytes_again():
    x, factors, norms = textured_digits(slice(0, 50), 100)
    assert x.shape == (50, 1, 32, 32)
    assert float(x.abs().max()) <= 1
    assert float(norms[0]) < float(norms[1:].min())
    assert torch.equal(textured_digits(slice(0, 50), 100)[0], x)
    assert factors.unique().tolist() == [0, 1]
