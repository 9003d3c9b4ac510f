from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holdfast.nn.network import Network
from holdfast.papers import p14_relative
from holdfast.papers._word_spaces import random_rotation, word_spaces
from holdfast.papers.p14_relative import PAPER


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("absolute", "relative", "procrustes", "permuted"):
        assert f"{row}/acc_stitched" in values
        assert f"{row}/mse_stitched" in values
    for row in ("relative", "procrustes", "permuted"):
        assert f"words-50-64-{row}/mrr@30" in values


def test_rotations_leave_relative_vectors_where_they_are_whatever_the_training(values):
    assert values["rotated/relative_cosine_gap"] < 1e-5
    assert abs(values["rotated/absolute_cosine"]) < 0.15


def test_alignment_by_anchors_undoes_a_similarity_transform():
    torch.manual_seed(0)
    source = Network(nn.Linear(6, 4), nn.Linear(4, 3))
    q = random_rotation(4, torch.Generator().manual_seed(1)).float()
    moved = nn.Linear(6, 4)
    with torch.no_grad():
        moved.weight.copy_(2.5 * q.T @ source.encoder.weight)
        moved.bias.copy_(2.5 * source.encoder.bias @ q + 1.0)
        x = torch.randn(20, 6)
        aligned = p14_relative._Aligned(source, Network(moved, source.head), x)
        torch.testing.assert_close(aligned(x), source.head(moved(x)), atol=1e-4, rtol=1e-4)


def test_random_rotations_are_orthogonal_and_uniform_in_the_mean():
    rng = torch.Generator().manual_seed(0)
    draws = torch.stack([random_rotation(5, rng) for _ in range(500)])
    torch.testing.assert_close(draws @ draws.mT, torch.eye(5, dtype=torch.float64).expand(500, 5, 5))
    assert float(draws.mean(0).abs().max()) < 4 / (5 * 500) ** 0.5


def test_word_spaces_share_their_geometry_but_not_their_axes():
    first, second = word_spaces(100, n_words=120, tokens=1e6, dims=(20,))
    a, b = first[20], second[20]
    assert a.shape == b.shape == (120, 20)
    gram = torch.corrcoef(torch.stack([(a @ a.T).flatten(), (b @ b.T).flatten()]))[0, 1]
    axes = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
    assert float(gram) > 0.8
    assert abs(float(axes)) < 0.2
