from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers.p44_inset import PAPER, _clouds, _digits, _odd_digits, _with_strangers, _zeros_and_ones


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for task in ("direction", "anomalies"):
        for row in ("deep-set", "alone", "random"):
            assert 0 <= values[f"{task}/{row}/mjc"] <= 1
    for task in ("direction", "anomalies", "classes", "far"):
        for row in ("none", "linear"):
            assert 0 <= values[f"{task}/{row}/mjc_size_unknown"] <= 1


def test_both_utilities_have_about_as_many_parameters(values):
    for task in ("direction", "anomalies", "classes", "far"):
        assert values[f"{task}/linear/parameters"] == pytest.approx(values[f"{task}/none/parameters"], rel=0.1)


def test_test_images_are_in_no_training_set():
    for make in (_odd_digits, _zeros_and_ones):
        task = _digits(300, 150, 2, 100, make)
        train, test = ({tuple(v.tolist()) for v in d.V.flatten(0, 1)} for d in (task.train, task.test))
        assert not train & test


def test_a_stranger_code_is_that_of_the_next_set_and_nothing_else_changes():
    task = _clouds(8, 4, 2, 100, "direction")
    model = task.mean_field("linear")
    V, S, valid = task.test[slice(0, 4)]
    strange = _with_strangers(model).utility
    same = V[:1].expand(4, -1, -1)
    torch.testing.assert_close(strange(same, S[:, None], valid), model.utility(same, S[:, None], valid))
    h = model.utility.features(V)
    torch.testing.assert_close(strange.ground(h, valid), model.utility.ground(h, valid).roll(1, 0))
    assert not torch.allclose(strange(V, S[:, None], valid), model.utility(V, S[:, None], valid))
