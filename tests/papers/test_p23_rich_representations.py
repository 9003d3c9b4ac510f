from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, spawn_seed
from holdfast.core.training import train
from holdfast.papers import _multicue
from holdfast.papers._redundant_groups import draw
from holdfast.papers._stacked import JointStack, Stack, train_stack
from holdfast.papers.p23_rich_representations import PAPER

X, Y = draw(generator(0), 200, range(8), 0.0)
SIZES = [16, 8, 4, 2]


def test_smoke_run_gives_what_every_claim_needs_and_the_same_twice() -> None:
    first, again = PAPER.experiment("smoke", 100), PAPER.experiment("smoke", 100)
    assert first == again
    assert all(math.isfinite(v) for v in first.values())
    assert all(math.isfinite(claim.statistic(first)) for claim in PAPER.claims)
    assert len({claim.key for claim in PAPER.claims}) == len(PAPER.claims)


def test_carriers_say_the_class_by_the_product_of_their_inputs_and_others_do_not() -> None:
    x, y = draw(generator(0), 4000, [2], 0.0)
    sign = 2.0 * y - 1
    products = (x[:, 0::2] * x[:, 1::2] * sign[:, None]).mean(0)
    assert products[2] == pytest.approx(1, abs=0.05)
    assert products[[0, 1, 3, 4, 5, 6, 7]].abs().max() < 0.08
    assert (x * sign[:, None]).mean(0).abs().max() < 0.08


def test_flipped_groups_are_wrong_at_the_stated_rate() -> None:
    x, y = draw(generator(0), 8000, range(8), 0.1)
    agreement = (x[:, 0::2] * x[:, 1::2] * (2.0 * y - 1)[:, None]).mean()
    assert agreement == pytest.approx(0.8, abs=0.02)


def test_stacked_members_train_as_if_each_were_alone() -> None:
    seeds = [5, 6, 7]
    options = {"epochs": 3, "batch": 50, "lr": 3e-3, "weight_decay": 0.1}
    stack = Stack(SIZES, seeds)
    start = stack.members()
    train_stack(stack, X, Y, seeds, **options)
    for i, (seed, net) in enumerate(zip(seeds, start)):
        alone = Stack(SIZES, [seed])
        train_stack(alone, X, Y, [seed], **options)
        batches = Batches(BatchPlan(200, 50, seed=spawn_seed(seed, "order")), lambda rows: (X[rows], Y[rows]))
        train(
            net,
            lambda m, b, info: F.cross_entropy(m(b[0]), b[1]),
            batches,
            steps=12,
            lr=3e-3,
            weight_decay=0.1,
            device="cpu",
        )
        with torch.no_grad():
            together = stack.members()[i](X)
            torch.testing.assert_close(together, alone.members()[0](X), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together, net(X), atol=1e-4, rtol=1e-4)


def test_members_of_a_stack_answer_like_the_stack() -> None:
    stack = Stack(SIZES, [1, 2])
    with torch.no_grad():
        together = stack(X.expand(2, -1, -1))
        for logits, net in zip(together, stack.members()):
            torch.testing.assert_close(logits, net(X), atol=1e-5, rtol=1e-5)
        again = Stack.of(stack.members(), 2, [8, 9])
        torch.testing.assert_close(again.features(X.expand(2, -1, -1)), stack.features(X.expand(2, -1, -1)))


def test_joint_groups_see_their_own_members_and_data() -> None:
    stack = Stack(SIZES, range(6))
    joint = JointStack(stack, 2, seed=0)
    x = torch.stack([X, X.flip(0)])
    with torch.no_grad():
        features = joint.features(x)
        assert features.shape == (2, 200, 12)
        members = stack.members()
        expected = torch.cat([net.features(X.flip(0)) for net in members[3:]], 1)
        torch.testing.assert_close(features[1], expected, atol=1e-5, rtol=1e-5)


def test_large_experiment_runs_in_miniature() -> None:
    size = _multicue.Size(
        source=64,
        target=40,
        test=40,
        steps=2,
        few=20,
        fine_tune_steps=2,
        episodes=2,
        cat=2,
        widths=(4, 6),
        probe_iterations=2,
    )
    values = _multicue.experiment(0, "cpu", size)
    assert all(math.isfinite(v) for v in values.values())
    needed = PAPER.experiment("smoke", 100).keys()
    used = [claim for claim in PAPER.claims if not claim.key.startswith("growth")]
    assert all(math.isfinite(claim.statistic(values)) for claim in used)
    assert {"single/target", "cat/target", "distilled/target"} <= needed & values.keys()
    assert {"cat-vrex/shifted", "cat-erm/shifted", "single-vrex/shifted"} <= values.keys()


def test_every_cue_alone_shows_in_the_image() -> None:
    cues = torch.zeros(8, 4, dtype=torch.long)
    plain = _multicue.draw_images(cues, generator(0))
    for cue in range(4):
        other = cues.clone()
        other[:, cue] = 1
        assert (_multicue.draw_images(other, generator(0)) - plain).abs().amax((1, 2, 3)).min() > 0.1
