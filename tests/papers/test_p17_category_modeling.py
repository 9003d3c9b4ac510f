import math

import torch

from holdfast.papers._compositions import compositions
from holdfast.papers.p17_category_modeling import PAPER


def test_smoke_run_measures_every_claim_and_control_with_the_same_bits_twice():
    first, second = PAPER.experiment("smoke", 100), PAPER.experiment("smoke", 100)
    assert first == second
    assert all(math.isfinite(claim.statistic(first)) for claim in PAPER.claims)
    for row in (
        "hvcm",
        "untrained",
        "one_group",
        "many_groups",
        "frozen_centers",
        "msp",
        "energy",
        "knn",
        "mahalanobis",
    ):
        assert 0 <= first[f"{row}/auroc"] <= 1
    assert first["hvcm/acc"] > 0.8
    assert first["untrained/acc"] < 0.6
    for row in ("hvcm", "msp", "energy", "knn", "mahalanobis"):
        assert f"{row}_images_near/auroc" in first
        assert f"{row}_images_far/auroc" in first


def test_near_outliers_are_new_pairs_of_known_parts():
    world = compositions(100, 8, 4, 64, 32)
    assert world.x.shape == (64, 1, 32, 32)
    assert world.near.shape == (32, 1, 32, 32)
    assert sorted(world.y.unique().tolist()) == list(range(8))
    for images in (world.x, world.near, world.far):
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
    again = compositions(100, 8, 4, 64, 32)
    assert torch.equal(world.x, again.x)
    assert not torch.equal(world.x, compositions(101, 8, 4, 64, 32).x)
