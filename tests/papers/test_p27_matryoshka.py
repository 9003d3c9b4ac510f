from __future__ import annotations

import math

import torch

from holdfast.core.random import generator
from holdfast.nn.matryoshka import MatryoshkaHead
from holdfast.nn.network import Network
from holdfast.papers import _glyphs
from holdfast.papers.p27_matryoshka import PAPER


def test_smoke_run_gives_what_every_claim_needs_and_the_same_twice() -> None:
    first, again = PAPER.experiment("smoke", 100), PAPER.experiment("smoke", 100)
    assert first == again
    assert all(math.isfinite(v) for v in first.values())
    assert all(math.isfinite(claim.statistic(first)) for claim in PAPER.claims)
    assert len({claim.key for claim in PAPER.claims}) == len(PAPER.claims)


def test_controls_are_measured_at_every_length() -> None:
    values = PAPER.experiment("smoke", 101)
    for name in ("mrl", "mrl-e", "independent", "truncated", "pca", "random", "untrained"):
        assert {f"{name}/nn@{m}" for m in (2, 4, 8, 16, 32, 64)} <= values.keys()


def test_glyphs_of_a_class_are_nearer_than_of_others() -> None:
    glyphs = _glyphs.make_glyphs(0, 3, 2, 30)
    assert glyphs.x.shape == (180, 1, 32, 32)
    assert glyphs.x.dtype == torch.uint8
    assert torch.equal(glyphs.x, _glyphs.make_glyphs(0, 3, 2, 30).x)
    x, y, x_test, y_test = _glyphs.split(glyphs, 10)
    assert torch.bincount(y_test).tolist() == [10] * 6
    distances = torch.cdist(x_test.flatten(1).float(), x.flatten(1).float())
    assert (y[distances.argmin(1)] == y_test).float().mean() > 0.8


def test_large_experiments_run_in_miniature() -> None:
    glyphs = _glyphs.make_glyphs(0, 2, 2, 30)
    pairs = _glyphs.pair_experiment(glyphs, [8, 16], 0, "cpu", steps=3)
    assert set(pairs) == {f"{name}/nn@{m}" for name in ("pair-mrl", "pair-full") for m in (8, 16)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(_glyphs.encoder(16), MatryoshkaHead([8, 16], 4))
    clock = _glyphs.wall_clock(network.eval(), glyphs, 300, 0, n_queries=20)
    assert clock["clock/speedup"] > 0
    assert 0 <= clock["clock/adaptive_precision10"] <= 1


def test_renders_differ_within_a_class() -> None:
    strokes = torch.rand(1, 6, 2, 2, generator=generator(0)) * 1.6 - 0.8
    x = _glyphs.render(strokes, torch.zeros(2, dtype=torch.long), 0)
    assert not torch.equal(x[0], x[1])
