import math

import pytest
import torch
from torch import nn

from holdfast.papers import p48_label_robust as p48
from holdfast.papers.p48_label_robust import PAPER


def test_smoke_run_measures_every_claim_and_control_with_the_same_bits_twice():
    first, second = PAPER.experiment("smoke", 100), PAPER.experiment("smoke", 100)
    assert first == second
    assert all(math.isfinite(claim.statistic(first)) for claim in PAPER.claims)
    for loss in ("ce", "mae", "gce", "ldr", "aldr1", "aldr10", "aldr"):
        assert {f"{loss}/acc@none", f"{loss}/acc@0.6"} <= first.keys()
    assert first["oracle/acc"] > 0.5


def test_stacked_networks_compute_what_single_ones_do():
    torch.manual_seed(100)
    stack = p48._StackedMLP(3, 5, 7, 4)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(6, 5)
    for i in range(3):
        one = torch.tanh(x @ stack.w1[i] + stack.b1[i]) @ stack.w2[i] + stack.b2[i]
        torch.testing.assert_close(stack(x)[i], one)


def test_stacked_convolutions_start_alike_and_do_not_mix():
    torch.manual_seed(100)
    stack, x = p48._StackedCNN(3, 4), torch.randn(2, 1, 28, 28)
    out = stack(x)
    assert out.shape == (3, 2, 4)
    torch.testing.assert_close(out[0], out[2])
    with torch.no_grad():
        first = next(m for m in stack.body if isinstance(m, nn.Conv2d))
        first.weight[16:32].zero_()
    moved = stack(x)
    torch.testing.assert_close(moved[[0, 2]], out[[0, 2]])
    assert not torch.allclose(moved[1], out[1])


def test_one_network_of_the_grid_is_trained_as_if_alone():
    world = p48._digits(100)
    rows = torch.arange(128)
    one = p48._Setting(lambda n, k: p48._StackedMLP(n, 64, 16, k), epochs=2, lrs=(0.03,))
    two = p48._Setting(lambda n, k: p48._StackedMLP(n, 64, 16, k), epochs=2, lrs=(0.03, 0.3))
    noisy = torch.stack([world.y, world.y.flip(0)])
    alone = p48._train(one, world, noisy[:1], rows, 100)
    grid = p48._train(two, world, noisy, rows, 100)
    for loss in range(len(p48._LOSSES)):
        for name in ("w1", "w2", "b1", "b2"):
            single = getattr(alone.stacks[0], name)[loss]
            torch.testing.assert_close(getattr(grid.stacks[0], name)[2 * loss], single, rtol=1e-3, atol=1e-5)


def test_constant_scores_lose_to_a_leader_above_one_half_alone():
    import numpy as np

    assert p48._constant_excess(np.array([0.45, 0.3, 0.25])) == pytest.approx(0, abs=1e-9)
    # With f_1 raised by t <= 1: risk q_1 (1 - t) + (1 - q_1)(1 + t), least at t = 1, which saves 2 q_1 - 1.
    assert p48._constant_excess(np.array([0.7, 0.2, 0.1])) == pytest.approx(0.4, abs=1e-9)
