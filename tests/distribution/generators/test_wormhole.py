from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.distribution.generators.wormhole import WormholeDecoder


class _Fixed(WormholeDecoder):
    """Decodes to the given sets."""

    def __init__(self, sets, **options):
        super().__init__(sets.shape[2], 2, set_size=sets.shape[1], **options)
        self.given = sets

    def decode(self, z):
        return self.given


def test_the_decoded_set_itself_has_no_error_and_a_moved_one_that_of_the_move():
    x = torch.randn(4, 16, 2, generator=generator(100))
    perfect = _Fixed(x, weight=0.0)
    z = torch.zeros(4, 2)
    assert float(perfect.loss(x, z)) == pytest.approx(0, abs=1e-3)
    moved = _Fixed(x + torch.tensor([3.0, 4.0]), weight=0.0)
    assert float(moved.loss(x, z)) == pytest.approx(25, rel=0.02)


def test_codes_whose_distances_are_those_of_the_sets_have_no_further_error():
    base = torch.randn(1, 16, 2, generator=generator(100))
    moves = torch.randn(6, 2, generator=generator(101))
    x = base + moves[:, None]
    model = _Fixed(x, weight=1.0, pairs=15)
    right, wrong = (float(model.loss(x, z, generator(102))) for z in (moves, torch.zeros(6, 2)))
    assert right == pytest.approx(0, abs=0.05 * wrong)
    assert wrong > 0


def test_it_learns_and_gives_its_own_size_only():
    torch.manual_seed(0)
    model = WormholeDecoder(2, 2, set_size=8, width=16, depth=1, heads=2)
    x, z = torch.randn(4, 8, 2), nn.Parameter(torch.randn(4, 2))
    model.loss(x, z, generator(100)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in [*model.parameters(), z])
    assert model.sample(z.detach(), 8).shape == (4, 8, 2)
    with pytest.raises(ValueError, match="sets of 8 points and cannot draw 9"):
        model.sample(z.detach(), 9)
    with pytest.raises(ValueError, match="made for sets of 8 points, got 5"):
        model.loss(x[:, :5], z)
